//! The load tester through outages: servers that drop their connections, that go and come back, that have
//! several addresses; and pauses that are its own and not the server's.
#![cfg(all(target_os = "linux", feature = "load"))]

mod common;
#[path = "common/tester.rs"]
mod tester;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Daemon, eventually, have};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tester::{ECHOLOAD, Scratch, Tester, errors, keys, load, number, report, serve};

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

/// What a clock of a busy machine may add to an outage.
const SLACK: f64 = 0.05;

#[track_caller]
fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a count: {value}"))
}

/// The one outage of a report, whose sums agree with it.
#[track_caller]
fn only_outage(report: &Value) -> Value {
    let outages = &report["outages"];
    assert_eq!(outages["count"], 1, "{report}");
    let only = outages["list"][0].clone();
    assert_eq!(
        (&outages["total_us"], &outages["longest_us"]),
        (&only["length_us"], &only["length_us"])
    );
    only
}

/// An echo server that drops all its connections after a number of messages.
struct Dropper {
    address: SocketAddr,
    streams: Mutex<Vec<TcpStream>>,
    echoed: AtomicUsize,
    drop_at: usize,
    is_gone: AtomicBool,
}

impl Dropper {
    /// `stays`: it goes on listening.
    fn start(drop_at: usize, stays: bool) -> Arc<Dropper> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let dropper = Arc::new(Dropper {
            address: listener.local_addr().expect("address"),
            streams: Mutex::default(),
            echoed: AtomicUsize::new(0),
            drop_at,
            is_gone: AtomicBool::new(false),
        });
        let server = Arc::clone(&dropper);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if !stays && server.is_gone.load(Ordering::SeqCst) {
                    break;
                }
                server.streams.lock().expect("streams").push(stream.try_clone().expect("a file"));
                let server = Arc::clone(&server);
                thread::spawn(move || server.echo(stream));
            }
        });
        dropper
    }

    fn echo(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut message = [0; 64];
        loop {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
            if self.echoed.fetch_add(1, Ordering::SeqCst) + 1 == self.drop_at {
                self.is_gone.store(true, Ordering::SeqCst);
                for stream in self.streams.lock().expect("streams").drain(..) {
                    stream.shutdown(Shutdown::Both)?;
                }
                // It sees that it is to go.
                drop(TcpStream::connect(self.address));
            }
        }
    }
}

/// The daemon on a port of the test's own, which may be killed and started again.
struct Restarted {
    child: Child,
    listener: Option<TcpListener>,
    address: SocketAddr,
}

