//! What a process is born with, and what it must not depend on: blocked signals, timers, children, a terminal,
//! a stdout and a stderr that others share or nobody reads, a name server that does not answer.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Daemon, Folder, connect_path, eventually, expect_bytes, expect_end, have, leave,
    pattern, ping, stuff,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");
const ANY_PORT: &str = "tcp://127.0.0.1:0";

/// A process that prints no address, or where nobody can read it.
struct Mute(Child);

impl Mute {
    fn start(command: &mut Command) -> Mute {
        Mute(command.env_remove("RUST_LOG").stdin(Stdio::null()).spawn().expect("start"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || self.0.try_wait().expect("wait").is_some());
        self.0.wait().expect("wait")
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills a process that is nobody's child here, if the test has failed.
struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            signal(self.0, Signal::SIGKILL);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("kill");
}

/// The children of a process, zombies included.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("/proc");
    children.split_whitespace().map(|child| child.parse().expect("a process id")).collect()
}

/// A pipe into which not a byte more fits.
fn full_pipe() -> (std::io::PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("pipe");
    let flags = set_nonblocking(&writer, true);
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(flags)).expect("fcntl");
    (reader, writer)
}

/// Returns the flags before.
fn set_nonblocking(file: impl AsFd, on: bool) -> OFlag {
    let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL).expect("fcntl"));
    let mut changed = flags;
    changed.set(OFlag::O_NONBLOCK, on);
    fcntl(&file, FcntlArg::F_SETFL(changed)).expect("fcntl");
    flags
}

fn is_nonblocking(file: impl AsFd) -> bool {
    let flags = fcntl(&file, FcntlArg::F_GETFL).expect("fcntl");
    OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK)
}

// Signals

#[test]
fn a_blocked_sigterm_still_drains_the_daemon() {
    if !have("env", &["--block-signal=TERM", "true"]) {
        return;
    }
    let mut command = Command::new("env");
    command.args(["--block-signal", ECHOD, ANY_PORT]);
    let mut daemon = Daemon::spawn(&mut command);
    daemon.signal(Signal::SIGUSR1);
    assert_eq!(daemon.counters()["open"], 0);
    daemon.last_questions();
}

#[test]
fn signals_that_would_end_or_stop_a_process_by_default_do_nothing() {
    let daemon = Daemon::start(&[]);
    let mut stream = daemon.connect();
    for signal in [
        Signal::SIGXFSZ,
        Signal::SIGTTOU,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
    ] {
        daemon.signal(signal);
        ping(&mut stream, b"still here");
    }
    // Those before this one have been dealt with.
    daemon.signal(Signal::SIGUSR1);
    assert_eq!(daemon.counters()["open"], 1);
    ping(&mut stream, b"still here");
    leave(stream);
}

#[test]
fn an_alarm_that_was_set_before_the_start_drains_the_daemon() {
    if !have("perl", &["-e", "alarm 1"]) {
        return;
    }
    // How a time limit is set where there is no timeout(1).
    let mut command = Command::new("perl");
    command.args(["-e", "alarm 2; exec @ARGV", ECHOD, ANY_PORT]);
    let mut daemon = Daemon::spawn(&mut command);
    let mut stream = daemon.connect();
    ping(&mut stream, b"in time");
    expect_end(&mut stream);
    drop(stream);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.expect_counters_add_up();
}

#[test]
fn a_limit_of_processor_time_drains_and_its_reminders_cut_nothing_off() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let message = pattern(64 * 1024 * 1024, 1);
    let mut stalled = daemon.connect();
    let sent = stuff(&mut stalled, &message);
    daemon.signal(Signal::SIGXCPU);
    eventually("the drain begins", || daemon.log().contains("draining"));
    let began = Instant::now();
    // Longer than a repeated SIGTERM may take to be the same wish.
    eventually("reminders", || {
        daemon.signal(Signal::SIGXCPU);
        began.elapsed() > Duration::from_millis(500)
    });
    expect_bytes(&mut stalled, &message[..sent]);
    leave(stalled);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.expect_counters_add_up();
}

