//! The load tester as a process: against the daemon and other good servers, against servers that are
//! wrong in one way each, and on systems that refuse it what it needs.
#![cfg(all(target_os = "linux", feature = "load"))]

mod common;
#[path = "common/tester.rs"]
mod tester;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Daemon, eventually, have, reset};
use echoloop::load::noise::Noise;
use echoloop::load::payload::Payload;
use echoloop::load::shape::Shape;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tester::{
    Answer, ECHOLOAD, Scratch, Tester, errors, keys, limited, load, number, report, serve,
    serve_datagrams, serve_late, serve_messages,
};

// Good servers

#[test]
fn exactly_as_many_messages_as_asked_for_come_back_however_they_are_sent() {
    let daemon = Daemon::start(&[]);
    for (n, options) in [
        (1, ""),
        (1, "-c 1 -l 1"),
        (5, "-c 50 -t 4"),
        (999, "-c 7 -t 3 -p 5 -l 63"),
        (5000, "-c 10 -p 64"),
        (500, "-c 4 -l 4096 -p 3"),
        (100, "-c 3 -l 100000"),
        (9, "-c 2 -l 3MiB"),
        (12, "-c 2 -t 2 -l 3MiB -p 4"),
        (301, "-c 10 -R 2000"),
        (301, "-c 10 -t 4 -p 3 -l 4096 -R 2000"),
        (200, "-c 8 -t 2 --reconnect"),
        (200, "-c 8 -t 2 --reconnect -R 1000"),
        (101, "-c 10 --half-close"),
        (101, "-c 10 -t 2 -p 8 -l 1 --half-close"),
        (20, "-c 2 -p 2 -l 3MiB --half-close"),
        (101, "-c 10 --reconnect --half-close -l 4096"),
        (101, "-c 10 --half-close -R 1000"),
        (101, "-c 10 --reconnect --half-close -R 1000"),
    ] {
        let report = report(daemon.address(), &format!("-n {n} {options}"), 0);
        let counts =
            json!({"sent": n, "echoed": n, "corrupt": 0, "timed_out": 0, "lost": 0, "unsent": 0});
        assert_eq!(report["messages"], counts, "{options}");
        assert_eq!(errors(&report), (vec![], 0), "{options}");
        assert!(number(&report["latency_us"]["min"]) > 0.0, "{options}: {report}");
    }
}