impl Restarted {
    /// `keeps`: the test has the socket, and hands it over, as a service manager does.
    fn start(keeps: bool) -> Restarted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let listener = Some(listener).filter(|_| keeps);
        Restarted { child: Restarted::spawn(address, listener.as_ref()), listener, address }
    }

    fn spawn(address: SocketAddr, listener: Option<&TcpListener>) -> Child {
        let mut command = Command::new("sh");
        let hand_over = r#"exec 3<&0 0</dev/null; exec env LISTEN_FDS=1 LISTEN_PID=$$ "$0" "$@""#;
        let script = if listener.is_some() { hand_over } else { r#"exec "$0" "$@""# };
        command.args(["-c", script, ECHOD, "-q"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = match listener {
            Some(listener) => {
                let same = listener.as_fd().try_clone_to_owned().expect("one more file");
                command.stdin(Stdio::from(same)).spawn()
            }
            None => command.arg(address.to_string()).stdin(Stdio::null()).spawn(),
        }
        .expect("start");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("stdout");
        assert!(line.contains(&address.to_string()), "{line}");
        child
    }

    /// Kills it, and starts another one after a gap. Returns the shortest and the longest time that may have
    /// been without a server, in seconds.
    fn restart(&mut self, gap: Duration) -> (f64, f64) {
        let before = Instant::now();
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        let dead = Instant::now();
        thread::sleep(gap);
        let shortest = dead.elapsed();
        self.child = Restarted::spawn(self.address, self.listener.as_ref());
        (shortest.as_secs_f64(), before.elapsed().as_secs_f64())
    }
}

impl Drop for Restarted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// Servers that drop connections

#[test]
fn connections_that_are_dropped_are_made_again_and_every_message_is_accounted_for() {
    let server = Dropper::start(200, true);
    let report = report(server.address, "-c 10 -R 100 -d 4s", 1);
    assert_eq!(report["messages"]["sent"], 400, "{report}");
    assert_eq!(report["messages"]["unsent"], 0, "{report}");
    // At most one is in flight on each connection.
    assert!(number(&report["messages"]["echoed"]) >= 390.0, "{report}");
    assert_eq!(report["connections"]["lost"], 10, "{report}");
    assert_eq!(report["connections"]["established"], 20, "{report}");
    let outage = only_outage(&report);
    assert_eq!(outage["connections_down"], 10, "{report}");
    assert_eq!(outage["messages_lost"], report["messages"]["lost"], "{report}");
    assert!((number(&outage["from_s"]) - 2.0).abs() < 1.0, "{report}");
    for key in keys(&outage) {
        let documentation = include_str!("../docs/load-testing.md");
        assert!(documentation.contains(&format!("`{key}`")), "{key}");
    }
    assert!(number(&outage["length_us"]) < 1e6, "{report}");
}

#[test]
fn what_was_due_after_the_server_went_for_good_could_not_be_sent() {
    let server = Dropper::start(200, false);
    for (server, options) in [(server, ""), (Dropper::start(200, false), "-t 2 --reconnect")] {
        let report = report(server.address, &format!("-c 10 -R 100 -d 4s {options}"), 1);
        assert_eq!(report["messages"]["sent"], 400, "{report}");
        assert!(number(&report["messages"]["unsent"]) >= 150.0, "{report}");
        assert!((number(&report["elapsed_s"]) - 4.0).abs() < 1e-6, "{report}");
        let outage = only_outage(&report);
        assert_eq!(outage["until_the_end"], true, "{report}");
        assert_eq!(outage["messages_unsent"], report["messages"]["unsent"], "{report}");
        assert!(number(&outage["length_us"]) > 1.5e6, "{report}");
    }
}

#[test]
fn without_reconnects_the_run_ends_with_the_last_connection() {
    let server = Dropper::start(100, true);
    let begun = Instant::now();
    let report = report(server.address, "-c 10 -R 100 -d 50s --no-reconnect", 1);
    assert!(begun.elapsed() < Duration::from_secs(25), "{report}");
    assert_eq!(report["connections"]["established"], 10, "{report}");
    assert_eq!(report["parameters"]["replace_lost"], false, "{report}");
    assert!(number(&report["messages"]["sent"]) < 1000.0, "{report}");
}

#[test]
fn a_wrong_port_ends_the_run_at_once_and_says_so() {
    // Bound, so that nobody else gets the port, and deaf.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    let address = socket.local_addr().expect("address").as_socket().expect("IPv4");
    for options in ["-c 5", "-c 5 -t 3 -R 100", "-c 5 --reconnect", "-c 5 --connect-rate 100"] {
        let begun = Instant::now();
        let report = report(address, &format!("-d 50s {options}"), 1);
        assert!(begun.elapsed() < Duration::from_secs(25), "{options}: {report}");
        assert_eq!(report["errors"], json!({"connection refused": 5}), "{options}");
        assert_eq!(report["outages"]["count"], 0, "{options}: {report}");
    }
}

#[test]
fn a_server_that_was_away_when_one_connection_was_to_be_made_gets_it_later() {
    let server = Arc::new(Mutex::new(Restarted::start(false)));
    let address = server.lock().expect("server").address;
    let killer = Arc::clone(&server);
    // Ten connects a second for a second; the server is away for some of them.
    let restart = thread::spawn(move || {
        thread::sleep(Duration::from_millis(350));
        killer.lock().expect("server").restart(Duration::from_millis(300))
    });
    let report = report(address, "-c 10 --connect-rate 10 -R 100 -d 3s", 1);
    restart.join().expect("no panic");
    let counted = report["per_connection"]["min_messages"].as_u64();
    assert!(counted >= Some(1), "all ten were served: {report}");
}

#[test]
fn a_number_of_messages_is_sent_through_an_outage_and_not_to_a_server_that_is_gone() {
    let server = Dropper::start(500, true);
    let report_of = |server: &Dropper, options: &str| report(server.address, options, 1);
    let report = report_of(&server, "-c 10 -n 1000 -R 1000");
    assert_eq!(report["messages"]["sent"], 1000, "{report}");
    assert_eq!(report["messages"]["unsent"], 0, "{report}");
    let server = Dropper::start(500, true);
    let report = report_of(&server, "-c 10 -n 1000");
    assert_eq!(report["messages"]["sent"], 1000, "{report}");
    let messages = &report["messages"];
    assert_eq!(count(&messages["echoed"]) + count(&messages["lost"]), 1000, "{report}");
    for options in ["-c 5 -n 1M", "-c 5 -n 1k -R 1k", "-c 5 -n 1k -R 1k --reconnect"] {
        let server = Dropper::start(500, false);
        let report = report_of(&server, &format!("{options} --timeout 500ms"));
        assert_eq!(only_outage(&report)["until_the_end"], true, "{options}: {report}");
    }
}

#[test]
fn a_server_that_loses_each_connection_is_asked_less_and_less() {
    let server = serve(|stream| {
        let mut message = [0; 64];
        stream.read_exact(&mut message)
    });
    let report = report(server, "-c 2 -d 3s", 1);
    // 10 ms, 20, 40 and so on up to 1 s: eight tries within three seconds, a little more with the spread.
    let established = number(&report["connections"]["established"]);
    assert!((6.0..=26.0).contains(&established), "{report}");
    // It was never there for anybody.
    assert_eq!(report["outages"]["count"], 0, "{report}");
}

#[test]
fn a_server_without_room_for_all_is_no_outage_for_those_that_it_serves() {
    let daemon = Daemon::start(&["--max-connections-per-ip", "3"]);
    let report = report(daemon.address(), "-c 5 -R 100 -d 1s", 1);
    assert_eq!(report["outages"]["count"], 0, "{report}");
    assert!(number(&report["connections"]["lost"]) >= 2.0, "{report}");
    assert!(number(&report["messages"]["echoed"]) >= 60.0, "{report}");
    assert!(number(&report["messages"]["unsent"]) + number(&report["messages"]["lost"]) >= 40.0);
}

#[test]
fn a_datagram_socket_that_was_refused_is_made_again() {
    let first = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = first.local_addr().expect("address");
    let serve = |socket: UdpSocket, most: usize| {
        let mut room = [0; 2048];
        for _ in 0..most {
            let (n, peer) = socket.recv_from(&mut room).expect("recv");
            // The client may have left.
            let _ = socket.send_to(&room[..n], peer);
        }
    };
    thread::spawn(move || {
        serve(first, 300);
        thread::sleep(Duration::from_millis(300));
        serve(UdpSocket::bind(address).expect("bind again"), usize::MAX);
    });
    let target = format!("udp://{address}");
    let report = report(&target, "-c 5 -R 500 -d 3s --timeout 1s", 1);
    assert_eq!(report["messages"]["sent"], 1500, "{report}");
    assert!(number(&report["messages"]["echoed"]) >= 1400.0, "{report}");
    assert!(number(&report["outages"]["count"]) >= 1.0, "{report}");
    assert!(number(&report["outages"]["longest_us"]) >= 0.25e6, "{report}");
}

// Restarts

/// A restart of the daemon, with half a second between the two, under load. It takes many connections to see
/// its end so exactly: each tries only now and then.
#[track_caller]
fn restart_under(options: &str, keeps: bool) -> (Value, Value) {
    let mut server = Restarted::start(keeps);
    let options = format!("--output-format json -i 100ms {options}");
    let mut tester = Tester::start(server.address, &options);
    tester.expect_progress(10);
    let (shortest, longest) = server.restart(Duration::from_millis(500));
    let report = tester.finish().report(1);
    let outage = only_outage(&report);
    let length = number(&outage["length_us"]) / 1e6;
    let slack = SLACK + number(&report["generator"]["gaps_us"]) / 1e6;
    eprintln!(
        "{options}: without a server {shortest:.3} to {longest:.3} s, reported {length:.3} s"
    );
    assert!(length >= shortest - slack && length <= longest + slack, "{report}");
    (report, outage)
}

#[test]
fn a_restart_is_named_with_its_length_and_every_message_is_accounted_for() {
    for options in ["-R 1000 -d 6s", "-R 1000 -d 6s -t 2", "-R 1000 -d 6s --reconnect"] {
        let (report, outage) = restart_under(options, false);
        assert_eq!(report["messages"]["sent"], 6000, "{report}");
        assert_eq!(report["messages"]["unsent"], 0, "{report}");
        let messages = &report["messages"];
        assert_eq!(count(&messages["echoed"]) + count(&messages["lost"]), 6000, "{report}");
        assert_eq!(outage["messages_lost"], messages["lost"], "{report}");
        // As many as were due in it: a thousand a second.
        let (delayed, length) = (&outage["messages_delayed"], number(&outage["length_us"]) / 1e6);
        assert!(number(delayed) >= (length - 0.1) * 1000.0, "{report}");
        // When one is back, the others do not wait out their waits, which are up to a second by now.
        let gaps = number(&report["generator"]["gaps_us"]) / 1e6;
        assert!(number(delayed) <= (length + 0.1 + gaps) * 1000.0, "{report}");
    }
}

#[test]
fn a_restart_behind_a_socket_that_stays_refuses_nobody() {
    let (report, outage) = restart_under("-R 1000 -d 4s", true);
    assert_eq!(report["messages"]["sent"], 4000, "{report}");
    assert_eq!(report["connections"]["failed"], 0, "{report}");
    assert_eq!(outage["connections_down"], 50, "{report}");
}

#[test]
fn a_closed_loop_goes_on_behind_a_restart() {
    let (report, outage) = restart_under("-d 3s", false);
    assert_eq!(report["messages"]["unsent"], 0, "{report}");
    assert_eq!(outage["connections_down"], 50, "{report}");
    assert!((number(&report["elapsed_s"]) - 3.0).abs() < 1e-6, "{report}");
}

#[test]
fn a_threshold_on_the_outage_is_about_the_longest() {
    let server = Dropper::start(100, false);
    let fail_if = "--fail-if outage>200ms --fail-if outage>1h --fail-if unsent>0";
    let report = report(server.address, &format!("-c 5 -R 200 -d 2s {fail_if}"), 1);
    assert_eq!(report["thresholds"], json!(["outage>200ms", "unsent>0"]));
    let daemon = Daemon::start(&[]);
    tester::report(daemon.address(), "-n 10 --fail-if outage>=0", 99);
    tester::report(daemon.address(), "-n 10 --fail-if outage>0", 0);
    let text = load(Dropper::start(100, true).address, "-c 5 -R 200 -d 1s").out;
    assert!(text.contains("\noutages      1, 0."), "{text}");
    assert!(text.contains(" s on: 5 connections down; "), "{text}");
}

// Messages on a connection

#[test]
fn a_connection_ends_after_the_messages_that_it_may_have() {
    let counts = Arc::new(Mutex::new(Vec::new()));
    let counted = Arc::clone(&counts);
    let address = serve(move |stream| {
        let mut messages = 0;
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            messages += 1;
            stream.write_all(&message)?;
        }
        counted.lock().expect("counts").push(messages);
        Ok(())
    });
    for options in ["", "-p 3", "-R 1000", "-p 7 --half-close", "-t 2 -R 1000 -p 3 --half-close"] {
        let options = format!("-c 2 -n 100 --messages-per-connection 7 {options}");
        let report = report(address, &options, 0);
        assert_eq!(report["messages"]["echoed"], 100, "{options}: {report}");
        let sum = || counts.lock().expect("counts").iter().sum::<usize>();
        eventually("all have left", || sum() == 100);
        let counts = std::mem::take(&mut *counts.lock().expect("counts"));
        assert_eq!(report["connections"]["established"], counts.len(), "{options}: {report}");
        assert!(counts.iter().all(|&count| count <= 7), "{options}: {counts:?}");
        // The last one of each of the two places may have fewer.
        assert!(counts.iter().filter(|&&count| count < 7).count() <= 2, "{options}: {counts:?}");
    }
    let text = load(address, "-n 10 --messages-per-connection 5").out;
    assert!(text.contains(", a new connection for each 5;"), "{text}");
    for (options, word) in [
        ("--messages-per-connection 0", "messages-per-connection"),
        ("--messages-per-connection 2 -p 3", "messages-per-connection"),
        ("--messages-per-connection 2 --reconnect", "reconnect"),
    ] {
        let answer = load(address, options);
        assert_eq!(answer.code, Some(2), "{answer:?}");
        assert!(answer.err.contains(word), "{answer:?}");
    }
}

// Its own pauses

#[test]
fn a_tester_that_was_stopped_accuses_nobody() {
    let daemon = Daemon::start(&["--max-connections", "4000"]);
    let options = "-c 3000 -d 5s --timeout 1s -i 100ms --output-format json";
    let mut tester = Tester::start(daemon.address(), options);
    tester.expect_progress(5);
    tester.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(2));
    tester.signal(Signal::SIGCONT);
    let report = tester.finish().report(0);
    assert_eq!(report["messages"]["timed_out"], 0, "{report}");
    let generator = &report["generator"];
    assert!(number(&generator["longest_gap_us"]) >= 1.9e6, "{report}");
    assert!(number(&generator["gaps_us"]) >= number(&generator["longest_gap_us"]), "{report}");
    assert_eq!(generator["limited"], true, "{report}");
}

