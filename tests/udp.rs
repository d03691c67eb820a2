//! Datagrams: what comes back and from where, what is not answered, and what nobody can do with it.
#![cfg(target_os = "linux")]

mod common;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::datagrams::{client, client_of, expect, from, ping};
use common::{DEADLINE, Daemon, eventually, expect_error, halt, have, leave, pattern, resume};
use echoloop::{Config, Server};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");
const ANY_UDP: &str = "udp://127.0.0.1:0";
const ANY_TCP: &str = "tcp://127.0.0.1:0";
const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
fn start(arguments: &[&str]) -> Daemon {
    Daemon::spawn(Command::new(ECHOD).args(arguments))
}

/// The UDP addresses that it has printed.
fn addresses(daemon: &Daemon) -> Vec<SocketAddr> {
    let lines = daemon.printed.iter().filter_map(|line| line.strip_prefix("udp://"));
    lines.map(|address| address.parse().expect("an address")).collect()
}

/// Its first UDP address, of IPv4.
#[track_caller]
fn address(daemon: &Daemon) -> SocketAddrV4 {
    match addresses(daemon)[..] {
        [SocketAddr::V4(address), ..] => address,
        _ => panic!("no IPv4 address in {:?}", daemon.printed),
    }
}

/// The counters that a line shows which is logged now.
#[track_caller]
fn counters(daemon: &Daemon) -> HashMap<String, u64> {
    let lines = || daemon.log().matches(" accepted=").count();
    let before = lines();
    daemon.signal(Signal::SIGUSR1);
    eventually("a line of counters", || lines() > before);
    daemon.counters()
}

/// Waits until a counter has this value.
#[track_caller]
fn expect_count(daemon: &Daemon, name: &str, value: u64) {
    let mut seen = 0;
    eventually(&format!("{name}={value}"), || {
        seen = counters(daemon)[name];
        assert!(seen <= value, "{name}={seen}, not {value}; log: {}", daemon.log());
        seen == value
    });
}

/// Most answers that a source may have had since it began: the rate, what a quiet source may have at once, and
/// those before it began.
fn allowed(rate: u64, began: Instant) -> u64 {
    let ms = u64::try_from(began.elapsed().as_millis()).expect("a short time");
    rate * ms / 1000 + rate / 10 + 10
}

/// Sends datagrams with source addresses that are not its own.
struct Forger(Socket);