#[test]
fn answers_may_come_in_crumbs_or_several_at_once() {
    let crumbs = serve(|stream| {
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    assert_eq!(report(crumbs, "-n 50 -c 2 -p 2", 0)["messages"]["echoed"], 50);
    let at_once = serve(|stream| {
        let mut eight = [0; 8 * 64];
        loop {
            stream.read_exact(&mut eight)?;
            stream.write_all(&eight)?;
        }
    });
    assert_eq!(report(at_once, "-n 800 -c 1 -p 8", 0)["messages"]["echoed"], 800);
}

#[test]
fn other_peoples_echo_servers_are_served_too() {
    const PYTHON: &str = "
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 100
server = Server(('127.0.0.1', 0), Echo)
print('port:%d' % server.server_address[1], file=sys.stderr, flush=True)
server.serve_forever()";
    const SOCAT: &str = "TCP-LISTEN:0,bind=127.0.0.1,fork,backlog=100";
    for (tool, probe, args) in [
        ("socat", "-V", ["-dd", SOCAT, "PIPE"].as_slice()),
        ("socat", "-V", &["-dd", SOCAT, "EXEC:cat"]),
        ("python3", "--version", &["-c", PYTHON]),
    ] {
        if !have(tool, &[probe]) {
            continue;
        }
        let server = Tester::spawn(Command::new(tool).args(args));
        let said = server.err.as_ref().expect("runs");
        let mut port = None;
        eventually("the server listens", || {
            let said = said.so_far();
            let line = said.lines().find(|l| l.contains("listening on") || l.starts_with("port:"));
            port = line.and_then(|line| line.rsplit(':').next()?.parse().ok());
            port.is_some()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("a port")));
        for options in ["-n 500 -c 5 -p 3 -l 1000", "-n 50 -c 5 --half-close -l 100000"] {
            let messages = &report(address, options, 0)["messages"];
            assert_eq!(messages["sent"], messages["echoed"], "{tool} {options}");
        }
    }
}

// Wrong bytes

/// One wrong answer among two hundred on the second of three connections; what the report says.
#[track_caller]
fn expect_corrupt(kind: &str, what: &str, tamper: fn(&mut Vec<u8>)) {
    const SEED: u64 = 7;
    const HIT: usize = 100;
    let payload = Payload::new(Noise::new(SEED), Shape::default());
    let mut at = payload.start(1);
    payload.advance(&mut at, HIT * 1000);
    let mut hit = vec![0; 1000];
    payload.fill(at, &mut hit);
    let address = serve_messages(move |_, mut message| {
        if message == hit {
            tamper(&mut message);
        }
        message
    });
    let report = report(address, &format!("-c 3 -R 3000 -n 600 -l 1000 --seed {SEED}"), 3);
    assert_eq!(errors(&report), (vec![kind.to_owned()], 1));
    assert_eq!(report["messages"]["corrupt"], 1);
    let first = json!({"connection": 1, "offset": HIT * 1000 + 500, "what": what});
    assert_eq!(report["first_corrupt"], first);
    // The others are not concerned.
    assert_eq!(report["per_connection"], json!({"min_messages": HIT, "max_messages": 200}));
}

#[test]
fn one_flipped_bit_is_found_and_located() {
    expect_corrupt("bytes were changed", "changed", |message| message[500] ^= 4);
}

#[test]
fn one_dropped_byte_is_found_and_located() {
    expect_corrupt("bytes were missing", "1 missing", |message| _ = message.remove(500));
}

#[test]
fn one_inserted_byte_is_found_and_located() {
    expect_corrupt("surplus bytes", "1 too many", |message| message.insert(500, !message[500]));
}

#[test]
fn a_repeated_piece_is_found_and_located() {
    expect_corrupt("surplus bytes", "200 too many", |message| {
        let piece = message[300..500].to_vec();
        message.splice(500..500, piece);
    });
}

#[test]
fn of_many_faults_the_first_are_looked_into() {
    let address = serve_messages(|_, mut message| {
        message[500] ^= 4;
        message
    });
    let report = report(address, "-c 20 -l 1000", 3);
    let expected = json!({"bytes were changed": 16, "wrong bytes, not looked into": 4});
    assert_eq!(report["errors"], expected);
}

#[test]
fn bytes_behind_all_that_was_sent_are_found() {
    let address = serve_messages(|n, mut message| {
        message.extend(vec![0; usize::from(n == 49)]);
        message
    });
    let report = report(address, "-c 1 -n 100 -l 1000", 3);
    assert_eq!(report["errors"], json!({"surplus bytes": 1}));
    assert_eq!(report["first_corrupt"]["offset"], 50_000);
}

#[test]
fn answers_swapped_between_two_connections_are_found_and_traced() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let server = thread::spawn(move || -> std::io::Result<()> {
        let mut pair = [listener.accept()?.0, listener.accept()?.0];
        let mut messages = [[0; 1000]; 2];
        for n in 0.. {
            for (stream, message) in pair.iter_mut().zip(&mut messages) {
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.read_exact(message)?;
            }
            if n == 50 {
                messages.swap(0, 1);
            }
            for (stream, message) in pair.iter_mut().zip(&messages) {
                stream.write_all(message)?;
            }
        }
        Ok(())
    });
    let report = report(address, "-c 2 -n 200 -l 1000", 3);
    assert!(report["errors"]["bytes of another connection"].as_u64() >= Some(1), "{report}");
    assert_eq!(report["messages"]["corrupt"], 2);
    let first = &report["first_corrupt"];
    assert_eq!(first["offset"], 50_000);
    let other = 1 - first["connection"].as_u64().expect("a number");
    assert_eq!(first["what"], format!("those of connection {other}"));
    drop(server.join());
}

#[test]
fn two_messages_of_a_connection_that_change_places_are_found() {
    // The last length is one after which the noise repeats.
    for length in [16, 64, 1000, 4096, 16_384, 1_048_573] {
        let address = serve(move |stream| {
            let mut pair = vec![0; 2 * length];
            for n in 0.. {
                stream.read_exact(&mut pair)?;
                let (first, second) = pair.split_at(length);
                let (first, second) = if n == 5 { (second, first) } else { (first, second) };
                stream.write_all(first)?;
                stream.write_all(second)?;
            }
            Ok(())
        });
        let report = report(address, &format!("-c 1 -p 2 -n 20 -l {length}"), 3);
        assert_eq!(report["messages"]["corrupt"], 1, "{length}");
        assert_eq!(report["first_corrupt"]["offset"], 10 * length, "{length}");
    }
}

#[test]
fn blocks_of_a_large_message_that_change_places_are_found_and_located() {
    const MESSAGE: usize = 1024 * 1024;
    for options in ["-l 1MiB", "--framing length:u32 -l 1MiB"] {
        for length in [64, 4096, 65_536, 131_072, 262_144] {
            let address = serve(move |stream| {
                let mut message = vec![0; MESSAGE];
                stream.read_exact(&mut message)?;
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
                let (before, behind) = message.split_at_mut(MESSAGE - length);
                before[length..][..length].swap_with_slice(behind);
                stream.write_all(&message)
            });
            let report = report(address, &format!("-c 1 -n 2 {options}"), 3);
            assert_eq!(report["messages"]["corrupt"], 1, "{options}, blocks of {length}");
            let offset = report["first_corrupt"]["offset"].as_u64().expect("a number");
            // One byte in 256 is like that of the other block.
            assert_eq!(offset & !15, (MESSAGE + length) as u64, "{options}, blocks of {length}");
        }
    }
}

// Messages of every framing

const FRAMINGS: [&str; 7] = [
    "raw -l 16..4KiB",
    "line -l 2..4KiB",
    "fixed:100",
    "length:ascii5 -l 5..4KiB",
    "length:u16 -l 2..4KiB",
    "length:u32 -l 4..4KiB",
    "typed:A=4,B=16,C=0",
];

/// Receives one message, as a server of this framing does. `None` is the end of the stream.
fn receive(framing: &str, stream: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut message = vec![0];
    if stream.read(&mut message)? == 0 {
        return Ok(None);
    }
    let mut more = |message: &mut Vec<u8>, n: usize| {
        let start = message.len();
        message.resize(start + n, 0);
        stream.read_exact(&mut message[start..])
    };
    let behind = match framing {
        "line" => {
            while message.last() != Some(&b'\n') {
                more(&mut message, 1)?;
            }
            0
        }
        "fixed:100" => 99,
        "length:ascii5" => {
            more(&mut message, 4)?;
            std::str::from_utf8(&message).expect("digits").parse().expect("a number")
        }
        "length:u16" => {
            more(&mut message, 1)?;
            u16::from_be_bytes(message[..].try_into().expect("two bytes")).into()
        }
        "length:u32" => {
            more(&mut message, 3)?;
            u32::from_be_bytes(message[..].try_into().expect("four bytes")) as usize
        }
        _ => match message[0] {
            b'A' => 4,
            b'B' => 16,
            b'C' => 0,
            other => panic!("no type: {other}"),
        },
    };
    more(&mut message, behind)?;
    Ok(Some(message))
}

/// A server of one framing, and the messages that it has received.
fn serve_framing(framing: &'static str) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let received = Arc::new(Mutex::new(Vec::new()));
    let messages = Arc::clone(&received);
    let address = serve(move |stream| {
        let mut input = std::io::BufReader::new(stream.try_clone()?);
        while let Some(message) = receive(framing, &mut input)? {
            stream.write_all(&message)?;
            messages.lock().expect("messages").push(message);
        }
        Ok(())
    });
    (address, received)
}

fn mean(lengths: impl ExactSizeIterator<Item = usize>) -> f64 {
    let n = f64::from(u32::try_from(lengths.len()).expect("few"));
    f64::from(u32::try_from(lengths.sum::<usize>()).expect("few bytes")) / n
}

#[test]
fn every_framing_comes_back_whole_however_it_is_sent() {
    for options in FRAMINGS {
        let framing = options.split(' ').next().expect("a word");
        // A server of raw bytes serves every kind.
        let raw = serve(|stream| std::io::copy(&mut stream.try_clone()?, stream).map(drop));
        let (server, received) = match framing {
            "raw" => (raw, Arc::default()),
            _ => serve_framing(framing),
        };
        for (n, how) in [
            (1, "-c 1"),
            (999, "-c 7 -t 3 -p 5"),
            (301, "-c 10 -R 2000"),
            (200, "-c 8 -t 2 --reconnect"),
            (101, "-c 10 -t 2 -p 8 --half-close"),
        ] {
            let options = format!("--framing {options} -n {n} {how}");
            for address in [raw, server] {
                received.lock().expect("messages").clear();
                let report = report(address, &options, 0);
                let counts = json!({"sent": n, "echoed": n, "corrupt": 0, "timed_out": 0, "lost": 0, "unsent": 0});
                assert_eq!(report["messages"], counts, "{options}");
                assert_eq!(errors(&report), (vec![], 0), "{options}");
                assert_eq!(report["parameters"]["framing"], framing);
                let messages = received.lock().expect("messages");
                if address == server && framing != "raw" {
                    assert_eq!(messages.len(), n, "{options}");
                    let mean_length = mean(messages.iter().map(Vec::len));
                    let throughput = &report["throughput"];
                    let mean =
                        number(&throughput["bytes_per_s"]) / number(&throughput["messages_per_s"]);
                    assert!((mean - mean_length).abs() < 1e-6, "{options}: {mean}");
                }
            }
        }
    }
}

#[test]
fn lengths_that_vary_are_uniform_and_follow_from_the_seed() {
    let (address, received) = serve_framing("length:ascii5");
    let lengths = |seed: u64| {
        let options = format!("--framing length:ascii5 -l 16..115 -c 1 -n 10k --seed {seed}");
        let report = report(address, &options, 0);
        let (min, max) = (&report["parameters"]["length"], &report["parameters"]["length_max"]);
        assert_eq!((min, max), (&json!(16), &json!(115)));
        let messages = std::mem::take(&mut *received.lock().expect("messages"));
        messages.iter().map(Vec::len).collect::<Vec<_>>()
    };
    let found = lengths(1);
    let mut counts = [0_usize; 100];
    for length in &found {
        counts[length - 16] += 1;
    }
    // A hundred of each length, give or take five standard deviations.
    assert!(counts.iter().all(|count| (50..=150).contains(count)), "{counts:?}");
    let mean = mean(found.iter().copied());
    assert!((mean - 65.5).abs() < 1.5, "{mean}");
    assert_eq!(lengths(1), found);
    assert_ne!(lengths(2), found);
    let text = load(address, "--framing length:ascii5 -l 16..115 -c 1 -n 1").out;
    assert!(text.contains("16..115 bytes a message"), "{text}");
    assert!(text.contains(", framing length:ascii5"), "{text}");
}

#[test]
fn a_flipped_bit_in_a_header_or_a_newline_is_found() {
    for (framing, at) in [
        ("length:ascii5 -l 1000", 4),
        ("length:u16 -l 1000", 0),
        ("length:u32 -l 1000", 3),
        ("typed:A=999", 0),
        ("line -l 1000", 999),
        ("line -l 1000", 500),
    ] {
        let address = serve_messages(move |n, mut message| {
            message[at] ^= u8::from(n == 20);
            message
        });
        let report = report(address, &format!("--framing {framing} -c 1 -n 100"), 3);
        assert_eq!(errors(&report), (vec!["bytes were changed".to_owned()], 1), "{framing}");
        let first = json!({"connection": 0, "offset": 20_000 + at, "what": "changed"});
        assert_eq!(report["first_corrupt"], first, "{framing}");
    }
}

#[test]
fn a_message_that_is_left_out_or_repeated_is_found_in_every_framing() {
    for framing in ["line -l 1000", "length:ascii5 -l 1000", "length:u32 -l 1000", "fixed:1000"] {
        for (twice, kind) in [(false, "bytes were missing"), (true, "surplus bytes")] {
            let address = serve_messages(move |n, mut message| {
                if n == 20 {
                    let copies = usize::from(twice) * 2;
                    message = message.repeat(copies);
                }
                message
            });
            let report = report(address, &format!("--framing {framing} -c 1 -p 4 -n 100"), 3);
            assert_eq!(errors(&report), (vec![kind.to_owned()], 1), "{framing}: {report}");
            let what = if twice { "1000 too many" } else { "1000 missing" };
            assert_eq!(report["first_corrupt"]["what"], what, "{framing}");
        }
    }
}

// Datagrams

/// The counts of a report that has lost this many datagrams.
fn datagrams(sent: u64, lost: u64) -> Value {
    json!({"sent": sent, "echoed": sent - lost, "corrupt": 0, "timed_out": 0, "lost": lost, "unsent": 0})
}

#[test]
fn every_datagram_comes_back_whatever_its_length() {
    let address = serve_datagrams(|_, datagram| vec![datagram]);
    for (n, options) in [
        (1, ""),
        (500, "-c 5"),
        (500, "-c 4 -t 2 -p 4 -l 1000"),
        (300, "-c 3 -l 0..100"),
        (100, "-c 1 -l 0"),
        (100, "-c 2 -l 1"),
        (100, "-c 1 -p 3 -l 7..9"),
        (100, "-c 2 -l 65507"),
        (301, "-c 10 -R 2000"),
        (301, "-c 3 -t 3 -p 3 -l 16..1400 -R 2000"),
    ] {
        let report = report(&address, &format!("-n {n} {options}"), 0);
        assert_eq!(report["messages"], datagrams(n, 0), "{options}");
        assert_eq!(errors(&report), (vec![], 0), "{options}");
        let strays = json!({"late": 0, "duplicate": 0, "reordered": 0});
        assert_eq!(report["datagrams"], strays, "{options}");
        assert_eq!(report["target"], address);
    }
    let text = load(&address, "-d 200ms -c 3 --warm-up 100ms");
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.out.contains("\ndatagrams    0 late, 0 duplicate, 0 reordered\n"), "{}", text.out);
}

