//! Messages over real sockets, with every framing of the built daemon: each whole message comes back,
//! however its bytes arrive, and what is malformed ends its own connection only.

mod common;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::process::Command;

use common::{
    Daemon, eventually, expect_bytes, expect_end, expect_error, half_close, leave, message,
    pattern, ping, reset, stuff,
};
use echoloop::process::limits::raise_file_limit;
use echoloop::protocol::Kind;
use nix::sys::signal::Signal;

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");
const KINDS: [&str; 6] =
    ["line", "fixed:20", "length:ascii5", "length:u16", "length:u32", "typed:A=4,B=16"];

/// A daemon of one framing, and messages for it.
struct Framed {
    daemon: Daemon,
    kind: Kind,
}

impl Framed {
    #[track_caller]
    fn start(kind: &str, options: &[&str]) -> Framed {
        let daemon = Daemon::start(&[&["--framing", kind], options].concat());
        Framed { daemon, kind: kind.parse().expect("a kind") }
    }

    fn message(&self, body: &[u8]) -> Vec<u8> {
        message(&self.kind, body)
    }

    /// The start of a message, which only a line may end with.
    fn half(&self) -> Vec<u8> {
        let mut half = self.message(b"a body of some letters");
        half.pop();
        half
    }

    /// What the end of the input makes of half a message.
    fn echo_of_half_at_end(&self) -> Vec<u8> {
        if self.kind == Kind::Line { self.half() } else { Vec::new() }
    }

    /// Waits until the daemon has handled all that was sent before.
    #[track_caller]
    fn settle(&self, other: &mut TcpStream) {
        ping(other, &self.message(b"another client"));
    }

    /// The counters, once this one has its value.
    #[track_caller]
    fn expect_counter(&self, name: &str, value: u64) {
        eventually(name, || {
            self.daemon.signal(Signal::SIGUSR1);
            self.daemon.counters()[name] == value
        });
    }
}

#[track_caller]
fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("send");
}

#[track_caller]
fn expect_nothing_yet(stream: &TcpStream) {
    stream.set_nonblocking(true).expect("nonblocking");
    let early = stream.peek(&mut [0]).map_err(|e| e.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock), "half a message came back");
    stream.set_nonblocking(false).expect("blocking");
}

#[test]
fn messages_cut_at_any_byte_come_back_whole() {
    for kind in KINDS {
        let server = Framed::start(kind, &[]);
        let (mut stream, mut other) = (server.daemon.connect(), server.daemon.connect());
        let messages = [&b"first"[..], b"", b"the third", b"and the last one"];
        let messages = messages.map(|body| server.message(body));
        let (all, mut ends) = (messages.concat(), vec![0]);
        for message in &messages {
            ends.push(ends.last().expect("one") + message.len());
        }
        for cut in 1..all.len() {
            let whole = *ends.iter().rfind(|end| **end <= cut).expect("0 at least");
            send(&mut stream, &all[..cut]);
            expect_bytes(&mut stream, &all[..whole]);
            server.settle(&mut other);
            expect_nothing_yet(&stream);
            send(&mut stream, &all[cut..]);
            expect_bytes(&mut stream, &all[whole..]);
        }
        leave(stream);
        leave(other);
    }
}

#[test]
fn a_message_may_arrive_byte_by_byte() {
    for kind in KINDS {
        let server = Framed::start(kind, &[]);
        let (mut stream, mut other) = (server.daemon.connect(), server.daemon.connect());
        let message = server.message(b"a message of several bytes");
        for byte in &message {
            expect_nothing_yet(&stream);
            send(&mut stream, &[*byte]);
            server.settle(&mut other);
        }
        expect_bytes(&mut stream, &message);
        leave(stream);
        leave(other);
    }
}

#[test]
fn many_messages_in_one_send_come_back_and_the_start_of_the_next_waits() {
    for kind in KINDS {
        let server = Framed::start(kind, &[]);
        let (mut stream, mut other) = (server.daemon.connect(), server.daemon.connect());
        let messages: Vec<_> = (0..100).map(|i| server.message(&pattern(i, 1))).collect();
        let (messages, half) = (messages.concat(), server.half());
        send(&mut stream, &[&messages[..], &half].concat());
        expect_bytes(&mut stream, &messages);
        server.settle(&mut other);
        expect_nothing_yet(&stream);
        let whole = server.message(b"a body of some letters");
        send(&mut stream, &whole[half.len()..]);
        expect_bytes(&mut stream, &whole);
        leave(stream);
        leave(other);
    }
}