impl Forger {
    fn new() -> Option<Forger> {
        // IPPROTO_RAW: the IP header comes with each packet (raw(7)).
        match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))) {
            Ok(socket) => Some(Forger(socket)),
            Err(e) => {
                eprintln!("NOT RUN: forged datagrams need a raw socket: {e}");
                None
            }
        }
    }

    /// The kernel fills in the length and the checksum of the IP header, and UDP over IPv4 needs none.
    #[track_caller]
    fn send(&self, source: SocketAddrV4, to: SocketAddrV4, datagram: &[u8]) {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(source.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(source.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        let length = u16::try_from(8 + datagram.len()).expect("a short datagram");
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(datagram);
        self.0.send_to(&packet, &SocketAddr::from(to).into()).expect("send");
    }
}

fn have_strace() -> bool {
    have("strace", &["-D", "-qq", "-o", "/dev/null", "true"])
}

/// The daemon on a system that makes calls fail.
#[track_caller]
fn with_faults(inject: &str, arguments: &[&str]) -> Daemon {
    let mut command = Command::new("strace");
    command.args(["-D", "-qq", "-o", "/dev/null", "-e", inject]);
    Daemon::spawn(command.arg(ECHOD).args(arguments))
}

// What comes back

#[test]
fn datagrams_of_every_size_come_back_and_an_empty_one_is_not_the_end() {
    let daemon = start(&["udp://127.0.0.1:0", "udp://:0"]);
    for &address in &addresses(&daemon) {
        let mut to = address;
        if to.ip().is_unspecified() {
            to.set_ip(client_of(to.is_ipv6()).local_addr().expect("address").ip());
        }
        let client = client_of(to.is_ipv6());
        for length in [0, 1, 1472, 65_507, 0, 64] {
            ping(&client, to, &pattern(length, 7));
        }
    }
}

#[test]
fn many_clients_get_their_own_datagrams_in_order() {
    let daemon = start(&["--udp-rate", "1M", ANY_UDP]);
    let to = address(&daemon).into();
    let clients: Vec<UdpSocket> = (0..50).map(|_| client()).collect();
    let datagram = |client: usize, nth: usize| pattern(64, (client * 1000 + nth) as u64);
    for round in 0..20 {
        for (number, client) in clients.iter().enumerate() {
            for nth in [2 * round, 2 * round + 1] {
                client.send_to(&datagram(number, nth), to).expect("send");
            }
        }
        for (number, client) in clients.iter().enumerate() {
            for nth in [2 * round, 2 * round + 1] {
                expect(client, &datagram(number, nth), to);
            }
        }
    }
    let client = client();
    ping(&client, to, b"the last one");
    let counters = counters(&daemon);
    assert!(counters["datagrams_sent"] >= 2001, "{counters:?}");
}

#[test]
fn addresses_are_printed_in_the_order_of_the_endpoints_and_every_interface_has_one_port() {
    let folder = std::env::temp_dir().join(format!("echod-udp-{}", std::process::id()));
    let unix = format!("unix:{}", folder.display());
    let arguments = [ANY_UDP, ANY_TCP, "udp://:0", &unix, "udp://127.0.0.2:0", ":0"];
    let daemon = start(&arguments);
    let printed: Vec<&str> =
        daemon.printed.iter().map(|line| line.trim_end_matches(char::is_numeric)).collect();
    let has_ipv6 = UdpSocket::bind("[::1]:0").is_ok();
    let mut expected =
        vec!["udp://127.0.0.1:", "tcp://127.0.0.1:", "udp://0.0.0.0:", "udp://[::]:"];
    expected.extend([unix.trim_end_matches(char::is_numeric), "udp://127.0.0.2:"]);
    expected.extend(["tcp://0.0.0.0:", "tcp://[::]:"]);
    if !has_ipv6 {
        eprintln!("NOT RUN: the IPv6 half of this test needs IPv6");
        expected.retain(|line| !line.contains("[::]"));
    }
    assert_eq!(printed, expected);
    let addresses = addresses(&daemon);
    assert!(!has_ipv6 || addresses[1].port() == addresses[2].port(), "{addresses:?}");
}

#[test]
fn a_daemon_with_udp_endpoints_only_has_no_tcp_endpoint() {
    // Two of them could not both have the default endpoint.
    for daemon in [(); 2].map(|()| start(&[ANY_UDP, "udp://localhost:0"])) {
        let is_udp = daemon.printed.iter().all(|line| line.starts_with("udp://"));
        assert!(is_udp, "{:?}", daemon.printed);
        for address in addresses(&daemon) {
            ping(&client_of(address.is_ipv6()), address, b"hello");
        }
    }
}

#[test]
fn a_wildcard_socket_answers_from_the_address_that_was_asked() {
    let daemon = start(&["udp://:0"]);
    for address in addresses(&daemon) {
        let asked: &[&str] =
            if address.is_ipv4() { &["127.0.0.1", "127.0.0.2", "127.9.9.9"] } else { &["::1"] };
        for ip in asked {
            let asked = SocketAddr::new(ip.parse().expect("an address"), address.port());
            ping(&client_of(asked.is_ipv6()), asked, b"who are you?");
        }
    }
    if addresses(&daemon).len() < 2 {
        eprintln!("NOT RUN: the IPv6 half of this test needs IPv6");
    }
}

#[test]
fn an_endpoint_that_cannot_be_bound_is_one_clear_line() {
    let other = client();
    let taken = format!("udp://{}", other.local_addr().expect("address"));
    for (endpoint, words) in [
        (taken.as_str(), &["cannot listen on", &taken, "in use"][..]),
        ("udp://203.0.113.1:0", &["cannot listen on udp://203.0.113.1:0", "of this machine"]),
        ("udp://localhost:no-such-service", &["cannot resolve", "`no-such-service`"]),
    ] {
        expect_error(Command::new(ECHOD).arg(endpoint), 1, words);
    }
    for rate in ["0", "fast"] {
        expect_error(Command::new(ECHOD).args(["--udp-rate", rate]), 2, &["--udp-rate"]);
    }
}

#[test]
fn a_server_of_the_library_knows_streams_only_and_says_so() {
    let endpoint = ANY_UDP.parse().expect("an endpoint");
    let config = Config::builder().endpoint(endpoint).build().expect("a configuration");
    let error = Server::bind(&config).expect_err("no datagrams").to_string();
    assert!(error.contains(ANY_UDP) && error.contains("streams"), "{error}");
}

#[test]
fn several_processes_share_a_port_if_each_asks_for_it() {
    let first = start(&["--reuse-port", ANY_UDP]);
    let endpoint = format!("udp://{}", address(&first));
    let _second = start(&["--reuse-port", &endpoint]);
    for _ in 0..20 {
        ping(&client(), address(&first).into(), b"either of you");
    }
}

// What is not answered

#[test]
fn source_ports_of_services_get_no_answer() {
    let daemon = start(&[ANY_UDP]);
    let to = address(&daemon);
    let reserved = (700..1024).find_map(|port| match from(([127, 0, 0, 1], port).into()) {
        Ok(socket) => Some(Ok(socket)),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Some(Err(e)),
        Err(_) => None,
    });
    let mut dropped = 0;
    match reserved.expect("a free port") {
        Ok(service) => {
            service.send_to(b"hello", to).expect("send");
            dropped += 1;
            expect_count(&daemon, "datagrams_dropped_port", dropped);
            expect_silence(&service);
        }
        Err(e) => eprintln!("NOT RUN: a source port below 1024 needs root: {e}"),
    }
    if let Some(forger) = Forger::new() {
        for port in [0, 7, 1023] {
            forger.send(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), to, b"hello");
            dropped += 1;
        }
        expect_count(&daemon, "datagrams_dropped_port", dropped);
    }
    ping(&client(), to.into(), b"anybody else");
}