#[test]
fn a_lost_datagram_is_counted_and_the_load_goes_on() {
    let address = serve_datagrams(|number, datagram| match number % 20 {
        7 => vec![],
        _ => vec![datagram],
    });
    for options in ["-c 1", "-c 2 -p 2", "-c 2 -R 1000", "-c 1 -l 2"] {
        let options = format!("-n 100 --timeout 100ms {options}");
        let report = report(&address, &options, 1);
        assert_eq!(report["messages"], datagrams(100, 5), "{options}");
        assert_eq!(report["errors"], json!({"datagram not back in time": 5}), "{options}");
        assert_eq!(report["connections"]["lost"], 0, "{options}");
    }
}

#[test]
fn duplicates_are_counted_apart() {
    let address = serve_datagrams(|number, datagram| match number % 100 {
        7 => vec![datagram; 3],
        _ => vec![datagram],
    });
    let report = report(&address, "-c 1 -n 100", 0);
    assert_eq!(report["messages"], datagrams(100, 0));
    assert_eq!(report["datagrams"], json!({"late": 0, "duplicate": 2, "reordered": 0}));
}

#[test]
fn datagrams_in_another_order_are_counted_apart() {
    let mut held = None;
    let address = serve_datagrams(move |number, datagram| match number % 10 {
        7 => {
            held = Some(datagram);
            vec![]
        }
        _ => std::iter::once(datagram).chain(held.take()).collect(),
    });
    let report = report(&address, "-c 1 -p 4 -n 100", 0);
    assert_eq!(report["messages"], datagrams(100, 0));
    assert_eq!(report["datagrams"], json!({"late": 0, "duplicate": 0, "reordered": 10}));
}

#[test]
fn an_answer_after_the_timeout_is_late_and_its_message_timed_out() {
    let address = serve_datagrams(|number, datagram| {
        if number == 5 {
            thread::sleep(Duration::from_millis(300));
        }
        vec![datagram]
    });
    let report = report(&address, "-c 1 -n 100 --timeout 100ms", 1);
    let late = number(&report["datagrams"]["late"]);
    assert!((1.0..=3.0).contains(&late), "{report}");
    assert_eq!(report["messages"]["timed_out"], report["datagrams"]["late"]);
    assert_eq!(report["messages"]["lost"], 0, "{report}");
    assert_eq!(report["datagrams"]["duplicate"], 0, "{report}");
}

