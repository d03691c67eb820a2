//! The daemon as its operator meets it: what it prints, takes and returns.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, pipe};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::{Daemon, connect, expect_error, have, output, pattern, ping, stuff};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

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
fn a_service_is_looked_up_by_its_name() {
    let services = fs::read_to_string("/etc/services").unwrap_or_default();
    if !services.lines().any(|line| line.starts_with("discard") && line.contains("9/tcp")) {
        return eprintln!("NOT RUN: this test needs `discard` in /etc/services");
    }
    // Whether it may be bound, or is taken, depends on the machine: its number does not.
    let mut child = Command::new(ECHOD)
        .arg("127.0.0.1:discard")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("stdout");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("kill");
    let output = child.wait_with_output().expect("output");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let named = "cannot listen on tcp://127.0.0.1:discard";
    assert!(line == "tcp://127.0.0.1:9\n" || stderr.contains(named), "{line}{stderr}");
}

#[test]
fn a_service_that_is_unknown_is_one_clear_line() {
    expect_error(
        Command::new(ECHOD).arg("localhost:no-such-service"),
        1,
        &["cannot resolve tcp://localhost:no-such-service", "give the port's number"],
    );
}

#[test]
fn a_congestion_control_that_the_kernel_lacks_is_one_clear_line() {
    expect_error(
        Command::new(ECHOD).args(["--congestion", "no-such", "127.0.0.1:0"]),
        1,
        &["congestion control `no-such`", "tcp_available_congestion_control"],
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
fn an_ipv6_address_that_cannot_be_bound_is_one_clear_line_that_says_what_to_write() {
    if TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("NOT RUN: this test needs IPv6");
    }
    for (endpoint, words) in [
        ("[fe80::1]:0", &["cannot listen on tcp://[fe80::1]:0", "[fe80::1%eth0]"][..]),
        ("udp://[fe80::1]:0", &["cannot listen on udp://[fe80::1]:0", "[fe80::1%eth0]"]),
        ("[fe80::1%lo]:0", &["cannot listen on", "address of this machine"]),
        ("[fe80::1%no-such]:0", &["cannot resolve tcp://[fe80::1%no-such]:0", "an interface of"]),
        ("[2001:db8::1%lo]:0", &["cannot resolve", "a zone goes with a link-local address"]),
        ("[::ffff:127.0.0.1]:0", &["cannot listen on", "is written as it is: 127.0.0.1"]),
        ("udp://[::ffff:127.0.0.1]:0", &["cannot listen on", "is written as it is: 127.0.0.1"]),
        ("[ff02::1]:0", &["cannot listen on", "a multicast address belongs to no machine"]),
        ("[ff0e::1]:0", &["cannot listen on", "a multicast address belongs to no machine"]),
        ("[2001:db8::1]:0", &["cannot listen on", "address of this machine"]),
        ("[::127.0.0.1]:0", &["cannot listen on", "address of this machine"]),
    ] {
        expect_error(Command::new(ECHOD).arg(endpoint), 1, words);
    }
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
        (&["--max-buffer", "1025M"], &["buffer", "1GiB"]),
        (&["--max-buffer", "9223372036854775808"], &["buffer", "1GiB"]),
        (&["--idle-timeout", "10"], &["'10'", "a duration like"]),
        (&["--keepalive", "500ms"], &["keepalive", "1s"]),
        (&["--keepalive", "10h"], &["keepalive", "32767s"]),
        (&["--drain-timeout", "soon"], &["'soon'"]),
        (&["--backlog", "0"], &["--backlog", "at least 1"]),
        (&["--no-such-option"], &["--no-such-option"]),
        (&["--max-bufer", "1K"], &["--max-bufer", "a similar argument", "--max-buffer"]),
        (&["--max-connections-per-ip", "0"], &["--max-connections-per-ip", "at least 1"]),
        (&["--unix-mode", "888"], &["'888'", "octal"]),
        (&["--stats-interval", "1"], &["'1'", "a duration like"]),
        (&["--metrics", "unix:/m"], &["--metrics", "HOST:PORT"]),
        (&["--metrics", "9090"], &["--metrics", "no port"]),
        (&["localhost"], &["'localhost'", "no port"]),
        (&["unix:"], &["'unix:'", "no path"]),
        (&["sctp://localhost:7"], &["unknown scheme `sctp`"]),
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
        "--max-connections-per-ip",
        "--reuse-port",
        "--unix-mode",
        "--busy-poll",
        "--congestion",
        "--framing",
        "--stats-interval",
        "--metrics",
        "unix:PATH",
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