/// Call it when the datagram has been counted.
#[track_caller]
fn expect_silence(client: &UdpSocket) {
    client.set_nonblocking(true).expect("nonblocking");
    let answer = client.recv(&mut [0]).map_err(|e| e.kind());
    assert_eq!(answer, Err(ErrorKind::WouldBlock));
}

#[test]
fn what_is_not_from_one_host_gets_no_answer() {
    let Some(forger) = Forger::new() else { return };
    let daemon = start(&[ANY_UDP]);
    let to = address(&daemon);
    for (nth, source) in [[255, 255, 255, 255], [224, 0, 0, 1], [239, 1, 2, 3]].iter().enumerate() {
        forger.send(SocketAddrV4::new((*source).into(), 5000), to, b"hello");
        expect_count(&daemon, "datagrams_dropped_address", nth as u64 + 1);
    }
    // Only the kernel knows that this is the broadcast address of a network.
    forger.send(SocketAddrV4::new([127, 255, 255, 255].into(), 5000), to, b"hello");
    expect_count(&daemon, "datagrams_dropped_unsendable", 1);
}

#[test]
fn what_was_sent_to_more_than_one_host_gets_no_answer() {
    let daemon = start(&["udp://0.0.0.0:0"]);
    let client = Socket::from(client());
    client.set_broadcast(true).expect("broadcast");
    let to = SocketAddrV4::new([127, 255, 255, 255].into(), address(&daemon).port());
    client.send_to(b"everybody", &SocketAddr::from(to).into()).expect("send");
    expect_count(&daemon, "datagrams_dropped_address", 1);
    expect_silence(&client.into());
}