#[test]
fn a_wrong_byte_in_a_datagram_is_corrupt() {
    for (options, at) in
        [("-l 1000", 500), ("-l 1000", 0), ("-l 1000", 999), ("-l 8", 7), ("-l 3", 1)]
    {
        let address = serve_datagrams(move |number, mut datagram| {
            datagram[at] ^= u8::from(number == 20);
            vec![datagram]
        });
        let report = report(&address, &format!("-c 1 -n 100 {options}"), 3);
        assert_eq!(errors(&report), (vec!["bytes were changed".to_owned()], 1), "{options}");
        assert_eq!(report["messages"]["corrupt"], 1, "{options}");
    }
    let address = serve_datagrams(|number, mut datagram| {
        datagram.truncate(datagram.len() - usize::from(number == 20));
        vec![datagram]
    });
    report(&address, "-c 1 -n 100", 3);
}

#[test]
fn a_port_without_a_datagram_socket_is_refused_and_said_so() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = format!("udp://{}", socket.local_addr().expect("address"));
    drop(socket);
    let report = report(&address, "-c 2 -n 10", 1);
    let (kinds, count) = errors(&report);
    assert_eq!((kinds, count), (vec!["connection refused".to_owned()], 2), "{report}");
}

#[test]
fn options_that_only_streams_have_are_wrong_usage_with_udp() {
    for option in
        ["--reconnect", "--half-close", "--framing line", "--connect-rate 5", "--length 65508"]
    {
        let answer = load("udp://127.0.0.1:9", option);
        assert_eq!(answer.code, Some(2), "{answer:?}");
        let name = option.split(' ').next().expect("a word");
        assert!(answer.err.starts_with(&format!("echoload: {name} ")), "{}", answer.err);
        assert!(answer.err.contains("UDP"), "{}", answer.err);
    }
}

// Lost connections

/// A failure takes a bounded time, and both reports name it.
#[track_caller]
fn expect_failure(target: SocketAddr, options: &str, cause: &str, count: u64) -> Value {
    let start = Instant::now();
    let text = load(target, options);
    assert_eq!(text.code, Some(1), "{text:?}");
    assert!(text.out.contains(&format!("{count} x {cause}")), "{}", text.out);
    let conclusion = text.out.lines().last().expect("a verdict");
    assert!(conclusion.starts_with("failed: "), "{conclusion}");
    let report = report(target, options, 1);
    assert_eq!(errors(&report), (vec![cause.to_owned()], count));
    assert!(start.elapsed() < DEADLINE / 2, "took {:?}", start.elapsed());
    report
}

#[test]
fn a_dead_port_is_refused_and_said_so() {
    // Bound, so that nobody else gets the port, and deaf.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    let address = socket.local_addr().expect("address").as_socket().expect("IPv4");
    for options in ["-c 5", "-c 5 -t 2 -R 100", "-c 5 --reconnect", "-c 5 --connect-rate 100"] {
        let report = expect_failure(address, options, "connection refused", 5);
        assert_eq!(report["connections"]["failed"], 5);
    }
}

#[test]
fn a_server_that_never_answers_times_out() {
    let address = serve(|_| {
        loop {
            thread::park();
        }
    });
    for options in ["-c 3", "-c 3 -R 100 -n 3", "-c 3 -n 3 --half-close", "-c 3 -n 3 --reconnect"] {
        let options = format!("{options} --timeout 500ms --no-reconnect");
        let report = expect_failure(address, &options, "message timed out", 3);
        assert_eq!(report["messages"]["timed_out"], 3);
        assert_eq!(report["messages"]["echoed"], 0);
    }
    // What was due on a connection that is gone has not come back either.
    let report = report(address, "-c 3 -R 100 -d 1s --timeout 500ms --no-reconnect", 1);
    assert_eq!(errors(&report), (vec!["message timed out".to_owned()], 3));
    assert!(number(&report["messages"]["unsent"]) >= 40.0, "{report}");
}

#[test]
fn a_rate_beyond_the_server_is_counted_to_the_last_message() {
    let address = serve_late(Duration::from_millis(20));
    for options in ["", "-t 2 -p 3", "--reconnect"] {
        let options = format!("-c 2 -l 1000 -R 1000 -d 500ms --timeout 500ms {options}");
        let report = report(address, &options, 1);
        assert_eq!(report["messages"]["sent"], 500, "{options}");
        assert!(number(&report["messages"]["unsent"]) >= 100.0, "{options}: {report}");
        let kept = "the rate was not kept: messages could not be sent in time";
        assert!(number(&report["errors"][kept]) >= 1.0, "{options}: {report}");
    }
}

#[test]
fn what_was_due_on_a_connection_that_never_stood_is_counted() {
    let daemon = Daemon::start(&[]);
    // Nobody has the second address, which is for documents.
    let sources = "--source-ip 127.0.0.9 --source-ip 192.0.2.1";
    for threads in [1, 2] {
        let options = format!("-c 2 -t {threads} -R 100 -d 500ms {sources}");
        let report = report(daemon.address(), &options, 1);
        assert_eq!(report["connections"]["failed"], 1, "{report}");
        assert_eq!(report["messages"]["echoed"], 25, "{report}");
        assert_eq!(report["messages"]["unsent"], 25, "{report}");
        assert!((number(&report["elapsed_s"]) - 0.5).abs() < 1e-6, "{report}");
    }
}

#[test]
fn a_connection_that_is_lost_is_followed_by_the_next_one_where_each_message_has_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for n in 0.. {
            let (mut stream, _) = listener.accept().expect("accept");
            match n % 6 {
                2 => reset(stream),
                5 => drop(stream),
                _ => {
                    thread::spawn(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
                }
            }
        }
    });
    for options in ["", "-R 2000"] {
        let report = report(address, &format!("--reconnect -c 2 -n 300 {options}"), 1);
        assert_eq!(report["messages"]["echoed"], 200, "{report}");
        assert_eq!(report["messages"]["lost"], 100, "{report}");
        let connections = json!({
            "requested": 2, "established": 300, "failed": 0, "lost": 100, "connecting": 0,
        });
        assert_eq!(report["connections"], connections);
    }
}

#[test]
fn a_server_that_hangs_up_loses_the_connections() {
    let cause = "connection closed by the server";
    let after_one = serve(|stream| {
        let mut message = [0; 64];
        stream.read_exact(&mut message)?;
        stream.write_all(&message)
    });
    let report = expect_failure(after_one, "-c 3 --no-reconnect", cause, 3);
    assert_eq!(report["connections"]["lost"], 3);
    assert_eq!(report["per_connection"], json!({"min_messages": 1, "max_messages": 1}));
    let at_once = serve(|_| Ok(()));
    let report = expect_failure(at_once, "-c 3 --no-reconnect", cause, 3);
    assert_eq!(report["messages"]["echoed"], 0);
}

