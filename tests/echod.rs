//! The daemon as its operator meets it: what it prints, takes and returns.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, pipe};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread;

use common::{Daemon, connect, eventually, expect_end, have, leave, pattern, ping, stuff};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

/// Runs what is expected to end by itself.
#[track_caller]
fn output(command: &mut Command) -> Output {
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    eventually("the command ends", || child.try_wait().expect("wait").is_some());
    child.wait_with_output().expect("output")
}

/// Expects one line on stderr, with these words, and this exit code.
#[track_caller]
fn expect_error(command: &mut Command, code: i32, words: &[&str]) {
    let output = output(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(output.stdout, b"", "stdout is for addresses");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in {stderr}");
    }
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn without_arguments_it_serves_the_tutorials_port() {
    if TcpListener::bind("127.0.0.1:65432").is_err() {
        // Somebody tries the README's first command meanwhile. Then it says that it wanted that port.
        return expect_error(&mut Command::new(ECHOD), 1, &["tcp://127.0.0.1:65432", "in use"]);
    }
    let daemon = Daemon::spawn(&mut Command::new(ECHOD));
    assert_eq!(daemon.addresses, ["127.0.0.1:65432".parse().expect("address")]);
    ping(&mut daemon.connect(), b"Hello, world");
}

#[test]
fn several_endpoints_are_printed_in_order_and_served_at_once() {
    let mut command = Command::new(ECHOD);
    command.args(["127.0.0.2:0", "tcp://127.0.0.1:0", "localhost:0"]);
    let daemon = Daemon::spawn(&mut command);
    let hosts: Vec<_> = daemon.addresses.iter().map(|a| a.ip().to_string()).collect();
    assert_eq!(hosts[..3], ["127.0.0.2", "127.0.0.1", "127.0.0.1"]);
    let mut streams: Vec<_> = daemon.addresses.iter().map(|&a| connect(a)).collect();
    for stream in &mut streams {
        ping(stream, b"here too");
    }
}

#[test]
fn every_interface_is_served_on_one_port_v4_before_v6() {
    let mut command = Command::new(ECHOD);
    command.arg(":0");
    let daemon = Daemon::spawn(&mut command);
    assert!(daemon.addresses[0].is_ipv4());
    if TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("NOT RUN: this test needs IPv6");
    }
    let port = daemon.addresses[0].port();
    let expected: [SocketAddr; 2] = [([0; 4], port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
    assert_eq!(daemon.addresses, expected);
    ping(&mut connect(([127, 0, 0, 1], port).into()), b"four");
    ping(&mut connect((Ipv6Addr::LOCALHOST, port).into()), b"six");
}

#[test]
fn a_port_that_is_taken_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let endpoint = format!("tcp://{}", taken.local_addr().expect("address"));
    expect_error(
        Command::new(ECHOD).arg(&endpoint),
        1,
        &["cannot listen on", &endpoint, "in use", "choose another port"],
    );
}

#[test]
fn a_host_that_is_unknown_is_one_clear_line() {
    expect_error(
        Command::new(ECHOD).arg("no-such-host.invalid:7"),
        1,
        &["cannot resolve tcp://no-such-host.invalid:7"],
    );
}

#[test]
fn an_address_of_another_machine_is_one_clear_line() {
    expect_error(
        Command::new(ECHOD).arg("203.0.113.1:0"),
        1,
        &["cannot listen on tcp://203.0.113.1:0", "address of this machine"],
    );
}

#[test]
fn a_port_without_permission_is_one_clear_line() {
    // Root may bind any port, so root asks as nobody, from where nobody can start it.
    let folder = std::env::temp_dir().join(format!("echod-nobody-{}", std::process::id()));
    fs::create_dir(&folder).expect("folder");
    let copy = folder.join("echod");
    fs::copy(ECHOD, &copy).expect("copy");
    let mut command = Command::new(&copy);
    command.arg("127.0.0.1:7");
    if Uid::effective().is_root() {
        command.uid(65_534).gid(65_534);
    }
    expect_error(&mut command, 1, &["tcp://127.0.0.1:7", "denied", "CAP_NET_BIND_SERVICE"]);
    fs::remove_dir_all(folder).expect("clean up");
}

#[test]
fn bad_words_are_usage_errors_that_name_the_word() {
    for (arguments, words) in [
        (&["--max-connections", "0"][..], &["--max-connections", "at least 1"][..]),
        (&["--max-connections", "ten"], &["'ten'", "a count like"]),
        (&["--max-buffer", "64B"], &["'64B'", "a size like"]),
        (&["--max-buffer", "1023"], &["buffer", "1KiB"]),
        (&["--max-buffer", "1025M"], &["buffer", "1024MiB"]),
        (&["--idle-timeout", "10"], &["'10'", "a duration like"]),
        (&["--keepalive", "500ms"], &["keepalive", "1s"]),
        (&["--keepalive", "10h"], &["keepalive", "32767s"]),
        (&["--drain-timeout", "soon"], &["'soon'"]),
        (&["--backlog", "0"], &["--backlog", "at least 1"]),
        (&["--no-such-option"], &["--no-such-option"]),
        (&["--max-bufer", "1K"], &["--max-bufer", "a similar argument", "--max-buffer"]),
        (&["localhost"], &["'localhost'", "no port"]),
        (&["udp://localhost:7"], &["unknown scheme `udp`"]),
        (&["::1:7"], &["brackets"]),
    ] {
        expect_error(Command::new(ECHOD).args(arguments), 2, words);
    }
}

#[test]
fn help_shows_every_option_with_its_default_and_version_works() {
    let help = output(Command::new(ECHOD).arg("--help"));
    let text = String::from_utf8_lossy(&help.stdout);
    for word in [
        "tcp://127.0.0.1:65432",
        "--max-connections",
        "--max-buffer",
        "64KiB",
        "--idle-timeout",
        "--drain-timeout",
        "10s",
        "--keepalive",
        "60s",
        "--backlog",
        "4096",
        "--verbose",
        "--quiet",
        "128 + N",
    ] {
        assert!(text.contains(word), "no {word:?} in the help:\n{text}");
    }
    let version = output(Command::new(ECHOD).arg("--version"));
    let expected = concat!("echod ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8_lossy(&version.stdout), expected);
    assert_eq!((help.status.code(), version.status.code()), (Some(0), Some(0)));
}

#[test]
fn the_log_follows_v_and_q_and_rust_log_wins() {
    for (options, rust_log, debug, info) in [
        (&[][..], None, false, true),
        (&["-v"], None, true, true),
        (&["-q"], None, false, false),
        (&["-q", "-v", "-v"], None, true, true),
        (&["-qqq"], Some("debug"), true, true),
        (&["-vv"], Some("off"), false, false),
    ] {
        // By way of env, since the helper leaves RUST_LOG out.
        let mut command = Command::new("env");
        command.args(rust_log.map(|level| format!("RUST_LOG={level}")));
        let mut daemon = Daemon::spawn(command.arg(ECHOD).args(options).arg("127.0.0.1:0"));
        leave(daemon.connect());
        daemon.last_questions();
        let log = daemon.log();
        assert_eq!(log.contains("DEBUG"), debug, "{options:?} {rust_log:?}: {log}");
        assert_eq!(log.contains("INFO"), info, "{options:?} {rust_log:?}: {log}");
    }
}

#[test]
fn a_stderr_that_nobody_reads_stops_neither_the_echo_nor_the_end() {
    let (reader, writer) = pipe().expect("pipe");
    let mut command = Command::new(ECHOD);
    let mut daemon = Daemon::spawn_logging_to(writer, command.args(["-v", "127.0.0.1:0"]));
    // Two lines of a hundred bytes each; the pipe holds 64 KiB, the queue a thousand lines.
    for _ in 0..3000 {
        let mut stream = daemon.connect();
        ping(&mut stream, b"still here?");
    }
    daemon.last_questions();
    drop(reader);
}

#[test]
fn dropped_log_lines_are_counted_once_stderr_is_read_again() {
    let (mut reader, writer) = pipe().expect("pipe");
    let mut command = Command::new(ECHOD);
    let mut daemon = Daemon::spawn_logging_to(writer, command.args(["-v", "127.0.0.1:0"]));
    drop(command);
    for _ in 0..3000 {
        leave(daemon.connect());
    }
    let log = thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).expect("log");
        log
    });
    daemon.last_questions();
    drop(daemon);
    let log = log.join().expect("log");
    assert!(log.contains("log lines were dropped"), "{} bytes of log", log.len());
}

