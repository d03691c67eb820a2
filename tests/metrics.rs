//! The counters over HTTP, as Prometheus asks for them, and as others do who mean less well.
#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Daemon, connect, eventually, expect_bytes, expect_end, expect_error, have, leave, pattern,
    ping, reset, stuff,
};
use nix::sys::signal::Signal;

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

/// Clients that the metrics have at once, and how long they may stay.
const CLIENTS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);

/// What a daemon that only waits may use of a watched second.
const AT_REST: Duration = Duration::from_millis(100);

/// Echo and metrics on ports that the system picks.
#[track_caller]
fn start(options: &[&str]) -> (Daemon, SocketAddr) {
    let daemon = Daemon::start(&[&["--metrics", "127.0.0.1:0"], options].concat());
    let metrics = addresses(&daemon)[0];
    (daemon, metrics)
}

/// Where the log says that the metrics are.
#[track_caller]
fn addresses(daemon: &Daemon) -> Vec<SocketAddr> {
    // That line comes behind those of the metrics.
    eventually("the start is logged", || daemon.log().contains("at most"));
    let log = daemon.log();
    let links = log.lines().filter_map(|line| line.split_once("metrics on http://"));
    let address = |rest: &str| rest.strip_suffix("/metrics").and_then(|a| a.parse().ok());
    links.map(|(_, rest)| address(rest).expect("an address")).collect()
}

struct Response {
    status: String,
    headers: HashMap<String, String>,
    body: String,
}

/// All of it, then the end, and no reset.
#[track_caller]
fn response(stream: &mut TcpStream) -> Response {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response, and a clean end");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let headers = lines.map(|line| line.split_once(": ").expect("a header"));
    let response = Response {
        status: status.expect("a status line").to_owned(),
        headers: headers.map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())).collect(),
        body: body.to_owned(),
    };
    assert_eq!(response.headers["connection"], "close");
    response
}

/// Expects this status, and as many bytes behind the head as it says.
#[track_caller]
fn expect_whole(stream: &mut TcpStream, status: &str) -> Response {
    let response = response(stream);
    assert_eq!(response.status, status);
    assert_eq!(response.headers["content-length"], response.body.len().to_string());
    response
}

#[track_caller]
fn ask(metrics: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = connect(metrics);
    stream.write_all(request).expect("send");
    stream
}

type Samples = BTreeMap<String, f64>;

#[track_caller]
fn samples(stream: &mut TcpStream) -> Samples {
    let response = expect_whole(stream, "200 OK");
    assert_eq!(response.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    parse(&response.body).unwrap_or_else(|why| panic!("{why} in:\n{}", response.body))
}

#[track_caller]
fn scrape(metrics: SocketAddr) -> Samples {
    samples(&mut ask(metrics, GET.as_bytes()))
}

#[track_caller]
fn expect_samples(samples: &Samples, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(samples.get(&format!("echod_{name}")), Some(value), "{name} of {samples:?}");
    }
}

/// Raised when a test is done, also when it has failed, so that its threads come to an end.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Nothing has come yet, not even the end.
fn is_silent(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("nonblocking");
    let answer = stream.peek(&mut [0]).map_err(|e| e.kind());
    stream.set_nonblocking(false).expect("blocking");
    answer == Err(ErrorKind::WouldBlock)
}

// The text

/// The samples, or what is wrong with the text: stricter than Prometheus, which takes more, and with
/// the conventions of naming.
#[expect(clippy::too_many_lines, reason = "one rule of the format after the other")]
fn parse(text: &str) -> Result<Samples, String> {
    let (mut samples, mut described) = (Samples::new(), HashSet::new());
    // The metric that is spoken of, and whether its type is known.
    let mut metric = ("", false);
    for line in text.strip_suffix('\n').ok_or("no newline at the end")?.split('\n') {
        let wrong = |why: &str| Err(format!("{why}: {line:?}"));
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            if !is_name(name) || help.is_empty() || !described.insert(name) {
                return wrong("a bad or a second HELP");
            }
            metric = (name, false);
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let Some((name, kind @ ("counter" | "gauge"))) = of.split_once(' ') else {
                return wrong("no name and type");
            };
            if metric != (name, false) {
                return wrong("a TYPE without its HELP, or a second one");
            }
            if (kind == "counter") != name.ends_with("_total") {
                return wrong("counters end in _total, and nothing else does");
            }
            metric.1 = true;
        } else {
            let Some((series, value)) = line.rsplit_once(' ') else { return wrong("no value") };
            let (name, labels) = series
                .find('{')
                .map_or((series, None), |at| (&series[..at], Some(&series[at + 1..])));
            if metric != (name, true) {
                return wrong("a sample without its TYPE right before it");
            }
            if labels.is_some_and(|labels| !are_labels(labels)) {
                return wrong("bad labels");
            }
            match value.parse::<f64>() {
                Ok(value) if value.is_finite() && value >= 0.0 => {
                    if samples.insert(series.to_owned(), value).is_some() {
                        return wrong("a second sample");
                    }
                }
                _ => return wrong("no number"),
            }
        }
    }
    let bare = described.iter().find(|name| !samples.keys().any(|s| s.starts_with(**name)));
    bare.map_or(Ok(samples), |name| Err(format!("no sample of {name}")))
}

fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.starts_with(|c: char| good(c) && !c.is_ascii_digit()) && text.chars().all(good)
}

/// What stands behind the opening brace.
fn are_labels(text: &str) -> bool {
    let Some((name, rest)) = text.split_once("=\"") else { return false };
    let mut escaped = false;
    let end = rest.find(|c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let Some(end) = end else { return false };
    let behind = &rest[end + 1..];
    is_name(name)
        && !name.contains(':')
        && (behind == "}" || behind.strip_prefix(',').is_some_and(are_labels))
}

#[test]
fn the_checker_of_these_tests_takes_what_is_right_and_nothing_else() {
    let good = "# HELP a:b_total Some text.\n# TYPE a:b_total counter\na:b_total 1\n\
                a:b_total{c=\"d}\",_e=\"\\\"\\\\\"} 2.5e3\n";
    let expected = [("a:b_total", 1.0), ("a:b_total{c=\"d}\",_e=\"\\\"\\\\\"}", 2500.0)];
    assert_eq!(parse(good), Ok(expected.map(|(k, v)| (k.to_owned(), v)).into()));
    let described = "# HELP a A.\n# TYPE a gauge\n";
    for (bad, why) in [
        ("a 1", "newline"),
        ("a 1\n", "without its TYPE"),
        ("# HELP a A.\na 1\n", "without its TYPE"),
        ("# TYPE a gauge\na 1\n", "without its HELP"),
        ("# HELP a A.\n# TYPE b gauge\nb 1\n", "without its HELP"),
        ("# HELP a A.\n# TYPE a counter\na 1\n", "_total"),
        ("# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n", "_total"),
        ("# HELP a A.\n# TYPE a histogram\na 1\n", "no name and type"),
        ("# HELP 1a A.\n", "HELP"),
        (described, "no sample"),
        (&format!("{described}# TYPE a gauge\na 1\n"), "second"),
        (&format!("{described}a 1\n{described}a 2\n"), "second"),
        (&format!("{described}a 1\na 1\n"), "second"),
        (&format!("{described}b 1\n"), "without its TYPE"),
        (&format!("{described}a one\n"), "no number"),
        (&format!("{described}a NaN\n"), "no number"),
        (&format!("{described}a 1\n\n"), "no value"),
        (&format!("{described}a 1\r\n"), "no number"),
        (&format!("{described}a{{}} 1\n"), "labels"),
        (&format!("{described}a{{b=c}} 1\n"), "labels"),
        (&format!("{described}a{{b=\"c}} 1\n"), "labels"),
        (&format!("{described}a{{b:c=\"d\"}} 1\n"), "labels"),
        (&format!("{described}a{{b=\"c\" 1\n"), "labels"),
    ] {
        let said = parse(bad).expect_err(bad);
        assert!(said.contains(why), "{said} of {bad:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "traffic of every kind, then a table of all values")]
fn the_values_are_those_of_the_traffic_and_of_the_log() {
    let (daemon, metrics) = start(&["--idle-timeout", "3s", "--max-connections-per-ip", "2"]);
    for i in 0..3 {
        let mut leaver = daemon.connect();
        ping(&mut leaver, &pattern(1000, i));
        leave(leaver);
    }
    let mut failing = daemon.connect();
    ping(&mut failing, b"in a moment");
    reset(failing);
    let mut idle = daemon.connect();
    ping(&mut idle, b"that was it");
    expect_end(&mut idle);
    idle.write_all(b"too late").expect("send");
    leave(idle);
    eventually("nobody is left", || scrape(metrics)["echod_connections_open"] == 0.0);

    let mut staying = [daemon.connect(), daemon.connect()];
    let mut bytes = f64::from(3 * 1000 + 2 * 11) + 8.0; // of the greeting
    for stream in &mut staying {
        ping(stream, b"hello");
        bytes += 5.0;
    }
    let mut third = daemon.connect();
    expect_end(&mut third);
    // The next client is accepted behind the one that is refused.
    for stream in &mut staying {
        ping(stream, b"still here?");
        bytes += 11.0;
    }
    let expected = [
        ("connections_accepted_total", 8.0),
        ("connections_open", 2.0),
        ("connections_refused_total", 1.0),
        ("connections_closed_total{cause=\"peer\"}", 4.0),
        ("connections_closed_total{cause=\"error\"}", 1.0),
        ("connections_closed_total{cause=\"idle\"}", 1.0),
        ("connections_closed_total{cause=\"drain\"}", 0.0),
        ("connections_closed_total{cause=\"cut_off\"}", 0.0),
        ("received_bytes_total", bytes),
        ("sent_bytes_total", bytes),
        ("unsent_bytes_total", 0.0),
        ("discarded_bytes_total", 8.0),
        ("accept_errors_total", 0.0),
        ("memory_waits_total", 0.0),
        (concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ];
    expect_samples(&scrape(metrics), &expected);

    // Owed to one that fails: from here on not all that was received was sent.
    let [mut stalled, leaver] = staying;
    stuff(&mut stalled, &pattern(64 * 1024 * 1024, 3));
    reset(stalled);
    leave(leaver);
    eventually("they have left", || scrape(metrics)["echod_connections_open"] == 0.0);
    let seen = scrape(metrics);
    let of = |name: &str| seen[&format!("echod_{name}_bytes_total")];
    assert!(
        of("unsent") > 0.0 && (of("received") - of("sent") - of("unsent")).abs() < 0.5,
        "{seen:?}"
    );
    daemon.signal(Signal::SIGUSR1);
    let mut logged = daemon.counters();
    let of_log = |name: &str| match name {
        "open" => "connections_open".to_owned(),
        "accepted" | "refused" => format!("connections_{name}_total"),
        "bytes_in" => "received_bytes_total".to_owned(),
        "bytes_out" => "sent_bytes_total".to_owned(),
        "bytes_unsent" | "bytes_discarded" => format!("{}_bytes_total", &name[6..]),
        "accept_errors" | "memory_waits" => format!("{name}_total"),
        name => format!("connections_closed_total{{cause=\"{}\"}}", &name[7..]),
    };
    // Since the scrape it may have grown.
    let longest_turn = Duration::from_micros(logged.remove("longest_turn_us").expect("logged"));
    assert!(seen["echod_longest_turn_seconds"] < longest_turn.as_secs_f64() + 1e-6);
    assert_eq!(logged.len() + 2, seen.len(), "{logged:?}, {seen:?}");
    for (name, n) in logged {
        let n = f64::from(u32::try_from(n).expect("few"));
        expect_samples(&seen, &[(&of_log(&name), n)]);
    }
}

// Requests

/// Waits until there is something to read, or the end.
fn wait_for_bytes(stream: &TcpStream) {
    stream.peek(&mut [0]).expect("the first byte");
}

#[test]
fn a_request_is_answered_whole_however_it_comes_and_whatever_is_behind_it() {
    let (_daemon, metrics) = start(&[]);
    let behind = "x".repeat(60_000);
    for request in [
        GET.to_owned(),
        "GET /metrics HTTP/1.0\r\n\r\n".to_owned(),
        "GET /metrics?name[]=echod&x=%20/y HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(),
        format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(64)),
        format!("GET /metrics HTTP/1.1\r\nCookie: {}\r\n\r\n", &behind[..7000]),
        GET.repeat(2),
        format!("GET /metrics HTTP/1.1\r\nContent-Length: 60000\r\n\r\n{behind}"),
    ] {
        // Small ones byte by byte.
        for pieces in [1, 500] {
            for half_closes in [false, true] {
                let mut stream = connect(metrics);
                for piece in request.as_bytes().chunks(request.len().div_ceil(pieces)) {
                    stream.write_all(piece).expect("send");
                }
                if half_closes {
                    stream.shutdown(Shutdown::Write).expect("half-close");
                }
                samples(&mut stream);
            }
        }
    }
    // To close as soon as the answer is out would turn this into a reset that destroys it.
    let mut late = ask(metrics, GET.as_bytes());
    wait_for_bytes(&late);
    for piece in behind.as_bytes().chunks(1000) {
        late.write_all(piece).expect("send");
    }
    samples(&mut late);
}

#[test]
fn a_head_is_answered_with_the_head_alone() {
    let (_daemon, metrics) = start(&[]);
    // In between a figure may get one more digit.
    eventually("the length of what a GET gets", || {
        let head = response(&mut ask(metrics, b"HEAD /metrics HTTP/1.1\r\n\r\n"));
        assert_eq!((head.status.as_str(), head.body.as_str()), ("200 OK", ""));
        let whole = expect_whole(&mut ask(metrics, GET.as_bytes()), "200 OK");
        head.headers["content-length"] == whole.headers["content-length"]
    });
    let head = response(&mut ask(metrics, b"HEAD /nothing HTTP/1.1\r\n\r\n"));
    assert_eq!((head.status.as_str(), head.body.as_str()), ("404 Not Found", ""));
}

#[test]
fn a_request_for_anything_else_is_told_what_is_wrong() {
    let (daemon, metrics) = start(&[]);
    let mut friend = daemon.connect();
    let many = |n| format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(n));
    let large = |n| format!("GET /metrics HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(n));
    let post = format!("POST /metrics HTTP/1.1\r\n\r\n{}", "x".repeat(50_000));
    let large_target = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(50_000));
    let noise = pattern(3000, 1);
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404 Not Found"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"GET /metrics.txt?/metrics HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"get /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (post.as_bytes(), "405 Method Not Allowed"),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/3.0\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", "400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400 Bad Request"),
        (&[0; 5000], "400 Bad Request"),
        (&noise, "400 Bad Request"),
        (many(65).as_bytes(), "431 Request Header Fields Too Large"),
        (many(5000).as_bytes(), "431 Request Header Fields Too Large"),
        (large(20_000).as_bytes(), "431 Request Header Fields Too Large"),
        (large(50_000).as_bytes(), "431 Request Header Fields Too Large"),
        (large_target.as_bytes(), "431 Request Header Fields Too Large"),
    ] {
        let answer = expect_whole(&mut ask(metrics, request), status);
        assert_eq!(answer.body, format!("{status}\n"));
        if status.starts_with("405") {
            assert_eq!(answer.headers["allow"], "GET, HEAD");
        }
        ping(&mut friend, b"still here?");
    }
    scrape(metrics);
    leave(friend);
}

// Clients that are no friends

#[test]
fn clients_that_stay_or_vanish_harm_neither_the_echo_nor_a_scrape() {
    let (daemon, metrics) = start(&[]);
    let mut friend = daemon.connect();
    ping(&mut friend, b"hello");
    let files = daemon.files();
    let never_sends = connect(metrics);
    let never_finishes = ask(metrics, &GET.as_bytes()[..GET.len() - 1]);
    let never_reads = ask(metrics, GET.repeat(100).as_bytes());
    eventually("they are there", || daemon.files() == files + CLIENTS - 1);
    scrape(metrics);
    ping(&mut friend, b"meanwhile");
    assert!(is_silent(&never_sends) && is_silent(&never_finishes), "a scrape waited for them");
    let cpu = daemon.cpu_within(Duration::from_secs(1));
    assert!(cpu < AT_REST, "used {cpu:?}");
    for i in 0..100 {
        let mut stream = connect(metrics);
        match i % 4 {
            0 => stream.write_all(GET.as_bytes()).expect("send"),
            1 => stream.write_all(&GET.as_bytes()[..10]).expect("send"),
            2 => {
                stream.write_all(GET.as_bytes()).expect("send");
                wait_for_bytes(&stream);
            }
            _ => {}
        }
        reset(stream);
        ping(&mut friend, b"meanwhile");
        if i % 10 == 0 {
            scrape(metrics);
        }
    }
    eventually("they are ended", || daemon.files() == files);
    scrape(metrics);
    leave(friend);
    drop((never_sends, never_finishes, never_reads));
}

/// One scrape, unless its client was so slow that it had to give way itself.
fn try_scrape(metrics: SocketAddr) -> std::io::Result<String> {
    let mut stream = connect(metrics);
    stream.write_all(GET.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn a_scrape_behind_twelve_silent_clients_that_come_again_is_answered_within_a_second() {
    let (daemon, metrics) = start(&[]);
    let mut friend = daemon.connect();
    ping(&mut friend, b"before");
    let done = AtomicBool::new(false);
    let took = thread::scope(|scope| {
        let _raised = Raised(&done);
        for i in 0..3 * CLIENTS {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // Nothing, or half a request, or a whole one from a client that then stays.
                    let mut holder = connect(metrics);
                    let _ = holder.write_all(&GET.as_bytes()[..[0, 10, GET.len()][i % 3]]);
                    let _ = holder.read_to_end(&mut Vec::new());
                    let _ = holder.read(&mut [0]);
                }
            });
        }
        let scrapes = (0..10).map(|_| {
            let start = Instant::now();
            eventually("a scrape is answered", || {
                ping(&mut friend, b"meanwhile");
                try_scrape(metrics).is_ok_and(|text| {
                    parse(text.split("\r\n\r\n").nth(1).unwrap_or_default()).is_ok()
                })
            });
            start.elapsed()
        });
        scrapes.collect::<Vec<_>>()
    });
    // Others may keep this machine busy, but not each time.
    let quickest = took.iter().min().expect("some");
    assert!(*quickest < Duration::from_secs(1), "{took:?}");
    leave(friend);
    daemon.expect_files_back();
}