#[test]
fn a_tail_that_is_lost_at_the_half_close_is_found_by_half_close_only() {
    // It looks whether the client has ended before it answers, and then does not.
    let address = serve(|stream| {
        let mut message = [0; 64];
        loop {
            stream.read_exact(&mut message)?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            if let Ok(0) = stream.peek(&mut [0]) {
                return Ok(());
            }
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.write_all(&message)?;
        }
    });
    for options in ["-c 1 -n 3 -p 2", "-c 2 -n 4 --reconnect"] {
        report(address, options, 0);
        let report = report(address, &format!("{options} --half-close"), 1);
        let (kinds, count) = errors(&report);
        assert_eq!(kinds, ["connection closed by the server"], "{options}");
        assert_eq!(report["connections"]["lost"], count, "{options}");
    }
}

#[test]
fn a_half_close_does_not_wait_for_the_last_echo() {
    // It answers nothing before it has all: who waits for an answer waits for ever.
    let at_the_end = serve(|stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    });
    for options in [
        "-c 1 -n 4 -p 5",
        "-c 2 -n 6 --reconnect",
        "-c 1 -n 4 -p 4",
        "-c 3 -n 3 -R 100",
        "-c 3 -d 300ms",
        // Which one has the last message shows only when another one has taken it.
        "-c 3 -n 3",
    ] {
        report(at_the_end, &format!("--half-close --timeout 3s {options}"), 0);
    }
}

// Times and rates

#[test]
fn the_latency_of_a_slow_server_is_what_it_is_slow_by() {
    let address = serve_late(Duration::from_millis(20));
    let report = report(address, "-c 4 -n 80 -l 1000", 0);
    let p50 = number(&report["latency_us"]["p50"]);
    assert!((20_000.0..40_000.0).contains(&p50), "{p50} us");
    assert!(number(&report["latency_us"]["min"]) >= 20_000.0, "{report}");
}

#[test]
fn a_rate_is_kept() {
    let daemon = Daemon::start(&[]);
    for (rate, options) in [(50.0, ""), (2000.0, ""), (2000.0, "-t 2 -p 4 -c 3")] {
        let report = report(daemon.address(), &format!("-R {rate} -d 2s {options}"), 0);
        let echoed = number(&report["messages"]["echoed"]);
        assert!((echoed / 2.0 / rate - 1.0).abs() <= 0.01, "{echoed} of {rate}/s in 2 s");
        let said = number(&report["throughput"]["messages_per_s"]);
        eprintln!("asked for {rate}/s: {echoed} in 2 s, {said}/s");
        // A busy machine may make the last answer late, and nothing makes it early.
        assert!((0.9..=1.01).contains(&(said / rate)), "{said} of {rate}/s");
    }
}

#[test]
fn a_number_of_messages_comes_back_whole_however_far_a_server_is_behind_their_rate() {
    let address = serve_late(Duration::from_millis(20));
    // All are due within 20 ms, and take 800 ms, which is longer than the timeout of a single one.
    let report = report(address, "-n 200 -R 10k -c 5 -l 1000 --timeout 600ms", 0);
    assert_eq!(report["messages"]["echoed"], 200, "{report}");
    let rate = number(&report["throughput"]["messages_per_s"]);
    assert!((1.0..=251.0).contains(&rate), "{rate}/s");
}

#[test]
fn an_open_loop_holds_its_connections_until_would_block() {
    let counts = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let counted = Arc::clone(&counts);
    // On every other connection the last message is one of the first eighty.
    let address = serve(move |stream| {
        let [open, messages, then] = &*counted;
        open.fetch_add(1, Ordering::SeqCst);
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            if messages.fetch_add(1, Ordering::SeqCst) == 81 {
                then.store(open.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            stream.write_all(&message)?;
        }
        open.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    });
    for how_long in ["-d 2s", "-n 100"] {
        counts.iter().for_each(|count| count.store(0, Ordering::SeqCst));
        report(address, &format!("-c 40 -R 50 {how_long}"), 0);
        eventually("all have left", || counts[0].load(Ordering::SeqCst) == 0);
        assert_eq!(counts[2].load(Ordering::SeqCst), 40, "{how_long}");
    }
}

/// Stops the daemon for one second of four.
#[track_caller]
fn with_a_pause(options: &str) -> Value {
    let daemon = Daemon::start(&[]);
    let options = format!("-d 4s -i 100ms --output-format json {options}");
    let mut tester = Tester::start(daemon.address(), &options);
    tester.expect_progress(1);
    daemon.signal(Signal::SIGSTOP);
    // On a busy machine the signal may take its time.
    eventually("the daemon has stopped", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("/proc");
        stat[stat.rfind(')').expect("name")..].starts_with(") T")
    });
    thread::sleep(Duration::from_secs(1));
    daemon.signal(Signal::SIGCONT);
    tester.finish().report(0)
}

#[test]
fn an_open_loop_shows_a_server_that_stops_in_all_the_messages_that_were_due() {
    let report = with_a_pause("-R 500 -c 10");
    let (p90, service) =
        (number(&report["latency_us"]["p90"]), number(&report["service_us"]["p50"]));
    eprintln!("open loop: p90 {p90} us, p50 of the service {service} us");
    assert!(p90 >= 300_000.0, "{report}");
    assert!(service < 100_000.0, "{report}");
}

#[test]
fn a_closed_loop_shows_it_in_one_message_a_connection() {
    let report = with_a_pause("-c 1");
    let latency = &report["latency_us"];
    assert!(number(&latency["p99"]) < 300_000.0, "{report}");
    assert!(number(&latency["max"]) >= 900_000.0, "{report}");
}

#[test]
fn the_warm_up_is_not_counted() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let address = serve_messages(move |_, message| {
        count.fetch_add(1, Ordering::Relaxed);
        message
    });
    let options = "-c 5 -l 1000 --warm-up 500ms -R 100";
    for how_long in ["-d 500ms", "-n 50"] {
        let report = report(address, &format!("{options} {how_long}"), 0);
        assert_eq!(served.swap(0, Ordering::Relaxed), 100, "{how_long}");
        assert_eq!(report["messages"]["sent"], 50, "{how_long}");
        assert_eq!(report["messages"]["echoed"], 50, "{how_long}");
    }
}

#[test]
fn the_throughput_of_a_slow_server_is_what_it_answers_in_the_time_that_is_measured() {
    let address = serve_late(Duration::from_millis(250));
    // Of what comes back in this second, a part was sent in the warm-up, and as much is under way at
    // its end.
    let report = report(address, "-c 10 -l 1000 --warm-up 650ms -d 1s", 0);
    let rate = number(&report["throughput"]["messages_per_s"]);
    assert!((38.0..55.0).contains(&rate), "{rate}/s");
    assert!((number(&report["elapsed_s"]) - 1.0).abs() < 1e-6, "{report}");
}

