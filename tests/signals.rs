//! Signals and statistics: what the daemon says of itself while it runs.

mod common;

use std::fs;
use std::process::Command;

use common::{Daemon, eventually, expect_end, have, leave, ping, reset, stuff};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

/// Lines of the log with these words.
fn lines(daemon: &Daemon, words: &str) -> usize {
    daemon.log().lines().filter(|line| line.contains(words)).count()
}

#[test]
fn sigusr1_logs_the_counters_and_changes_nothing() {
    let daemon = Daemon::start(&[]);
    let mut stream = daemon.connect();
    ping(&mut stream, b"twelve bytes");
    for round in 1..=3 {
        daemon.signal(Signal::SIGUSR1);
        eventually("a line of counters", || lines(&daemon, " accepted=") == round);
    }
    let counters = daemon.counters();
    // The daemon's first client was the helper's own.
    assert_eq!((counters["accepted"], counters["open"]), (2, 1));
    assert_eq!((counters["bytes_in"], counters["bytes_out"]), (20, 20));
    assert!(counters["longest_turn_us"] > 0, "{counters:?}");
    ping(&mut stream, b"and on");
}

#[test]
fn sighup_is_logged_and_changes_nothing() {
    let daemon = Daemon::start(&[]);
    let mut stream = daemon.connect();
    daemon.signal(Signal::SIGHUP);
    eventually("it is logged", || lines(&daemon, "SIGHUP") == 1);
    ping(&mut stream, b"still the same connection");
}

#[test]
fn a_signal_that_only_asks_is_answered_during_the_drain_too() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let mut stalled = daemon.connect();
    stuff(&mut stalled, &common::pattern(64 * 1024 * 1024, 1));
    daemon.signal(Signal::SIGTERM);
    eventually("the drain begins", || lines(&daemon, "draining") == 1);
    daemon.signal(Signal::SIGUSR1);
    daemon.signal(Signal::SIGHUP);
    eventually("a line of counters", || lines(&daemon, " accepted=") == 1);
    eventually("SIGHUP is logged", || lines(&daemon, "SIGHUP") == 1);
    assert_eq!(daemon.end_at_once(Signal::SIGINT).code(), Some(130));
    daemon.expect_counters_add_up();
    assert!(daemon.counters()["bytes_unsent"] > 0, "{:?}", daemon.counters());
}

#[test]
fn every_stats_interval_there_is_a_line_of_counters() {
    let daemon = Daemon::start(&["--stats-interval", "50ms"]);
    eventually("lines of counters", || lines(&daemon, " accepted=1 open=0 ") >= 3);
    let mut stream = daemon.connect();
    ping(&mut stream, b"hello");
    eventually("a line that counts the newcomer", || lines(&daemon, " accepted=2 open=1 ") >= 1);
}

/// One that sends, and never reads what it is owed.
fn stalled(daemon: &Daemon) -> std::net::TcpStream {
    let mut stream = daemon.connect();
    stuff(&mut stream, &common::pattern(64 * 1024 * 1024, 1));
    stream
}

/// Ends the daemon, and expects these to have ended so many connections each, beside the helper's one.
#[track_caller]
fn expect_causes(daemon: &mut Daemon, expected: [(&str, u64); 5]) {
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.expect_counters_add_up();
    let counters = daemon.counters();
    for (cause, n) in expected {
        assert_eq!(counters[&format!("closed_{cause}")], n, "{cause}: {counters:?}");
    }
}

#[test]
fn each_connection_is_counted_by_what_ended_it() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1s"]);
    for _ in 0..3 {
        leave(daemon.connect());
    }
    for _ in 0..2 {
        let mut stream = daemon.connect();
        ping(&mut stream, b"hello");
        reset(stream);
    }
    let stalled = stalled(&daemon);
    let mut settled = daemon.connect();
    ping(&mut settled, b"hello");
    let causes = [("peer", 4), ("error", 2), ("idle", 0), ("drain", 1), ("cut_off", 1)];
    expect_causes(&mut daemon, causes);
    assert!(daemon.counters()["bytes_unsent"] > 0, "{:?}", daemon.counters());
    expect_end(&mut settled);
    drop(stalled);
}

#[test]
fn who_is_idle_before_the_drain_or_owed_and_idle_in_it_is_counted_as_idle() {
    // Longer than it takes to stall, on a busy machine too.
    let mut daemon = Daemon::start(&["--idle-timeout", "3s", "--drain-timeout", "1h"]);
    let mut idle = daemon.connect();
    expect_end(&mut idle);
    drop(idle);
    let stalled = stalled(&daemon);
    let causes = [("peer", 1), ("error", 0), ("idle", 2), ("drain", 0), ("cut_off", 0)];
    expect_causes(&mut daemon, causes);
    assert!(daemon.counters()["bytes_unsent"] > 0, "{:?}", daemon.counters());
    drop(stalled);
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
    unshare.expect_counters_add_up();
}