// Children

/// Children for as long as the stdin is open, then the daemon: orphans, and some that the shell leaves it.
const WITH_CHILDREN: &str = r#"
    exec 3<&0 </dev/null
    for i in 1 2 3 4 5; do (cat <&3 >/dev/null 2>&1 &); cat <&3 >/dev/null 2>&1 & done
    exec 3<&-; exec "$0" "$@""#;

#[test]
fn orphans_of_a_first_process_are_reaped() {
    if !have("unshare", &["-fp", "true"]) {
        return;
    }
    let (stdin, parent) = pipe().expect("pipe");
    let mut command = Command::new("unshare");
    command.args(["-fp", "--kill-child", "sh", "-c", WITH_CHILDREN, ECHOD, ANY_PORT]);
    let mut unshare = Daemon::spawn_between(stdin, Stdio::piped(), &mut command);
    // The command keeps the other end of the pipe open.
    drop(command);
    let first = children(unshare.pid())[0];
    assert_eq!(children(first).len(), 10);
    drop(parent);
    eventually("no child is left, not even a zombie", || children(first).is_empty());
    signal(first, Signal::SIGTERM);
    assert_eq!(unshare.wait().code(), Some(0));
    unshare.expect_counters_add_up();
}

#[test]
fn children_that_a_shell_leaves_to_the_daemon_are_reaped() {
    let (stdin, parent) = pipe().expect("pipe");
    let mut command = Command::new("sh");
    command.args(["-c", WITH_CHILDREN, ECHOD, ANY_PORT]);
    let daemon = Daemon::spawn_between(stdin, Stdio::piped(), &mut command);
    drop(command);
    assert_eq!(children(daemon.pid()).len(), 5);
    drop(parent);
    eventually("no child is left, not even a zombie", || children(daemon.pid()).is_empty());
}

// Where the log goes

#[test]
fn a_log_file_that_is_full_ends_nothing_and_what_it_lacks_is_counted() {
    let folder = Folder::new("full-log");
    let path = folder.path("log");
    // 8 blocks of 512 or 1024 bytes.
    let script = r#"ulimit -f 8; log=$1; shift; exec "$0" "$@" 2>>"$log""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, ECHOD, &path, "-vv", ANY_PORT]);
    let mut daemon = Daemon::spawn_logging_to(Stdio::null(), &mut command);
    let mut stream = daemon.connect();
    let is_full = |size: u64| [4096, 8192].contains(&size);
    eventually("the file is full", || {
        ping(&mut stream, b"one more line, and another one");
        is_full(fs::metadata(&path).expect("the log").len())
    });
    for _ in 0..100 {
        ping(&mut stream, b"goes on");
    }
    eventually("what was dropped is told", || {
        let log = fs::read_to_string(&path).expect("the log");
        // As logrotate's copytruncate. Lines that waited may fill the file again.
        if is_full(log.len() as u64) {
            File::options().write(true).open(&path).expect("open").set_len(0).expect("truncate");
        }
        ping(&mut stream, b"once more");
        log.contains("log lines were dropped")
    });
    leave(stream);
    daemon.last_questions();
}

#[test]
fn a_nonblocking_stderr_loses_no_line_for_which_there_is_time_and_stays_nonblocking() {
    let (mut reader, writer) = full_pipe();
    set_nonblocking(&writer, true);
    let ours = writer.try_clone().expect("one more file");
    let mut command = Command::new(ECHOD);
    command.args(["-v", ANY_PORT]);
    let mut daemon = Daemon::spawn_logging_to(writer, &mut command);
    drop(command);
    for _ in 0..20 {
        leave(daemon.connect());
    }
    assert!(is_nonblocking(&ours), "others write to it, too");
    drop(ours);
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).map(|_| log)
    });
    daemon.last_questions();
    drop(daemon);
    let log = log.join().expect("no panic").expect("the log");
    // With the helper's own at the start and at the end.
    assert_eq!(log.matches(" closed after ").count(), 22, "{log}");
    assert!(!log.contains("dropped"), "{log}");
}