#[test]
fn a_generator_that_polls_without_sleep_is_not_the_limit_for_that() {
    let address = serve_late(Duration::from_millis(20));
    // On a busy machine it may be held up, and is then the limit for that.
    let reports = (0..20).map(|_| report(address, "-c 1 -l 1000 -d 500ms --busy-poll 1s", 0));
    let is_free = |report: &Value| report["generator"]["gaps_us"] == 0.0;
    let report = reports.into_iter().find(is_free).expect("a run without gaps");
    assert_eq!(report["generator"]["limited"], false, "{report}");
}

// Connections

#[test]
fn six_thousand_connections_stand_and_all_of_them_are_used() {
    let daemon = Daemon::start(&["--max-connections", "7000"]);
    let report = limited("ulimit -Sn 256", daemon.address(), "-c 6k -n 12k");
    assert_eq!(report["connections"]["established"], 6000, "{report}");
    assert_eq!(report["verdict"], "ok", "{report}");
    assert!(report["per_connection"]["min_messages"].as_u64() >= Some(1), "{report}");
}

#[test]
fn connections_come_from_the_addresses_and_at_the_rate_that_were_asked_for() {
    let met = Arc::new(Mutex::new(Vec::new()));
    let peers = Arc::clone(&met);
    let address = serve(move |stream| {
        peers.lock().expect("peers").push((Instant::now(), stream.peer_addr()?.ip()));
        std::io::copy(&mut stream.try_clone()?, stream).map(drop)
    });
    let sources = ["127.0.0.9", "127.0.0.10"];
    report(address, "-c 6 -n 6 --source-ip 127.0.0.9 --source-ip 127.0.0.10", 0);
    let ips: Vec<IpAddr> = met.lock().expect("peers").drain(..).map(|(_, ip)| ip).collect();
    assert_eq!(ips.len(), 6);
    let expected: BTreeSet<IpAddr> = sources.iter().map(|ip| ip.parse().expect("IP")).collect();
    assert_eq!(ips.into_iter().collect::<BTreeSet<_>>(), expected);

    report(address, "-c 20 --connect-rate 40 -d 1s", 0);
    let met: Vec<Instant> = met.lock().expect("peers").iter().map(|&(at, _)| at).collect();
    assert_eq!(met.len(), 20);
    let (first, last) = (met.iter().min().expect("some"), met.iter().max().expect("some"));
    let spread = *last - *first;
    assert!(spread >= Duration::from_millis(250), "20 connects at 40/s within {spread:?}");
}

#[test]
fn files_that_run_out_are_said_plainly() {
    let daemon = Daemon::start(&[]);
    let report = limited("ulimit -n 64", daemon.address(), "-c 200 -n 1000");
    assert_eq!(report["verdict"], "failed");
    let (kinds, count) = errors(&report);
    assert!(kinds.len() == 1 && kinds[0].starts_with("too many open files: "), "{report}");
    let connections = &report["connections"];
    assert_eq!(connections["failed"], count);
    assert_eq!(connections["established"], 200 - count);
    assert!(count < 200, "{report}");
    assert_eq!(report["messages"]["echoed"], 1000);
}

/// In a network of its own with these local ports, and a daemon on port 5000.
#[track_caller]
fn in_a_small_network(ports: &str, target: &str, options: &str) -> Option<Value> {
    const UNSHARE: [&str; 4] = ["-n", "-p", "-f", "--kill-child"];
    const SCRIPT: &str = "ip link set lo up
        echo $PORTS > /proc/sys/net/ipv4/ip_local_port_range
        $ECHOD -q 127.0.0.1:5000 > $OUT &
        until [ -s $OUT ]; do sleep 0.01; done
        exec $ECHOLOAD \"$@\"";
    if !have("unshare", &[&UNSHARE[..], &["ip", "link", "set", "lo", "up"]].concat()) {
        return None;
    }
    let out = Scratch::new(&format!("echod-{}", ports.replace(' ', "-")));
    let mut command = Command::new("unshare");
    command.args(UNSHARE).args(["sh", "-c", SCRIPT, "sh", target, "--output-format", "json"]);
    command.args(options.split_whitespace());
    command.env("PORTS", ports).env("OUT", out.path());
    command.env("ECHOD", env!("CARGO_BIN_EXE_echod")).env("ECHOLOAD", ECHOLOAD);
    let answer = Tester::spawn(&mut command).finish();
    Some(answer.report(answer.code.expect("no signal")))
}

#[test]
fn ports_that_run_out_are_said_plainly() {
    let options = "-c 10 -n 100 --source-ip 127.0.0.9";
    let Some(report) = in_a_small_network("40000 40003", "127.0.0.1:5000", options) else { return };
    assert_eq!(report["verdict"], "failed", "{report}");
    let (kinds, count) = errors(&report);
    assert!(kinds.len() == 1 && kinds[0].starts_with("no free local port: "), "{report}");
    assert_eq!(count, 6, "{report}");
    assert_eq!(report["connections"]["established"], 4, "{report}");
    assert_eq!(report["messages"]["echoed"], 100, "{report}");
}

#[test]
fn a_connection_with_itself_is_not_taken_for_a_server() {
    for ports in ["40000 40010", "40001 40001"] {
        for options in ["-c 1 -n 5", "-c 11 -n 50", "-c 3 -n 9 --reconnect", "-c 3 -n 9 -t 3"] {
            let Some(report) = in_a_small_network(ports, "127.0.0.1:40001", options) else {
                return;
            };
            assert_eq!(report["verdict"], "failed", "{ports} {options}: {report}");
            assert_eq!(report["connections"]["established"], 0, "{ports} {options}: {report}");
        }
    }
}

#[test]
fn connects_that_are_part_of_the_load_have_times_of_their_own() {
    let daemon = Daemon::start(&[]);
    for (options, connects, since) in [
        ("", false, "a message was sent until all of it was back\n"),
        ("-R 1k", false, "a message was due until all of it was back; service"),
        ("--connect-rate 1k", true, "a message was sent until all of it was back\n"),
        (
            "--reconnect",
            true,
            "a message could go, its connect included, until all of it was back; s",
        ),
        ("--reconnect -R 1k", true, "a message was due until all of it was back; service"),
    ] {
        let text = load(daemon.address(), &format!("-c 5 -n 100 {options}")).out;
        assert_eq!(text.contains("\nconnects     50% took "), connects, "{text}");
        assert!(text.contains(&format!("from when {since}")), "{text}");
    }
}

// The command