#[test]
fn a_client_that_reads_megabytes_late_gets_every_message() {
    for kind in KINDS {
        let server = Framed::start(kind, &[]);
        let one: Vec<_> = (0..50).map(|i| server.message(&pattern(37 * i, 2))).collect();
        let one = one.concat();
        let all = one.repeat(32 * 1024 * 1024 / one.len());
        let mut stream = server.daemon.connect();
        let sent = stuff(&mut stream, &all);
        assert!(sent < all.len(), "nothing pushes back");
        let (read, behind) = all[..sent].split_at(sent / 2);
        expect_bytes(&mut stream, read);
        // The rest of what is owed, and the message that was cut.
        let rest = one.len() - sent % one.len();
        send(&mut stream, &all[sent..sent + rest]);
        expect_bytes(&mut stream, behind);
        expect_bytes(&mut stream, &all[sent..sent + rest]);
        leave(stream);
    }
}

#[test]
fn a_half_close_is_answered_with_all_whole_messages_then_the_end() {
    for kind in KINDS {
        let server = Framed::start(kind, &[]);
        let mut stream = server.daemon.connect();
        let (whole, half) = (server.message(b"whole"), server.half());
        send(&mut stream, &[&whole[..], &half].concat());
        half_close(&stream);
        expect_bytes(&mut stream, &whole);
        let at_end = server.echo_of_half_at_end();
        expect_bytes(&mut stream, &at_end);
        expect_end(&mut stream);
        drop(stream);
        server.expect_counter("bytes_unsent", (half.len() - at_end.len()) as u64);
    }
}

#[test]
fn half_a_message_does_not_hold_up_the_drain() {
    for kind in KINDS {
        let mut server = Framed::start(kind, &["--drain-timeout", "1h"]);
        let mut stream = server.daemon.connect();
        let (whole, half) = (server.message(b"whole"), server.half());
        send(&mut stream, &[&whole[..], &half].concat());
        expect_bytes(&mut stream, &whole);
        server.daemon.signal(Signal::SIGTERM);
        expect_end(&mut stream);
        drop(stream);
        assert_eq!(server.daemon.wait().code(), Some(0));
        server.daemon.expect_counters_add_up();
        let counters = server.daemon.counters();
        assert_eq!(counters["bytes_unsent"], half.len() as u64, "{kind}: {counters:?}");
    }
}

#[test]
fn half_a_message_does_not_put_off_the_idle_timeout() {
    for kind in KINDS {
        let server = Framed::start(kind, &["--idle-timeout", "300ms"]);
        let mut stream = server.daemon.connect();
        let whole = server.message(b"whole");
        send(&mut stream, &[&whole[..], &server.half()].concat());
        expect_bytes(&mut stream, &whole);
        expect_end(&mut stream);
        drop(stream);
        server.expect_counter("closed_idle", 1);
    }
}

/// Framings, input that is malformed for them, and options that make it so.
const MALFORMED: [(&str, &[u8], &[&str]); 10] = [
    ("length:ascii5", b"0000x", &[]),
    ("length:ascii5", b"+0001a", &[]),
    ("length:ascii5", b"12a", &[]),
    ("length:ascii5", b"99999", &[]),
    ("length:u16", &[3, 255], &["--max-buffer", "1KiB"]),
    ("length:u32", &[255, 255, 255, 255, 1, 2, 3], &[]),
    ("length:u32", &[0, 1, 0, 0], &[]),
    ("typed:A=4,B=16", b"C", &[]),
    ("typed:A=4,B=16", b"a123", &[]),
    ("line", &[b'x'; 2000], &["--max-buffer", "1KiB"]),
];

#[test]
fn malformed_input_ends_its_connection_after_what_was_owed_and_disturbs_nobody() {
    for (kind, malformed, options) in MALFORMED {
        let server = Framed::start(kind, &[options, &["-v"]].concat());
        let (mut bad, mut other) = (server.daemon.connect(), server.daemon.connect());
        server.settle(&mut other);
        let whole = server.message(b"whole");
        // What follows is unread when the daemon closes, and must not cost the answer.
        send(&mut bad, &[&whole[..], malformed, &whole].concat());
        expect_bytes(&mut bad, &whole);
        expect_end(&mut bad);
        drop(bad);
        server.expect_counter("closed_malformed", 1);
        server.settle(&mut other);
        leave(other);
        let log = server.daemon.log();
        assert_eq!(log.matches("malformed input: ").count(), 1, "{kind}: {log}");
    }
}