#[test]
fn our_own_endpoints_get_no_answer_also_through_a_wildcard() {
    let Some(forger) = Forger::new() else { return };
    let daemon = start(&[ANY_UDP, "udp://127.0.0.2:0", "udp://0.0.0.0:0"]);
    let own: Vec<SocketAddrV4> = addresses(&daemon)
        .iter()
        .map(|address| match address {
            SocketAddr::V4(v4) => *v4,
            SocketAddr::V6(_) => unreachable!("IPv4 only"),
        })
        .collect();
    let wildcard = own[2].port();
    let mut dropped = 0;
    let own = [own[0], own[1], SocketAddrV4::new([127, 0, 0, 1].into(), wildcard)];
    for source in [own[0], own[1], own[2], SocketAddrV4::new([127, 7, 7, 7].into(), wildcard)] {
        for to in own {
            forger.send(source, to, b"again and again");
            dropped += 1;
        }
        expect_count(&daemon, "datagrams_dropped_own", dropped);
    }
    let stranger = from(SocketAddrV4::new([127, 0, 0, 3].into(), own[0].port()).into());
    if let Ok(stranger) = stranger {
        ping(&stranger, own[0].into(), b"the same port on another address");
    }
}

#[test]
fn two_servers_that_answer_each_other_are_held_to_the_rate_and_serve_others_meanwhile() {
    const RATE: u64 = 500;
    let Some(forger) = Forger::new() else { return };
    let servers = [(); 2].map(|()| start(&["--udp-rate", "500", ANY_UDP]));
    let [one, other] = servers.each_ref().map(address);
    let friend = from(([127, 0, 0, 9], 0).into()).expect("bind");
    let began = Instant::now();
    let mut pings = 0;
    while began.elapsed() < SECOND {
        // One would do, if none was ever dropped.
        forger.send(other, one, b"to and fro");
        for to in [one, other] {
            // The rate of this source would end at its own.
            if pings < RATE / 20 {
                ping(&friend, to.into(), b"and me?");
            }
        }
        pings += 1;
    }
    for server in &servers {
        let counters = counters(server);
        let sent = counters["datagrams_sent"] - pings.min(RATE / 20);
        let most = allowed(RATE, began);
        assert!(sent <= most, "{sent} answers, and at most {most} were allowed");
        assert!(counters["datagrams_dropped_rate"] > 0, "{counters:?}");
    }
}

#[test]
fn a_source_gets_its_rate_of_answers_and_another_one_is_not_touched() {
    let daemon = start(&["--udp-rate", "200", ANY_UDP]);
    let to = address(&daemon).into();
    let (loud, other) = (client(), from(([127, 0, 0, 2], 0).into()).expect("bind"));
    let before = counters(&daemon)["datagrams_sent"];
    let began = Instant::now();
    let mut pings = 0;
    while began.elapsed() < SECOND {
        for _ in 0..20 {
            loud.send_to(b"me, me, me", to).expect("send");
        }
        if pings < 20 {
            ping(&other, to, b"and me?");
            pings += 1;
        }
    }
    let counters = counters(&daemon);
    let sent = counters["datagrams_sent"] - before - pings;
    let most = allowed(200, began);
    assert!((150..=most).contains(&sent), "{sent} answers, not 150 to {most}");
    assert!(counters["datagrams_dropped_rate"] > 1000, "{counters:?}");
    // It is served again as soon as it is quiet for a moment.
    drop(loud);
    assert_eq!(common::datagrams::try_echo(to, b"better").expect("an echo"), b"better");
}