#[test]
fn a_closed_loop_that_was_stopped_says_so() {
    let daemon = Daemon::start(&[]);
    let mut tester = Tester::start(daemon.address(), "-c 20 -d 3s -i 100ms");
    tester.expect_progress(5);
    tester.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(1));
    tester.signal(Signal::SIGCONT);
    let answer = tester.finish();
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.out.contains("\ngaps         "), "{}", answer.out);
    let said = "the load tester was held up for ";
    assert!(answer.out.contains(said), "{}", answer.out);
    assert!(answer.out.contains("the figures above have this in them"), "{}", answer.out);
}

#[test]
fn a_message_that_never_comes_back_times_out_however_the_tester_was_stopped() {
    let silent = serve(|stream| std::io::copy(stream, &mut std::io::sink()).map(drop));
    let mut tester = Tester::start(
        silent,
        "-c 3 -n 3 --timeout 2s -i 100ms --output-format json --no-reconnect",
    );
    tester.expect_progress(3);
    tester.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(1));
    tester.signal(Signal::SIGCONT);
    let report = tester.finish().report(1);
    assert_eq!(report["errors"], json!({"message timed out": 3}));
}

// Several addresses

/// Echo servers on one port of several addresses 127.0.0.x.
fn on_one_port(last: &[u8]) -> (u16, Vec<Arc<AtomicUsize>>) {
    let bind_all = || -> Option<(u16, Vec<TcpListener>)> {
        let mut port = 0;
        let bound: Option<Vec<_>> = last
            .iter()
            .map(|&last| {
                let listener =
                    TcpListener::bind(SocketAddr::from(([127, 0, 0, last], port))).ok()?;
                port = listener.local_addr().ok()?.port();
                Some(listener)
            })
            .collect();
        Some((port, bound?))
    };
    let (port, listeners) = (0..100).find_map(|_| bind_all()).expect("a port on all of them");
    let serve = |listener: TcpListener| {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                counted.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
            }
        });
        connections
    };
    (port, listeners.into_iter().map(serve).collect())
}