#[test]
fn a_stderr_that_is_gone_harms_nothing() {
    let (reader, writer) = pipe().expect("pipe");
    drop(reader);
    let mut command = Command::new(ECHOD);
    let daemon = Daemon::spawn_logging_to(writer, command.args(["-v", "127.0.0.1:0"]));
    for _ in 0..100 {
        ping(&mut daemon.connect(), b"without a log");
    }
}

#[test]
fn a_stdout_that_is_gone_is_a_warning() {
    let (reader, writer) = pipe().expect("pipe");
    drop(reader);
    let mut child = Command::new(ECHOD)
        .arg("127.0.0.1:0")
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let warned = log.any(|line| line.expect("log").contains("cannot print the addresses"));
    assert!(warned, "the daemon ended instead");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("kill");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn an_option_is_obeyed_by_every_connection() {
    // The smallest buffer still carries everything, and a stalled reader is cut off in time.
    let options = ["--max-buffer", "1KiB", "--idle-timeout", "1s", "--keepalive", "30s"];
    let daemon = Daemon::start(&options);
    let message = pattern(64 * 1024 * 1024, 1);
    let mut stalled = daemon.connect();
    stuff(&mut stalled, &message);
    daemon.expect_files_back();
    let mut stream = daemon.connect();
    ping(&mut stream, &message[..100_000]);
    if have("ss", &["-V"]) {
        let peer = format!("sport = :{}", daemon.address().port());
        let shown = output(Command::new("ss").args(["-tnoi", "state", "established", &peer]));
        let shown = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.contains("timer:(keepalive,"), "no keepalive: {shown}");
    }
}

#[test]
fn pid_1_ends_on_sigterm() {
    if !have("unshare", &["-fp", "true"]) {
        return;
    }
    // PID 1 of a namespace has no default actions: without a handler a signal is ignored.
    let mut command = Command::new("unshare");
    command.args(["-fp", "--kill-child", ECHOD, "127.0.0.1:0"]);
    let mut unshare = Daemon::spawn(&mut command);
    let mut stream = unshare.connect();
    ping(&mut stream, b"first process");
    let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
    let pid = fs::read_to_string(children).expect("/proc").trim().parse().expect("one child");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("kill");
    expect_end(&mut stream);
    drop(stream);
    assert_eq!(unshare.wait().code(), Some(0));
}