#[test]
fn a_terminal_with_tostop_does_not_stop_a_daemon_in_the_background() {
    if !have("script", &["-qec", "stty tostop", "/dev/null"]) {
        return;
    }
    let folder = Folder::new("tostop");
    let (path, pid, log) = (folder.path("socket"), folder.path("pid"), folder.path("terminal"));
    let done = folder.path("done");
    // With -m a background job has a process group of its own, as at a prompt. Its stderr is the terminal. The
    // shell stays: when it ends, what it has left in the background is continued.
    let session = format!(
        "stty tostop; set -m; {ECHOD} -v unix:{path} >/dev/null & echo $! >{pid}.new; \
         mv {pid}.new {pid}; until [ -e {done} ]; do sleep 0.05; done"
    );
    let mut command = Command::new("script");
    command.args(["-qefc", &session, &log]).stdout(Stdio::null()).stderr(Stdio::null());
    // script takes its terminal's shell from there.
    let mut session = Mute::start(command.env("SHELL", "/bin/sh"));
    eventually("the daemon is there", || fs::exists(&pid).expect("look"));
    let pid = fs::read_to_string(&pid).expect("read").trim().parse().expect("a process id");
    let _killed = Killed(pid);
    for _ in 0..10 {
        let mut stream = connect_path(&path);
        ping(&mut stream, b"in the background");
        leave(stream);
    }
    signal(pid, Signal::SIGTERM);
    eventually("the daemon ends", || !fs::exists(&path).expect("look"));
    fs::write(done, "").expect("write");
    session.wait();
    let log = fs::read_to_string(log).expect("what was on the terminal");
    assert!(log.contains(" closed after "), "no test without a line on the terminal: {log}");
}

// Where nobody reads

#[test]
fn a_full_stdout_holds_up_neither_the_echo_nor_the_manager_nor_the_end() {
    let folder = Folder::new("full-stdout");
    let (path, log, manager) = (folder.path("socket"), folder.path("log"), folder.path("notify"));
    let manager_socket = UnixDatagram::bind(&manager).expect("bind");
    manager_socket.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    let (_unread, full) = full_pipe();
    let mut command = Command::new(ECHOD);
    command.arg(format!("unix:{path}")).env("NOTIFY_SOCKET", &manager);
    let log_file = OpenOptions::new().create(true).append(true).open(&log).expect("create");
    let mut daemon = Mute::start(command.stdout(full).stderr(log_file));
    let mut stream = connect_path(&path);
    ping(&mut stream, b"without an address");
    let mut message = [0; 64];
    let n = manager_socket.recv(&mut message).expect("a message");
    assert_eq!(&message[..n], b"READY=1");
    signal(daemon.pid(), Signal::SIGTERM);
    expect_end(&mut stream);
    drop(stream);
    assert_eq!(daemon.wait().code(), Some(0));
    let log = fs::read_to_string(&log).expect("the log");
    assert!(log.contains("cannot print the addresses: nobody reads stdout"), "{log}");
}

#[test]
fn a_usage_error_ends_with_its_code_although_nobody_reads_stderr() {
    for is_shared in [false, true] {
        let (_unread, full) = full_pipe();
        set_nonblocking(&full, is_shared);
        let mut command = Command::new(ECHOD);
        let mut daemon = Mute::start(command.arg("--no-such-option").stderr(full));
        assert_eq!(daemon.wait().code(), Some(2));
    }
}

// A name that is looked up