#[test]
fn thresholds_decide_only_what_nothing_worse_has_decided() {
    let daemon = Daemon::start(&[]);
    let good = daemon.address();
    let held = |report: &Value| report["thresholds"].clone();
    let one = report(good, "-n 100 --fail-if p99>0", 99);
    assert_eq!(held(&one), json!(["p99>0"]));
    let several = "--fail-if rate<1 --fail-if max>1us --fail-if errors>=0 --fail-if p50>1h";
    let several = report(good, &format!("-n 100 {several}"), 99);
    assert_eq!(held(&several), json!(["max>1us", "errors>=0"]));
    assert_eq!(held(&report(good, "-n 100 --fail-if errors>0", 0)), json!([]));
    let bad = serve_messages(|n, mut message| {
        message[0] ^= u8::from(n == 5);
        message
    });
    report(bad, "-n 100 -c 1 -l 1000 --fail-if errors>0", 3);
    let closing = serve(|_| Ok(()));
    report(closing, "-n 100 -c 1 --fail-if errors>0", 1);
}

#[test]
fn wrong_usage_is_one_line_that_names_the_word() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    for (options, word) in [
        ("-d 5", "5"),
        ("-d 5parsecs", "5parsecs"),
        ("-d 0", "--duration"),
        ("-l 5kb", "5kb"),
        ("-l 0", "--length"),
        ("-l 5..4", "5..4"),
        ("-l 5..x", "5..x"),
        ("--framing words", "words"),
        ("--framing length:ascii5 -l 4..100", "--length"),
        ("--framing fixed:100 -l 64", "--length"),
        ("--framing typed:A=4,B=16 -l 5", "--length"),
        ("--framing fixed:2GiB", "--framing"),
        ("-c 0", "--connections"),
        ("-c many", "many"),
        ("-R 0", "0"),
        ("-R 1.5.5", "1.5.5"),
        ("-n 1.5", "1.5"),
        ("-n 5 -d 5s", "--duration"),
        ("--reconnect -p 2", "--reconnect"),
        ("-c 2 -t 3", "--threads"),
        ("--fail-if speed>5", "speed"),
        ("--fail-if p99>5", "--fail-if"),
        ("--source-ip here", "here"),
        ("--source-ip ::1", "::1"),
        ("--output-format xml", "xml"),
        ("--seed x", "x"),
        ("--frobnicate", "--frobnicate"),
        ("one two", "two"),
    ] {
        let answer = load(nobody, options);
        assert_eq!(answer.code, Some(2), "{options}: {answer:?}");
        assert_eq!(answer.err.lines().count(), 1, "{options}: {}", answer.err);
        assert!(answer.err.starts_with("echoload: "), "{options}: {}", answer.err);
        assert!(answer.err.contains(word), "{options}: {}", answer.err);
        assert_eq!(answer.out, "", "{options}");
    }
}

#[test]
fn an_interrupt_reports_what_was_measured_so_far() {
    let daemon = Daemon::start(&[]);
    for options in ["-c 5", "-c 6 -t 3 -R 1000", "-c 5 --reconnect --half-close"] {
        for format in ["text", "json"] {
            let options = format!("{options} -d 60s -i 100ms --output-format {format}");
            let mut tester = Tester::start(daemon.address(), &options);
            tester.expect_progress(2);
            tester.interrupt();
            let answer = tester.finish();
            if format == "json" {
                let report = answer.report(130);
                assert!(number(&report["messages"]["echoed"]) > 0.0, "{report}");
                let elapsed = number(&report["elapsed_s"]);
                assert!((0.1..30.0).contains(&elapsed), "{elapsed}");
            } else {
                assert_eq!(answer.code, Some(130), "{answer:?}");
                let verdict = answer.out.lines().last().expect("a verdict");
                assert!(verdict.starts_with("interrupted"), "{}", answer.out);
                assert!(answer.out.contains("99.9%"), "{}", answer.out);
            }
        }
    }
}

const DOCUMENTATION: &str = include_str!("../docs/load-testing.md");
const TIMES: &str = "min mean stdev p50 p75 p90 p99 p99_9 p99_99 max";

/// The keys of each object of a report.
const KEYS: [(&str, &str); 14] = [
    (
        "",
        "version target parameters elapsed_s connections addresses outages messages throughput latency_us \
         service_us connect_us per_connection generator errors first_corrupt unwritten thresholds verdict",
    ),
    (
        "/parameters",
        "connections threads framing length length_max pipeline rate connect_rate reconnect \
         messages_per_connection replace_lost addresses half_close duration_s requests warm_up_s timeout_s \
         source_ips busy_poll_s seed",
    ),
    ("/connections", "requested established failed lost connecting"),
    ("/addresses/0", "address established failed lost"),
    ("/messages", "sent echoed corrupt timed_out lost unsent"),
    ("/outages", "count total_us longest_us list"),
    ("/throughput", "messages_per_s bytes_per_s"),
    ("/latency_us", TIMES),
    ("/service_us", TIMES),
    ("/connect_us", TIMES),
    ("/per_connection", "min_messages max_messages"),
    (
        "/generator",
        "cpu demand schedule_lag_us_max longest_gap_us gaps_us suspended_us stolen limited",
    ),
    ("/unwritten", "intervals progress"),
    ("/errors", ""),
];

#[test]
fn the_report_has_the_documented_keys() {
    let daemon = Daemon::start(&[]);
    let report = report(daemon.address(), "-n 1 --connect-rate 10", 0);
    assert_eq!(report["version"], 1);
    assert_eq!(report["target"], format!("tcp://{}", daemon.address()));
    for (object, expected) in KEYS {
        assert_documented(report.pointer(object).expect(object), expected);
    }
}

#[test]
fn an_interval_has_the_documented_keys() {
    let daemon = Daemon::start(&[]);
    let lines = load(daemon.address(), "-d 200ms -i 100ms --output-format ndjson -q").out;
    let interval: Value = lines.lines().next().expect("a line").parse().expect("JSON");
    let keys = "elapsed_s for_s messages_per_s connections connecting errors latency_us";
    assert_documented(&interval, keys);
}