#[test]
fn a_million_forged_sources_take_no_memory() {
    const SOURCES: u32 = 1_000_000;
    /// So many that all of them fit into the receive buffer.
    const AT_ONCE: u32 = 200;
    let Some(forger) = Forger::new() else { return };
    let daemon = start(&["--udp-rate", "1M", "-q", ANY_UDP]);
    let to = address(&daemon);
    let client = client();
    ping(&client, to.into(), &pattern(65_507, 1));
    let before = daemon.resident();
    let began = Instant::now();
    for first in (0..SOURCES).step_by(AT_ONCE as usize) {
        for source in first..first + AT_ONCE {
            // 127.16.0.0 and up, without the addresses that other tests use.
            let [_, a, b, c] = (source + (16 << 16)).to_be_bytes();
            forger.send(SocketAddrV4::new([127, a, b, c].into(), 40_000), to, b"I am many");
        }
        // Behind all of them.
        ping(&client, to.into(), b"and I am one");
        assert!(began.elapsed() < DEADLINE * 2, "only {first} in {:?}", began.elapsed());
    }
    let growth = daemon.resident().saturating_sub(before);
    assert!(growth < 4 << 20, "{growth} bytes for {SOURCES} sources");
}

// What cannot be sent or received

#[test]
fn an_answer_that_would_block_or_is_refused_is_dropped_and_counted() {
    if !have_strace() {
        return;
    }
    thread::scope(|scope| {
        for (error, cause) in [
            ("EAGAIN", "would_block"),
            ("EMSGSIZE", "unsendable"),
            ("EPERM", "unsendable"),
            ("ENETUNREACH", "unsendable"),
            ("ECONNREFUSED", "unsendable"),
            ("ENOBUFS", "unsendable"),
        ] {
            scope.spawn(move || {
                // The greeting that every daemon here gets takes the first one.
                for (call, endpoint) in [("sendto", ANY_UDP), ("sendmsg", "udp://0.0.0.0:0")] {
                    let inject = format!("inject={call}:error={error}:when=2..4");
                    let daemon = with_faults(&inject, &[endpoint]);
                    let client = client();
                    let to = SocketAddr::from(([127, 0, 0, 1], address(&daemon).port()));
                    for _ in 0..3 {
                        client.send_to(b"in vain", to).expect("send");
                    }
                    ping(&client, to, b"and this one?");
                    expect_count(&daemon, &format!("datagrams_dropped_{cause}"), 3);
                }
            });
        }
    });
}

#[test]
fn an_interrupted_call_is_made_again() {
    if !have_strace() {
        return;
    }
    for (calls, endpoint) in [("sendto,recvfrom", ANY_UDP), ("sendmsg,recvmsg", "udp://0.0.0.0:0")]
    {
        let inject = format!("inject={calls}:error=EINTR:when=3..6");
        let daemon = with_faults(&inject, &[endpoint]);
        let client = client();
        let to = SocketAddr::from(([127, 0, 0, 1], address(&daemon).port()));
        for _ in 0..10 {
            ping(&client, to, b"hello");
        }
        assert_eq!(counters(&daemon)["datagram_receive_errors"], 0);
    }
}

#[test]
fn a_receive_that_fails_is_made_again_and_counted() {
    if !have_strace() {
        return;
    }
    // The greeting took two: the datagram, and would-block.
    for (calls, endpoint) in [("recvfrom", ANY_UDP), ("recvmsg", "udp://0.0.0.0:0")] {
        for (when, errors) in [("3..3", 1), ("3..7", 5)] {
            let inject = format!("inject={calls}:error=ENOMEM:when={when}");
            let daemon = with_faults(&inject, &[endpoint]);
            let client = client();
            let to = SocketAddr::from(([127, 0, 0, 1], address(&daemon).port()));
            ping(&client, to, b"late, but not lost");
            expect_count(&daemon, "datagram_receive_errors", errors);
            assert_eq!(daemon.log().contains("cannot receive on udp://"), errors > 1);
        }
    }
}

