//! The end: every byte that was taken comes back, and it comes in bounded time.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use common::{
    Daemon, InProcess, any_port, eventually, expect_bytes, expect_end, halt, pattern, ping, resume,
    stuff,
};
use echoloop::{Config, Server, StopReason};
use nix::sys::signal::Signal;

const MIB: usize = 1024 * 1024;

/// All that is left to be read, up to a clean end.
#[track_caller]
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end, not a reset");
    rest
}

#[test]
fn sigterm_with_megabytes_in_flight_gives_every_byte_back_then_the_end() {
    let mut daemon = Daemon::start(&[]);
    let message = pattern(64 * MIB, 1);
    let mut clients: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = daemon.connect();
            let sent = stuff(&mut stream, &message);
            (stream, sent)
        })
        .collect();
    daemon.signal(Signal::SIGTERM);
    eventually("the drain begins", || daemon.log().contains("draining"));
    for (stream, sent) in &mut clients {
        assert!(read_to_end(stream) == message[..*sent], "bytes were lost");
    }
    drop(clients);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn what_keeps_arriving_behind_the_stop_comes_back_too() {
    let mut daemon = Daemon::start(&[]);
    let message = pattern(32 * MIB, 2);
    let mut stream = daemon.connect();
    ping(&mut stream, b"under way");
    let mut sender = stream.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(|| sender.write_all(&message).expect("send"));
        expect_bytes(&mut stream, &message[..MIB]);
        daemon.signal(Signal::SIGTERM);
        expect_bytes(&mut stream, &message[MIB..]);
    });
    expect_end(&mut stream);
    drop((stream, sender));
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn newcomers_in_the_queue_are_served_before_the_end() {
    let mut daemon = Daemon::start(&[]);
    daemon.signal(Signal::SIGSTOP);
    let mut newcomers: Vec<_> = (0..50)
        .map(|i| {
            let (mut stream, message) = (daemon.connect(), pattern(1000, i));
            stream.write_all(&message).expect("send");
            (stream, message)
        })
        .collect();
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGCONT);
    for (stream, message) in &mut newcomers {
        assert!(read_to_end(stream) == *message, "a newcomer lost bytes");
    }
    drop(newcomers);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn newcomers_beyond_the_connection_limit_are_served_before_the_end_too() {
    let mut daemon = Daemon::start(&["--max-connections", "2"]);
    daemon.signal(Signal::SIGSTOP);
    let newcomers: Vec<_> = (0..6)
        .map(|i| {
            let (mut stream, message) = (daemon.connect(), pattern(1000, i));
            stream.write_all(&message).expect("send");
            (stream, message)
        })
        .collect();
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGCONT);
    thread::scope(|scope| {
        for (mut stream, message) in newcomers {
            scope.spawn(move || {
                assert!(read_to_end(&mut stream) == message, "a newcomer lost bytes");
            });
        }
    });
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn idle_clients_get_the_end_long_before_the_deadline() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let mut idle: Vec<_> = (0..100).map(|_| daemon.connect()).collect();
    for stream in &mut idle {
        ping(stream, b"here");
    }
    daemon.signal(Signal::SIGTERM);
    for stream in &mut idle {
        expect_end(stream);
    }
    drop(idle);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn clients_that_ignore_the_end_do_not_hold_it_up() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let mut stream = daemon.connect();
    ping(&mut stream, b"here");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    expect_end(&mut stream);
}

#[test]
fn a_reader_that_never_reads_is_cut_off_at_the_deadline_and_counted() {
    let mut daemon = Daemon::start(&["--drain-timeout", "600ms"]);
    let mut stream = daemon.connect();
    stuff(&mut stream, &pattern(64 * MIB, 3));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    eventually("the log is read", || daemon.log().contains("cut off 1 connection(s)"));
}

#[test]
fn a_sender_that_never_stops_does_not_hold_the_end_up_and_gets_what_was_taken() {
    let mut daemon = Daemon::start(&["--drain-timeout", "2s"]);
    let mut stream = daemon.connect();
    let mut sender = stream.try_clone().expect("clone");
    let block = pattern(1_048_573, 4);
    thread::scope(|scope| {
        // Until the server has closed, and answers with a reset.
        scope.spawn(|| while sender.write_all(&block).is_ok() {});
        expect_bytes(&mut stream, &block);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
        drop(stream);
    });
}

#[test]
fn a_drain_timeout_of_zero_ends_at_once() {
    let mut daemon = Daemon::start(&["--drain-timeout", "0"]);
    let mut stream = daemon.connect();
    stuff(&mut stream, &pattern(64 * MIB, 5));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_with_its_number() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
        let mut stream = daemon.connect();
        stuff(&mut stream, &pattern(64 * MIB, 6));
        daemon.signal(Signal::SIGTERM);
        eventually("the drain begins", || daemon.log().contains("draining"));
        assert_eq!(daemon.end_at_once(signal).code(), Some(code));
    }
}

/// One whose signal comes twice, the second time by way of a wrapper: whether it still drained.
fn drains_after_two_signals(in_one_turn: bool) -> bool {
    let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let message = pattern(64 * MIB, 8);
    let mut stream = daemon.connect();
    let sent = stuff(&mut stream, &message);
    if in_one_turn {
        halt(&daemon);
        daemon.signal(Signal::SIGTERM);
    } else {
        daemon.signal(Signal::SIGINT);
        eventually("the drain begins", || daemon.log().contains("draining"));
    }
    daemon.signal(Signal::SIGINT);
    resume(&daemon);
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    drop(stream);
    let code = daemon.wait().code();
    daemon.expect_counters_add_up();
    if code == Some(0) {
        assert!(got == message[..sent], "{} of {sent} bytes came back", got.len());
        return true;
    }
    assert_eq!(code, Some(130));
    false
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one_wish_and_loses_no_byte() {
    assert!(drains_after_two_signals(true));
    // On a busy machine the second one may come late, and then it does end the daemon.
    assert!((0..5).any(|_| drains_after_two_signals(false)));
}

#[test]
fn the_idle_timeout_frees_a_drain_of_a_stalled_reader() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1h", "--idle-timeout", "4s"]);
    let message = pattern(64 * MIB, 7);
    let mut stream = daemon.connect();
    stuff(&mut stream, &message);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_stopper_ends_the_run_from_any_thread_even_before_it_began() {
    let server = InProcess::start(Config::builder());
    let mut stream = server.connect();
    ping(&mut stream, b"hello");
    let stopper = server.stopper.clone();
    thread::spawn(move || stopper.stop().expect("wake")).join().expect("no panic");
    expect_end(&mut stream);
    drop(stream);
    assert_eq!(server.stop(), StopReason::Drained { cut_off: 0 });

    let config = Config::builder().endpoint(any_port()).drain_timeout(Duration::MAX);
    let server = Server::bind(&config.build().expect("a configuration")).expect("bind");
    server.stopper().stop().expect("wake");
    assert_eq!(server.run().expect("no error").stop_reason, StopReason::Drained { cut_off: 0 });
}

#[test]
fn the_drain_is_not_held_up_by_half_closed_peers_that_read() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let message = pattern(64 * MIB, 8);
    let mut stream = daemon.connect();
    let sent = stuff(&mut stream, &message);
    stream.shutdown(std::net::Shutdown::Write).expect("half-close");
    daemon.signal(Signal::SIGTERM);
    assert!(read_to_end(&mut stream) == message[..sent], "bytes were lost");
    assert_eq!(daemon.wait().code(), Some(0));
}