#[track_caller]
fn assert_documented(object: &Value, expected: &str) {
    let mut expected: Vec<&str> = expected.split_whitespace().collect();
    expected.sort_unstable();
    let mut found = keys(object);
    found.sort_unstable();
    assert_eq!(found, expected);
    for key in found {
        assert!(DOCUMENTATION.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn output_goes_where_it_was_asked_to_go() {
    let daemon = Daemon::start(&[]);
    let (file, hdr) = (Scratch::new("report"), Scratch::new("hdr"));
    let options = format!("-n 1k -q -o {} --hdr {} --output-format json", file.path(), hdr.path());
    let answer = load(daemon.address(), &options);
    assert_eq!((answer.out.as_str(), answer.err.as_str()), ("", ""));
    let written = Answer { out: file.text(), ..answer };
    assert_eq!(written.report(0)["messages"]["echoed"], 1000);

    let table = hdr.text();
    let rows: Vec<Vec<f64>> = table
        .lines()
        .filter(|line| line.starts_with(|c: char| c == ' ' || c.is_ascii_digit()))
        .filter_map(|line| line.split_whitespace().map(|n| n.parse().ok()).collect())
        .collect();
    assert!(rows.len() > 5, "{table}");
    let grows = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a <= b);
    assert!(rows.windows(2).all(|pair| grows(&pair[0][..3], &pair[1][..3])), "{table}");
    let last = &rows[rows.len() - 1];
    assert!((last[1], last[2]) == (1.0, 1000.0), "{table}");

    let lines = load(daemon.address(), "-d 450ms -i 100ms --output-format ndjson -q");
    assert_eq!((lines.code, lines.err.as_str()), (Some(0), ""));
    let parsed: Result<Vec<Value>, _> = lines.out.lines().map(serde_json::from_str).collect();
    let parsed = parsed.expect("JSON in each line");
    let (report, intervals) = parsed.split_last().expect("lines");
    assert_eq!(report["verdict"], "ok");
    assert!((2..=6).contains(&intervals.len()), "{}", lines.out);
    assert!(intervals.iter().all(|line| number(&line["messages_per_s"]) > 0.0), "{}", lines.out);

    let silent = serve(|stream| std::io::copy(stream, &mut std::io::sink()).map(drop));
    let none = load(daemon.address(), "-n 100 -i 0 --output-format ndjson -q");
    assert_eq!(none.out.lines().count(), 1, "{none:?}");
    let lines = load(silent, "-c 1 -n 1 -i 100ms --timeout 450ms --output-format ndjson -q");
    let interval: Value = lines.out.lines().next().expect("a line").parse().expect("JSON");
    assert_eq!(interval["latency_us"], Value::Null, "{}", lines.out);

    let progress = load(daemon.address(), "-d 450ms -i 100ms");
    assert!(progress.err.lines().all(|line| line.contains("messages/s")), "{}", progress.err);
    assert!(progress.err.lines().count() >= 2, "{}", progress.err);
    assert_eq!(load(daemon.address(), "-d 450ms").err, "");
}

#[test]
fn the_intervals_add_up_to_the_whole() {
    let daemon = Daemon::start(&[]);
    let file = Scratch::new("intervals");
    for options in ["-d 450ms", "-n 20k", "-d 450ms -R 5k", "-d 450ms --reconnect"] {
        let options = format!("{options} -t 2 -i 20ms --output-format ndjson -o {}", file.path());
        let answer = load(daemon.address(), &options);
        let report = Answer { out: file.text(), ..answer }.report(0);
        let written = file.text();
        let lines = written.lines().map(|line| line.parse::<Value>().expect("JSON"));
        let intervals = lines.filter(|line| line["verdict"].is_null());
        let sum: f64 = intervals
            .map(|line| {
                assert!(number(&line["for_s"]) > 0.0, "{line}");
                number(&line["messages_per_s"]) * number(&line["for_s"])
            })
            .sum();
        let echoed = number(&report["messages"]["echoed"]);
        assert!((sum - echoed).abs() < 0.5, "{sum} of {echoed}: {written}");
    }
}

#[test]
fn a_report_that_cannot_be_written_does_not_hide_the_verdict() {
    let daemon = Daemon::start(&[]);
    let bad = serve_messages(|_, mut message| {
        message[500] ^= 4;
        message
    });
    for (target, code) in [(daemon.address(), 1), (bad, 3)] {
        for format in ["text", "json", "ndjson -i 10ms"] {
            let options = format!("-n 100 -l 1000 -q --output-format {format}");
            let answer = load(target, &format!("{options} -o /dev/full"));
            assert_eq!(answer.code, Some(code), "{answer:?}");
            assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
            assert!(answer.err.starts_with("echoload: cannot write the report"), "{answer:?}");
            let answer = load(target, &format!("{options} --hdr /dev/full"));
            assert_eq!(answer.code, Some(code), "{answer:?}");
            assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
            assert!(answer.out.contains("100"), "{answer:?}");
        }
    }
}

#[test]
fn a_seed_makes_the_bytes_and_is_printed() {
    let received = Arc::new(Mutex::new(Vec::<u8>::new()));
    let capture = Arc::clone(&received);
    let address = serve_messages(move |_, message| {
        capture.lock().expect("bytes").extend(&message);
        message
    });
    let sent = |options: &str| {
        let report = report(address, &format!("-c 1 -n 100 -l 1000 {options}"), 0);
        let seed = report["parameters"]["seed"].as_u64().expect("a seed");
        (seed, std::mem::take(&mut *received.lock().expect("bytes")))
    };
    let (seed, bytes) = sent("");
    assert_eq!(bytes.len(), 100_000);
    assert!(sent(&format!("--seed {seed}")) == (seed, bytes.clone()), "other bytes");
    let other = sent("");
    assert!(other.0 != seed && other.1 != bytes, "the same bytes");
    let text = load(address, &format!("-c 1 -n 1 -l 1000 --seed {seed}")).out;
    assert!(text.contains(&format!("seed {seed}\n")), "{text}");
}

// What it costs

#[cfg(not(mio_unsupported_force_poll_poll))]
#[test]
fn a_message_costs_two_system_calls() {
    if !have("strace", &["-c", "-f", "-o", "/dev/null", "true"]) {
        return;
    }
    let daemon = Daemon::start(&[]);
    let counted = Scratch::new("strace");
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-o", counted.path(), ECHOLOAD]);
    command.args(["-c", "50", "-l", "64", "-n", "20000", "--output-format", "json"]);
    let report = Tester::spawn(command.arg(daemon.address().to_string())).finish().report(0);
    assert_eq!(report["messages"]["echoed"], 20_000);
    let table = counted.text();
    let total = table.lines().find(|line| line.ends_with(" total")).expect("a total");
    let calls: f64 = total.split_whitespace().nth(3).and_then(|n| n.parse().ok()).expect("calls");
    eprintln!("{} system calls a message", calls / 20_000.0);
    assert!(calls / 20_000.0 <= 2.1, "{table}");
}

#[test]
fn an_open_connection_costs_less_than_two_kib() {
    let daemon = Daemon::start(&["--max-connections", "6000"]);
    let resident = |connections: usize| {
        let options = format!("-c {connections} -d 60s -i 200ms");
        let mut tester = Tester::start(daemon.address(), &options);
        tester.expect_progress(3);
        let resident = tester.resident();
        tester.interrupt();
        assert_eq!(tester.finish().code, Some(130));
        resident
    };
    let (few, many) = (resident(50), resident(5000));
    let each = many.saturating_sub(few) / 4950;
    eprintln!("{each} bytes a connection");
    assert!(each < 2048, "{each} bytes a connection");
}