/// Becomes a process for which every name server is silent: its packets leave by the loopback device and
/// belong to nobody. Its first argument is the file in place of /etc/resolv.conf.
const WITHOUT_AN_ANSWER: &str = r#"
    ip link set lo up && ip route add 192.0.2.0/24 dev lo && mount --bind "$1" /etc/resolv.conf || exit 99
    shift; exec "$0" "$@""#;

/// A daemon that waits for the address of a name. The guard of the file is to be kept.
fn looking_up(unshare: &str, name: &str) -> Option<(Mute, Folder)> {
    if !have("unshare", &["-rmn", "ip", "link"]) || !have("unshare", &[unshare, "true"]) {
        return None;
    }
    let folder = Folder::new(name);
    let servers = folder.path("resolv.conf");
    fs::write(&servers, "nameserver 192.0.2.1\noptions timeout:30 attempts:5\n").expect("write");
    let mut command = Command::new("unshare");
    command.args([unshare, "sh", "-c", WITHOUT_AN_ANSWER, ECHOD, &servers]);
    command.arg("tcp://silent.example:0").stdout(Stdio::null()).stderr(Stdio::piped());
    Some((Mute::start(&mut command), folder))
}

/// Waits until the process has asked the name server.
#[track_caller]
fn expect_question(pid: impl Fn() -> Option<u32>) -> u32 {
    let mut found = None;
    // 192.0.2.1, in the byte order of the file.
    eventually("it asks the name server", || {
        found = pid().filter(|pid| {
            let sockets = fs::read_to_string(format!("/proc/{pid}/net/udp")).unwrap_or_default();
            sockets.contains("010200C0:0035")
        });
        found.is_some()
    });
    found.expect("a process")
}

#[test]
fn a_signal_while_a_name_is_looked_up_ends_the_start_at_once_and_others_do_not() {
    let Some((mut daemon, _folder)) = looking_up("-rmn", "slow-name") else { return };
    let pid = expect_question(|| Some(daemon.pid()));
    for harmless in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM] {
        signal(pid, harmless);
    }
    signal(pid, Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let mut error = String::new();
    daemon.0.stderr.take().expect("piped").read_to_string(&mut error).expect("stderr");
    assert_eq!(error, "");
}

#[test]
fn a_first_process_is_ended_while_it_looks_up_a_name_too() {
    let Some((mut daemon, _folder)) = looking_up("-rmnpf", "slow-name-1") else { return };
    let unshare = daemon.pid();
    let pid = expect_question(|| children(unshare).first().copied());
    signal(pid, Signal::SIGUSR1);
    signal(pid, Signal::SIGINT);
    assert_eq!(daemon.wait().code(), Some(0));
}

// What cannot be made

#[test]
fn what_the_loop_needs_and_cannot_be_made_is_named_and_so_is_what_to_do() {
    if !have("strace", &["-e", "inject=clone3:error=EAGAIN", "true"]) {
        return;
    }
    let files = "raise the limit of open files";
    for (calls, words) in [
        ("clone3,clone:error=EAGAIN", ["thread for the log", "ulimit -u, pids.max"]),
        ("clone3,clone:error=EAGAIN:when=2+", ["thread for the addresses", "ulimit -u, pids.max"]),
        ("epoll_create1,eventfd2,pipe2:error=EMFILE", ["cannot make a poll", files]),
        ("socketpair:error=EMFILE", ["cannot make a socket pair to wake the loop", files]),
        ("socketpair:error=EMFILE:when=2", ["cannot make a pipe for the signals", files]),
        ("socket:error=EMFILE", ["cannot listen on tcp://127.0.0.1:0", files]),
        ("socket:error=ENFILE", ["cannot listen on tcp://127.0.0.1:0", "fs.file-max"]),
    ] {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={calls}")]);
        // Quiet, since the limits are logged before the second thread is made.
        command.args([ECHOD, "-q", ANY_PORT]);
        common::expect_error(&mut command, 1, &words);
    }
}
