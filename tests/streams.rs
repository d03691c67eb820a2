//! What goes in comes out: every byte, in order, then the end; over real sockets.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;

use common::{
    DEADLINE, InProcess, connect, eventually, expect_bytes, expect_end, leave, pattern, ping,
    reset, stuff,
};
use echoloop::Config;

const MIB: usize = 1024 * 1024;

/// Sends and receives at once, half-closes behind the last byte, and expects all of it, then the end.
fn bulk(server: &InProcess, rounds: usize, seed: u64) {
    // The length is a prime, so that no page or block boundary repeats in it.
    let block = pattern(1_048_573, seed);
    let mut stream = server.connect();
    let mut sender = stream.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                sender.write_all(&block).expect("send");
            }
            sender.shutdown(Shutdown::Write).expect("half-close");
        });
        for _ in 0..rounds {
            expect_bytes(&mut stream, &block);
        }
        expect_end(&mut stream);
    });
}

#[test]
fn what_is_sent_comes_back() {
    let server = InProcess::start(Config::builder());
    let mut stream = server.connect();
    ping(&mut stream, b"Hello, world");
    for length in [1, 2, 1023, 1024, 65_535, 65_536, 65_537, 200_000] {
        ping(&mut stream, &pattern(length, length as u64));
    }
    leave(stream);
}

#[test]
fn a_peer_that_half_closes_gets_every_byte_of_256_mib_then_the_end() {
    bulk(&InProcess::start(Config::builder()), 256, 1);
}

#[test]
fn eight_peers_at_once_each_get_their_own_256_mib_then_the_end() {
    let server = InProcess::start(Config::builder());
    thread::scope(|scope| {
        for seed in 1..=8 {
            let server = &server;
            scope.spawn(move || bulk(server, 256, seed));
        }
    });
}

#[test]
fn a_peer_that_sends_2_mib_and_half_closes_before_it_reads_gets_all_of_it_then_the_end() {
    let server = InProcess::start(Config::builder());
    let message = pattern(2 * MIB, 2);
    let mut stream = server.connect();
    stream.write_all(&message).expect("send");
    stream.shutdown(Shutdown::Write).expect("half-close");
    expect_bytes(&mut stream, &message);
    expect_end(&mut stream);
}

#[test]
fn stalled_readers_that_half_closed_get_all_of_it_then_the_end() {
    let server = InProcess::start(Config::builder());
    let message = pattern(64 * MIB, 3);
    let mut stalled: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = server.connect();
            let sent = stuff(&mut stream, &message);
            assert!(sent < message.len(), "nothing pushes back");
            stream.shutdown(Shutdown::Write).expect("half-close");
            (stream, sent)
        })
        .collect();
    for (stream, sent) in &mut stalled {
        expect_bytes(stream, &message[..*sent]);
        expect_end(stream);
    }
}

#[test]
fn the_end_that_comes_with_the_data_is_answered() {
    let server = InProcess::start(Config::builder());
    for _ in 0..500 {
        let mut stream = server.connect();
        stream.write_all(b"data and end together").expect("send");
        stream.shutdown(Shutdown::Write).expect("half-close");
        expect_bytes(&mut stream, b"data and end together");
        expect_end(&mut stream);
    }
}

#[test]
fn bytes_before_and_behind_urgent_data_come_back() {
    let server = InProcess::start(Config::builder());
    let mut stream = server.connect();
    for _ in 0..200 {
        stream.write_all(b"before").expect("send");
        socket2::SockRef::from(&stream).send_out_of_band(b"!").expect("send urgent data");
        stream.write_all(b"behind").expect("send");
        expect_bytes(&mut stream, b"beforebehind");
    }
    leave(stream);
}

#[test]
fn urgent_data_among_bytes_that_wait_hides_none_of_them() {
    let server = InProcess::start(Config::builder());
    let message = pattern(64 * MIB, 4);
    let mut stream = server.connect();
    let sent = stuff(&mut stream, &message);
    let mut reader = stream.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(|| expect_bytes(&mut reader, &message[..sent]));
        // Behind all that waits: the mark is met when the server resumes, long after its event.
        let urgent = socket2::SockRef::from(&stream);
        let mut answer = urgent.send_out_of_band(b"!");
        eventually("urgent data is sent", || {
            if answer.is_err() {
                answer = urgent.send_out_of_band(b"!");
            }
            answer.is_ok()
        });
    });
    ping(&mut stream, b"behind");
    leave(stream);
}

#[test]
fn one_byte_at_a_time_comes_back_one_byte_at_a_time() {
    let server = InProcess::start(Config::builder());
    let mut stream = server.connect();
    for byte in pattern(2000, 5) {
        ping(&mut stream, &[byte]);
    }
    leave(stream);
}

#[test]
fn a_reset_ends_only_its_own_connection() {
    let server = InProcess::start(Config::builder());
    let mut friend = server.connect();
    let message = pattern(64 * MIB, 6);
    for i in 0..50 {
        let mut stream = server.connect();
        // With bytes owed and unread, with an echo under way, and with nothing at all.
        match i % 3 {
            0 => drop(stuff(&mut stream, &message[..8 * MIB])),
            1 => stream.write_all(b"no time to wait for this").expect("send"),
            _ => {}
        }
        reset(stream);
        ping(&mut friend, b"still here?");
    }
    leave(friend);
}

#[test]
fn the_smallest_buffer_carries_everything_too() {
    let server = InProcess::start(Config::builder().max_buffer(1024));
    bulk(&server, 8, 7);
}

#[test]
fn a_peer_that_is_gone_before_its_echo_is_back_harms_nobody() {
    let server = InProcess::start(Config::builder());
    let mut friend = server.connect();
    for _ in 0..200 {
        let mut stream = server.connect();
        stream.write_all(&pattern(10_000, 8)).expect("send");
        // Its unread echo makes this a reset.
        drop(stream);
        ping(&mut friend, b"still here?");
    }
    leave(friend);
}

#[test]
fn a_server_that_is_gone_refuses() {
    let server = InProcess::start(Config::builder());
    let address = server.address;
    let mut stream = connect(address);
    ping(&mut stream, b"hello");
    server.stop();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_ok() && rest.is_empty(), "{ended:?}, {} bytes", rest.len());
    let refused = std::net::TcpStream::connect_timeout(&address, DEADLINE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