/// A load of `many.test`, which has these addresses, in a mount namespace with a hosts file of its own.
#[track_caller]
fn start_with_hosts(hosts: &Scratch, port: u16, options: &str) -> Option<Tester> {
    const SCRIPT: &str = r#"mount --bind "$HOSTS" /etc/hosts && exec "$0" "$@""#;
    if !have("unshare", &["-m", "mount", "--bind", "/etc/passwd", "/etc/hosts"]) {
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", SCRIPT, ECHOLOAD, "--output-format", "json"]);
    command.args(options.split_whitespace()).arg(format!("many.test:{port}"));
    Some(Tester::spawn(command.env("HOSTS", hosts.path())))
}

fn write_hosts(hosts: &Scratch, last: &[u8]) {
    let line = |last: &u8| format!("127.0.0.{last} many.test\n");
    // In place: a new file would not be the one that is mounted.
    fs::write(hosts.path(), last.iter().map(line).collect::<String>()).expect("a hosts file");
}

/// The counts of each address: established, failed, lost.
fn by_address(report: &Value) -> Vec<(String, [u64; 3])> {
    let counts = |address: &Value| {
        let count = |what: &str| address[what].as_u64().expect("a count");
        let name = address["address"].as_str().expect("an address");
        let ip = name.trim_start_matches("tcp://").split(':').next().expect("an IP address");
        (ip.to_owned(), ["established", "failed", "lost"].map(count))
    };
    report["addresses"].as_array().expect("addresses").iter().map(counts).collect()
}

#[test]
fn connections_are_spread_over_all_addresses_of_a_name() {
    let (port, servers) = on_one_port(&[2, 3, 4]);
    let hosts = Scratch::new("hosts-all");
    write_hosts(&hosts, &[2, 3, 4]);
    for (options, expected) in [
        ("-c 9 -n 90", [3, 3, 3]),
        ("-c 9 -n 90 -t 3", [3, 3, 3]),
        ("-c 3 -n 90 --reconnect", [30, 30, 30]),
        ("-c 9 -n 90 --addresses first", [9, 0, 0]),
    ] {
        let Some(tester) = start_with_hosts(&hosts, port, options) else { return };
        let report = tester.finish().report(0);
        let counts = by_address(&report);
        let met: Vec<usize> = servers.iter().map(|count| count.swap(0, Ordering::SeqCst)).collect();
        assert_eq!(met, expected, "{options}: {report}");
        let established: Vec<_> = counts.iter().map(|(_, [n, ..])| usize::try_from(*n)).collect();
        assert_eq!(established, met.into_iter().map(Ok).collect::<Vec<_>>(), "{options}: {report}");
    }
}

#[test]
fn an_address_that_refuses_is_tried_less_and_reported_and_the_load_goes_to_the_others() {
    // Nobody listens on the second one.
    let (port, _servers) = on_one_port(&[2, 4]);
    let hosts = Scratch::new("hosts-refused");
    write_hosts(&hosts, &[2, 3, 4]);
    let Some(tester) = start_with_hosts(&hosts, port, "-c 10 -n 100") else { return };
    let report = tester.finish().report(0);
    assert_eq!(report["connections"]["failed"], 0, "{report}");
    assert_eq!(report["connections"]["established"], 10, "{report}");
    let (kinds, count) = errors(&report);
    assert_eq!(kinds, ["connection refused"], "{report}");
    let counts = by_address(&report);
    assert_eq!(counts[1], ("127.0.0.3".to_owned(), [0, count, 0]), "{report}");
    assert_eq!((counts[0].1[0], counts[2].1[0]), (5, 5), "{report}");
    // A thousand connects of a second and more: the tries double their distance.
    let options = "-c 5 -R 1000 -d 2s --reconnect";
    let Some(tester) = start_with_hosts(&hosts, port, options) else { return };
    let report = tester.finish().report(0);
    let refused = by_address(&report)[1].1[1];
    assert!((5..=20).contains(&refused), "{report}");
}

#[test]
fn a_name_is_looked_up_again_when_a_connection_is_made_again() {
    let (port, servers) = on_one_port(&[3]);
    let hosts = Scratch::new("hosts-moved");
    write_hosts(&hosts, &[2]);
    let Ok(first) = TcpListener::bind(SocketAddr::from(([127, 0, 0, 2], port))) else {
        return eprintln!("NOT RUN: another process has the port on 127.0.0.2");
    };
    let options = "-c 5 -R 100 -d 5s -i 100ms";
    let Some(mut tester) = start_with_hosts(&hosts, port, options) else { return };
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..5 {
        let (mut stream, _) = first.accept().expect("accept");
        streams.push(stream.try_clone().expect("one more file"));
        thread::spawn(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
    }
    tester.expect_progress(10);
    write_hosts(&hosts, &[3]);
    drop(first);
    for stream in streams {
        stream.shutdown(Shutdown::Both).expect("shutdown");
    }
    let report = tester.finish().report(1);
    assert_eq!(report["messages"]["sent"], 500, "{report}");
    assert_eq!(report["messages"]["unsent"], 0, "{report}");
    assert_eq!(servers[0].load(Ordering::SeqCst), 5, "{report}");
    let counts = by_address(&report);
    assert_eq!(counts[0].1[0], 5, "{report}");
    assert_eq!(counts[1], ("127.0.0.3".to_owned(), [5, 0, 0]), "{report}");
}

#[test]
fn an_address_that_never_answers_costs_few_messages_their_time_and_is_reported() {
    // What is sent to the other end of the pair is for a machine that is not there.
    const SCRIPT: &str = r#"ip link set lo up && ip link add v0 type veth peer name v1
        ip addr add 10.9.9.1/24 dev v0 && ip link set v0 up && ip link set v1 up
        ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:02 dev v0 && mount --bind "$HOSTS" /etc/hosts
        $ECHOD -q 10.9.9.1:5000 > $OUT &
        until [ -s $OUT ]; do sleep 0.01; done
        exec "$0" "$@""#;
    const UNSHARE: [&str; 5] = ["-n", "-m", "-p", "-f", "--kill-child"];
    if !have("unshare", &[&UNSHARE[..], &["ip", "link", "add", "v0", "type", "veth"]].concat()) {
        return;
    }
    let (hosts, out) = (Scratch::new("hosts-silent"), Scratch::new("echod-silent"));
    fs::write(hosts.path(), "10.9.9.1 many.test\n10.9.9.2 many.test\n").expect("a hosts file");
    let mut command = Command::new("unshare");
    command.args(UNSHARE).args(["sh", "-c", SCRIPT, ECHOLOAD, "--output-format", "json"]);
    command.args("-c 5 -R 200 -d 4s --reconnect --timeout 500ms".split(' ')).arg("many.test:5000");
    command.env("HOSTS", hosts.path()).env("OUT", out.path()).env("ECHOD", ECHOD);
    let report = Tester::spawn(&mut command).finish().report(0);
    assert_eq!(report["messages"]["echoed"], 800, "{report}");
    let silent = by_address(&report)[1].1;
    // One at a time, half a second each.
    assert!(silent[0] == 0 && (1..=15).contains(&silent[1]), "{report}");
    assert_eq!(report["connections"]["failed"], 0, "{report}");
    assert!(
        number(&report["connect_us"]["max"]) >= 450_000.0,
        "its tries are in the times: {report}"
    );
    assert!(number(&report["connect_us"]["p90"]) < 250_000.0, "most do not try it: {report}");
}