#[test]
fn a_message_of_the_whole_buffer_comes_back_and_one_byte_more_is_malformed() {
    for (kind, header) in [("line", 1), ("length:ascii5", 5), ("length:u16", 2), ("length:u32", 4)]
    {
        let server = Framed::start(kind, &["--max-buffer", "2KiB"]);
        let mut stream = server.daemon.connect();
        ping(&mut stream, &server.message(&[b'x'; 2048][header..]));
        ping(&mut stream, &server.message(&[b'x'; 2048][header..]));
        send(&mut stream, &server.message(&[b'x'; 2049][header..]));
        expect_end(&mut stream);
        drop(stream);
        server.expect_counter("closed_malformed", 1);
    }
}

#[test]
fn a_wrong_framing_is_a_usage_error_of_one_line() {
    for (kind, words) in [
        ("", &["raw, line, fixed:N"][..]),
        ("lines", &["'lines'", "raw, line, fixed:N"]),
        ("length:u8", &["'length:u8'", "length:u16"]),
        ("fixed:", &["a size, such as fixed:64"]),
        ("fixed:ten", &["a size, such as fixed:64"]),
        ("fixed:0", &["at least 1 byte"]),
        ("fixed:1GiB", &["larger than 65536 bytes", "--max-buffer"]),
        ("fixed:99999999999999999999", &["larger than"]),
        ("typed:", &["such as typed:A=4,B=16"]),
        ("typed:A", &["such as typed:A=4,B=16"]),
        ("typed:AB=4", &["such as typed:A=4,B=16"]),
        ("typed:A=4,A=5", &["the type A is there twice"]),
        ("typed:A=65536", &["larger than 65536 bytes", "--max-buffer"]),
    ] {
        expect_error(Command::new(ECHOD).args(["--framing", kind]), 2, words);
    }
    expect_error(
        Command::new(ECHOD).args(["--framing", "fixed:2KiB", "--max-buffer", "1KiB"]),
        2,
        &["larger than 1024 bytes", "--max-buffer"],
    );
}

#[test]
#[cfg_attr(mio_unsupported_force_poll_poll, ignore = "over poll(2) mio keeps a list of its own")]
fn ten_thousand_half_messages_cost_less_than_512_bytes_each() {
    const COUNT: usize = 10_000;
    if raise_file_limit() < COUNT + 2000 {
        return eprintln!("NOT RUN: this test needs {} files", COUNT + 2000);
    }
    let server = Framed::start("fixed:20", &[]);
    let mut friend = server.daemon.connect();
    server.settle(&mut friend);
    let before = server.daemon.resident();
    let mut streams: Vec<_> = (0..COUNT).map(|_| server.daemon.connect()).collect();
    for stream in &mut streams {
        send(stream, b"ten bytes.");
    }
    server.settle(&mut friend);
    let each = (server.daemon.resident() - before) / COUNT;
    assert!(each < 512, "{each} bytes each");
    for stream in &mut streams {
        send(stream, b"ten again.");
        expect_bytes(stream, b"ten bytes.ten again.");
    }
    leave(friend);
    streams.into_iter().for_each(reset);
}

/// A search that begins again at the start of the line with every byte would cost far more.
#[test]
fn a_long_line_that_arrives_byte_by_byte_costs_about_as_much_as_short_ones() {
    const BYTES: usize = 64 * 1024;
    let server = Framed::start("line", &[]);
    let cost = |length: usize| {
        let line = [&vec![b'x'; length - 1][..], b"\n"].concat();
        let (mut stream, mut other) = (server.daemon.connect(), server.daemon.connect());
        let before = server.daemon.cpu();
        for _ in 0..BYTES / length {
            for byte in &line {
                send(&mut stream, &[*byte]);
                // Otherwise the daemon would receive several bytes at once.
                ping(&mut other, b"\n");
            }
            expect_bytes(&mut stream, &line);
        }
        leave(stream);
        leave(other);
        server.daemon.cpu().saturating_sub(before)
    };
    let (short, long) = (cost(64), cost(BYTES));
    assert!(2 * long < 3 * short, "{long:?}, and {short:?} for short lines");
}
