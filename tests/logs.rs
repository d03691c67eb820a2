//! What the daemon says on stderr, and what becomes of it when nobody listens.

mod common;

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{Daemon, eventually, leave, ping, reset};
use nix::sys::signal::Signal;

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

/// A daemon whose log goes into a pipe.
fn logging_to(pipe: PipeWriter, options: &[&str]) -> Daemon {
    // The command keeps the pipe open for as long as it lives.
    Daemon::spawn_logging_to(pipe, Command::new(ECHOD).args(options).arg("127.0.0.1:0"))
}

fn read_to_end(mut log: PipeReader) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).expect("log");
        text
    })
}

/// So many pings that at level trace, with three lines each, 100,000 lines are logged.
fn ping_for_100_000_lines(daemon: &Daemon) {
    let mut stream = daemon.connect();
    // Two lines each at least: what recv answers, and what send answers.
    for _ in 0..51_000 {
        ping(&mut stream, b"still here?");
    }
    leave(stream);
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
        (&["-v"], Some(""), true, true),
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
    let (unread, writer) = pipe().expect("pipe");
    let mut daemon = logging_to(writer, &["-vv"]);
    ping_for_100_000_lines(&daemon);
    daemon.signal(Signal::SIGTERM);
    let asked = Instant::now();
    assert_eq!(daemon.wait().code(), Some(0));
    // Half a second for the last words, and what a busy machine takes.
    assert!(asked.elapsed() < Duration::from_secs(5), "held up for {:?}", asked.elapsed());
    drop(unread);
}

#[test]
fn dropped_log_lines_are_counted_once_stderr_is_read_again() {
    let (unread, writer) = pipe().expect("pipe");
    let mut daemon = logging_to(writer, &["-vv"]);
    ping_for_100_000_lines(&daemon);
    let log = read_to_end(unread);
    daemon.last_questions();
    drop(daemon);
    let log = log.join().expect("log");
    let dropped = log.lines().find_map(|line| line.strip_suffix("too slow for them or failed"));
    let dropped = dropped.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or(0);
    let written = log.lines().count();
    assert!(dropped > 90_000, "{dropped} dropped, {written} written");
    assert!(dropped + written > 100_000, "{dropped} dropped, {written} written");
}

#[test]
fn a_rust_log_that_cannot_be_read_is_a_warning_and_stops_no_start() {
    let words = |stderr: PipeWriter| {
        // By way of env, since the helper leaves RUST_LOG out.
        let mut command = Command::new("env");
        command.args(["RUST_LOG=a=b=c", ECHOD, "127.0.0.1:0"]);
        Daemon::spawn_logging_to(stderr, &mut command)
    };
    let (reader, writer) = pipe().expect("pipe");
    drop(words(writer));
    assert!(read_to_end(reader).join().expect("log").contains("RUST_LOG is left out"));
    let (reader, writer) = pipe().expect("pipe");
    drop(reader);
    drop(words(writer));
    let (unread, mut writer) = pipe().expect("pipe");
    // One write fewer than would wait for ever: a pipe holds 16 pages.
    writer.write_all(&vec![b'\n'; 65_536]).expect("a full pipe");
    drop(words(writer));
    drop(unread);
}

#[test]
fn a_stderr_that_is_gone_harms_nothing() {
    let (reader, writer) = pipe().expect("pipe");
    drop(reader);
    let daemon = logging_to(writer, &["-v"]);
    for _ in 0..100 {
        ping(&mut daemon.connect(), b"without a log");
    }
}

/// The line that says what became of the connection of this peer.
#[track_caller]
fn epitaph(daemon: &Daemon, peer: &str) -> String {
    let mut found = None;
    eventually("the connection's last line", || {
        let log = daemon.log();
        let mut lines = log.lines().filter(|line| line.contains(peer));
        found = lines.find(|line| line.contains(" closed after ")).map(str::to_owned);
        found.is_some()
    });
    found.unwrap_or_default()
}

#[test]
fn at_debug_a_connections_life_is_two_lines_with_peer_bytes_duration_and_cause() {
    let daemon = Daemon::start(&["-v", "--idle-timeout", "1s"]);
    let served = daemon.connect();
    let resetting = daemon.connect();
    let idle = daemon.connect();
    let peers = [&served, &resetting, &idle].map(|stream| stream.local_addr().expect("address"));
    for mut stream in [&served, &resetting, &idle] {
        stream.write_all(b"hello").expect("send");
        let mut back = [0; 5];
        stream.read_exact(&mut back).expect("receive");
    }
    leave(served);
    reset(resetting);
    for (peer, cause) in peers.iter().zip(["its peer ended it", "reset by peer", "it was idle"]) {
        let peer = format!("from tcp://{peer}");
        let epitaph = epitaph(&daemon, &peer);
        assert!(epitaph.contains("5 bytes in, 5 bytes out"), "{epitaph}");
        assert!(epitaph.contains(cause), "no {cause:?} in {epitaph}");
        let log = daemon.log();
        let lines = log.lines().filter(|line| line.contains(&peer)).count();
        assert_eq!(lines, 2, "{log}");
    }
    drop(idle);
}

#[test]
fn at_trace_the_log_shows_the_events_and_what_each_call_answered() {
    let daemon = Daemon::start(&["-vv"]);
    let before = daemon.log().len();
    let mut stream = daemon.connect();
    ping(&mut stream, b"hello");
    leave(stream);
    let expected = [
        "a connection waits",
        "from tcp://",
        "accept answers WouldBlock",
        "readable",
        "recv answers Ok(Bytes(5))",
        "send answers Ok(Bytes(5))",
        "recv answers Ok(EndOfStream)",
        "its peer ended it",
    ];
    eventually("the trace of an echo", || {
        let log = daemon.log();
        let mut rest = &log[before..];
        expected.iter().all(|&step| match rest.split_once(step) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        })
    });
}