#[test]
fn silent_clients_keep_their_place_while_nobody_else_wants_it() {
    let (_daemon, metrics) = start(&[]);
    let silent: Vec<_> = (0..CLIENTS).map(|_| connect(metrics)).collect();
    let start = Instant::now();
    for mut stream in silent {
        expect_end(&mut stream);
    }
    assert!(start.elapsed() + Duration::from_secs(1) >= PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn hundreds_of_scrapes_are_answered_and_none_is_counted() {
    let (_daemon, metrics) = start(&["--max-connections-per-ip", "1"]);
    let greeting = [
        ("connections_accepted_total", 1.0),
        ("connections_refused_total", 0.0),
        ("connections_open", 0.0),
        ("connections_closed_total{cause=\"peer\"}", 1.0),
        ("received_bytes_total", 8.0),
        ("sent_bytes_total", 8.0),
        ("discarded_bytes_total", 0.0),
    ];
    for _ in 0..200 {
        expect_samples(&scrape(metrics), &greeting);
    }
    thread::scope(|scope| {
        for _ in 0..3 * CLIENTS {
            scope.spawn(|| {
                for _ in 0..20 {
                    expect_samples(&scrape(metrics), &greeting);
                }
            });
        }
    });
}

// The daemon around them

#[test]
fn the_metrics_tell_of_a_drain_and_their_clients_do_not_hold_it_up() {
    let (mut daemon, metrics) = start(&["--drain-timeout", "1h"]);
    let mut stalled = daemon.connect();
    let message = pattern(64 * 1024 * 1024, 2);
    let sent = stuff(&mut stalled, &message);
    assert!(sent < message.len(), "nothing pushes back");
    daemon.signal(Signal::SIGTERM);
    eventually("the drain begins", || daemon.log().contains("draining"));
    for _ in 0..10 {
        expect_samples(&scrape(metrics), &[("connections_open", 1.0)]);
    }
    expect_bytes(&mut stalled, &message[..sent]);
    let start = Instant::now();
    let silent = connect(metrics);
    leave(stalled);
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
    assert!(start.elapsed() < PATIENCE, "it waited for a client of the metrics");
    drop(silent);
    daemon.expect_counters_add_up();
}

#[test]
fn every_address_that_the_log_names_answers() {
    let mut command = Command::new(ECHOD);
    let daemon = Daemon::spawn(command.args(["--metrics", ":0", "127.0.0.1:0"]));
    let addresses = addresses(&daemon);
    for address in &addresses {
        scrape(*address);
    }
    if TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("NOT RUN: the IPv6 half of this test needs IPv6");
    }
    assert!(addresses.len() == 2 && addresses[0].port() == addresses[1].port(), "{addresses:?}");
}

#[test]
fn datagrams_are_counted_where_there_are_any() {
    let (daemon, metrics) = start(&["udp://127.0.0.1:0"]);
    let address = daemon.printed[0].strip_prefix("udp://").and_then(|a| a.parse().ok());
    let address = address.expect("an address");
    let before = scrape(metrics)["echod_datagrams_sent_total"];
    let client = common::datagrams::client();
    for _ in 0..10 {
        common::datagrams::ping(&client, address, b"hello");
    }
    expect_samples(
        &scrape(metrics),
        &[
            ("datagrams_received_total", before + 10.0),
            ("datagrams_sent_total", before + 10.0),
            ("datagrams_dropped_total{cause=\"port\"}", 0.0),
            ("datagrams_dropped_total{cause=\"rate\"}", 0.0),
            ("datagram_receive_errors_total", 0.0),
        ],
    );
    let (_streams_only, metrics) = self::start(&[]);
    assert!(!scrape(metrics).keys().any(|name| name.contains("datagram")));
}

#[test]
fn a_place_that_is_not_to_be_had_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = taken.local_addr().expect("address").to_string();
    for (place, code, words) in [
        (taken.as_str(), 1, &["cannot listen on", &taken, "in use"][..]),
        ("203.0.113.1:0", 1, &["cannot listen on", "203.0.113.1:0"]),
        ("unix:x", 2, &["--metrics", "unix:x", "HOST:PORT"]),
        ("9100", 2, &["--metrics", "'9100'"]),
        ("udp://localhost:9100", 2, &["--metrics", "HOST:PORT"]),
        ("", 2, &["--metrics"]),
    ] {
        expect_error(Command::new(ECHOD).args(["--metrics", place, "127.0.0.1:0"]), code, words);
    }
}