#[test]
fn a_receive_that_fails_for_ever_costs_nothing_and_harms_nobody() {
    if !have_strace() {
        return;
    }
    // One socket is bound to every address, and only that one calls recvmsg.
    let inject = "inject=recvmsg:error=ENOMEM";
    let mut daemon = with_faults(inject, &[ANY_TCP, ANY_UDP, "udp://0.0.0.0:0"]);
    let failing = SocketAddr::from(([127, 0, 0, 1], addresses(&daemon)[1].port()));
    let (client, mut stream) = (client(), daemon.connect());
    client.send_to(b"in vain", failing).expect("send");
    eventually("it is logged", || daemon.log().contains("cannot receive on udp://0.0.0.0"));
    for _ in 0..100 {
        ping(&client, address(&daemon).into(), b"the other socket");
        common::ping(&mut stream, b"and a stream");
    }
    let cpu = daemon.cpu_within(SECOND);
    assert!(cpu < Duration::from_millis(100), "used {cpu:?}");
    assert!(daemon.log().matches(" WARN ").count() <= 2, "log: {}", daemon.log());
    leave(stream);
    daemon.last_questions();
}

// The loop

#[test]
fn a_flood_of_datagrams_does_not_starve_the_connections() {
    let daemon = start(&["--udp-rate", "10M", ANY_TCP, ANY_UDP, ANY_UDP]);
    let done = AtomicBool::new(false);
    let [small, large] = addresses(&daemon)[..] else { panic!("two addresses") };
    thread::scope(|scope| {
        // More of them than the daemon can keep up with.
        for (to, length) in [(small, 0), (small, 64), (small, 64), (small, 64), (large, 60_000)] {
            let done = &done;
            scope.spawn(move || {
                let (client, datagram) = (client(), pattern(length, 3));
                while !done.load(Ordering::Relaxed) {
                    client.send_to(&datagram, to).expect("send");
                }
            });
        }
        let mut stream = daemon.connect();
        let (began, mut slowest) = (Instant::now(), Duration::ZERO);
        while began.elapsed() < 2 * SECOND {
            let sent = Instant::now();
            common::ping(&mut stream, b"still there?");
            slowest = slowest.max(sent.elapsed());
        }
        done.store(true, Ordering::Relaxed);
        assert!(slowest < SECOND, "the slowest took {slowest:?}");
        leave(stream);
    });
    let counters = counters(&daemon);
    assert!(counters["datagrams_received"] > 10_000, "there was no flood: {counters:?}");
}

#[test]
fn a_drain_answers_what_has_arrived_then_closes_the_sockets() {
    let mut daemon = start(&[ANY_TCP, ANY_UDP, "udp://0.0.0.0:0"]);
    let clients: Vec<(UdpSocket, SocketAddr)> = addresses(&daemon)
        .iter()
        .map(|address| (client(), ([127, 0, 0, 1], address.port()).into()))
        .collect();
    for (client, to) in &clients {
        ping(client, *to, b"before");
    }
    let stays = daemon.connect();
    halt(&daemon);
    for nth in 0..50 {
        for (client, to) in &clients {
            client.send_to(&pattern(64, nth), to).expect("send");
        }
    }
    daemon.signal(Signal::SIGTERM);
    resume(&daemon);
    for (client, to) in &clients {
        for nth in 0..50 {
            expect(client, &pattern(64, nth), *to);
        }
    }
    eventually("nobody is there any more", || {
        let late = client();
        late.connect(clients[0].1).expect("connect");
        late.send(b"too late").expect("send");
        late.set_nonblocking(true).expect("nonblocking");
        late.recv(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
    });
    drop(stays);
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
    daemon.expect_counters_add_up();
    assert!(daemon.counters()["datagrams_sent"] >= 102, "{:?}", daemon.counters());
}

#[test]
fn a_drain_ends_also_in_a_flood_of_datagrams() {
    let mut daemon = start(&[ANY_UDP]);
    let to = address(&daemon);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = client();
            while !done.load(Ordering::Relaxed) {
                client.send_to(&[0; 64], to).expect("send");
            }
        });
        let received = |daemon: &Daemon| counters(daemon)["datagrams_received"];
        eventually("the flood is there", || received(&daemon) > 10_000);
        daemon.signal(Signal::SIGTERM);
        let status = daemon.wait();
        done.store(true, Ordering::Relaxed);
        assert_eq!(status.code(), Some(0), "log: {}", daemon.log());
    });
    daemon.expect_counters_add_up();
}