#[test]
fn a_scrape_that_finds_no_file_costs_nothing_and_is_answered_as_soon_as_there_is_one() {
    if !have("prlimit", &["--version"]) {
        return;
    }
    let (daemon, metrics) = start(&[]);
    let mut friends = [daemon.connect(), daemon.connect()];
    for friend in &mut friends {
        ping(friend, b"before");
    }
    let [mut friend, leaver] = friends;
    let set_limit = |files: usize| {
        let (pid, limit) = (daemon.pid().to_string(), format!("--nofile={files}:"));
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(status.expect("prlimit").success());
    };
    let files = format!("/proc/{}/fd", daemon.pid());
    let in_use = (0..1000).find(|n| fs::symlink_metadata(format!("{files}/{n}")).is_err());
    set_limit(in_use.expect("a free number"));
    let waiting = [ask(metrics, GET.as_bytes()), ask(metrics, GET.as_bytes())];
    eventually("the error is logged", || daemon.log().contains("cannot accept on"));
    let cpu = daemon.cpu_within(Duration::from_secs(1));
    assert!(cpu < AT_REST, "used {cpu:?}");
    ping(&mut friend, b"meanwhile");
    assert!(waiting.iter().all(is_silent), "there was a file after all");

    // Both, one after the other, by way of the one file that this frees.
    leave(leaver);
    for mut stream in waiting {
        samples(&mut stream);
    }
    ping(&mut friend, b"meanwhile");
    set_limit(1000);
    scrape(metrics);
    leave(friend);
    assert!(daemon.log().matches(" WARN ").count() <= 2, "log: {}", daemon.log());
}

#[test]
fn a_daemon_with_all_the_connections_that_it_may_have_still_has_files_for_its_metrics() {
    let script = "ulimit -n 64; exec \"$0\" --metrics 127.0.0.1:0 127.0.0.1:0";
    let daemon = Daemon::spawn(Command::new("sh").args(["-c", script, ECHOD]));
    let metrics = addresses(&daemon)[0];
    // Fewer than 48 only where the test itself has inherited files.
    let log = daemon.log();
    let most = log.split_once("at most ").and_then(|(_, n)| n.split(' ').next()?.parse().ok());
    let most: u32 = most.expect("the limit is logged");
    assert!((40..=48).contains(&most), "{log}");
    let mut clients: Vec<_> = (0..most).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        ping(client, b"hello");
    }
    let silent: Vec<_> = (1..CLIENTS).map(|_| connect(metrics)).collect();
    expect_samples(&scrape(metrics), &[("connections_open", f64::from(most))]);
    assert!(silent.iter().all(is_silent), "the scrape waited for them");
    clients.into_iter().for_each(leave);
    drop(silent);
    assert!(!daemon.log().contains("WARN"), "log: {}", daemon.log());
}
