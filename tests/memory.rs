//! Memory that runs out: by the limit of the daemon (`--max-memory`), or by that of the system, which is
//! here the limit of the address space (`RLIMIT_AS`). Connections wait for memory, none is lost, and the end
//! is an orderly one.
#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Daemon, connect, eventually, expect_bytes, output, pattern, ping, reset};
use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The daemon in so much address space, of which its buffers may take all.
#[track_caller]
fn daemon_within(address_space: usize, options: &[&str]) -> Daemon {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -S -v {} && exec \"$@\"", address_space / KIB);
    command.args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_echod")]);
    Daemon::spawn(command.args(options).args(["--max-memory", "1GiB", "tcp://127.0.0.1:0"]))
}

/// Gives a daemon all the address space that it wants.
#[track_caller]
fn end_shortage(daemon: &Daemon) {
    let pid = Pid::from_raw(daemon.pid().try_into().expect("a process id"));
    let unlimited = Rlimit { current: None, maximum: getrlimit(Resource::As).maximum };
    prlimit(pid, Resource::As, unlimited).expect("prlimit");
}

#[track_caller]
fn allow_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("setrlimit");
}

/// A client that sends until the daemon takes no more, and reads nothing. Its small buffers let the kernels
/// hold little of it.
#[track_caller]
fn stalled_reader(address: SocketAddr, bytes: &[u8]) -> (TcpStream, usize) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(4 * KIB).expect("SO_RCVBUF");
    socket.set_send_buffer_size(4 * KIB).expect("SO_SNDBUF");
    socket.connect_timeout(&address.into(), DEADLINE).expect("connect");
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(true).expect("nonblocking");
    let sent = stream.write(bytes).unwrap_or(0);
    (stream, sent)
}

/// Has all of them send more, for as long as the daemon takes it.
fn send_more(readers: &mut [(TcpStream, usize)], bytes: &[u8]) {
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(300) {
        for (stream, sent) in &mut *readers {
            if let Ok(n) = stream.write(&bytes[*sent..])
                && n > 0
            {
                *sent += n;
                last = Instant::now();
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The same, and again until somebody waits for memory: on a busy machine the daemon may pause.
#[track_caller]
fn send_until_memory_is_short(readers: &mut [(TcpStream, usize)], bytes: &[u8], daemon: &Daemon) {
    eventually("somebody waits for memory", || {
        send_more(readers, bytes);
        memory_waits(daemon) > 0
    });
}

/// Reads all that it has sent.
#[track_caller]
fn read_back((stream, sent): &mut (TcpStream, usize), bytes: &[u8]) {
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    // A window that is closed most of the time would take hours.
    SockRef::from(&*stream).set_recv_buffer_size(2 * MIB).expect("SO_RCVBUF");
    expect_bytes(stream, &bytes[..*sent]);
}

fn memory_waits(daemon: &Daemon) -> u64 {
    let before = daemon.log().matches(" accepted=").count();
    daemon.signal(Signal::SIGUSR1);
    eventually("a line of counters", || daemon.log().matches(" accepted=").count() > before);
    daemon.counters()["memory_waits"]
}

#[test]
fn without_address_space_friends_wait_and_are_served_when_it_is_back() {
    allow_many_files();
    let bytes = pattern(MIB, 1);
    let daemon = daemon_within(30 * MIB, &[]);
    let mut friends: Vec<_> = (0..300).map(|_| daemon.connect()).collect();
    for friend in &mut friends {
        ping(friend, b"before");
    }
    let address = daemon.addresses[0];
    let mut readers: Vec<_> = (0..600).map(|_| stalled_reader(address, &bytes)).collect();
    send_until_memory_is_short(&mut readers, &bytes, &daemon);
    assert!(daemon.log().contains("connection(s) wait for memory"), "log: {}", daemon.log());
    for friend in &mut friends {
        friend.write_all(b"meanwhile").expect("send");
    }

    end_shortage(&daemon);
    let start = Instant::now();
    for friend in &mut friends {
        expect_bytes(friend, b"meanwhile");
    }
    assert!(start.elapsed() < DEADLINE / 2, "memory was back for {:?}", start.elapsed());
    for reader in &mut readers {
        read_back(reader, &bytes);
    }
    assert_eq!(daemon.counters()["closed_error"], 0);
}

#[test]
fn without_address_space_sigterm_still_ends_in_order() {
    allow_many_files();
    let bytes = pattern(MIB, 2);
    let mut daemon = daemon_within(30 * MIB, &["--drain-timeout", "2s"]);
    let mut friends: Vec<_> = (0..300).map(|_| daemon.connect()).collect();
    let address = daemon.addresses[0];
    let mut readers: Vec<_> = (0..600).map(|_| stalled_reader(address, &bytes)).collect();
    send_until_memory_is_short(&mut readers, &bytes, &daemon);
    for friend in &mut friends {
        friend.write_all(b"meanwhile").expect("send");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
    daemon.expect_counters_add_up();
}

#[test]
fn newcomers_for_whom_there_is_no_memory_wait_in_the_backlog_and_nobody_is_lost() {
    if cfg!(mio_unsupported_force_poll_poll) {
        eprintln!(
            "NOT RUN: over poll(2) mio has a list that grows, for which nothing can be reserved"
        );
        return;
    }
    allow_many_files();
    let mut daemon = daemon_within(12 * MIB, &["--idle-timeout", "1h"]);
    let mut friend = daemon.connect();
    let pid = daemon.pid().try_into().expect("a process id");
    // As much as it has now, and a little more.
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("/proc");
    let pages: u64 = statm.split(' ').next().and_then(|n| n.parse().ok()).expect("pages");
    let maximum = getrlimit(Resource::As).maximum;
    let tight = Rlimit { current: Some(pages * 4096 + 256 * 1024), maximum };
    prlimit(Pid::from_raw(pid), Resource::As, tight).expect("prlimit");
    let newcomers: Vec<_> = (0..9000)
        .map(|i| {
            let from =
                SocketAddr::from(([127, 0, 2, u8::try_from(i % 250).expect("small") + 1], 0));
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            socket.set_nonblocking(true).expect("nonblocking");
            socket.bind(&from.into()).expect("bind");
            let _ = socket.connect(&daemon.addresses[0].into());
            socket
        })
        .collect();
    ping(&mut friend, b"a friend");
    eventually("a warning", || daemon.log().contains("no memory for one more connection"));
    ping(&mut friend, b"still a friend");
    end_shortage(&daemon);
    let mut last = &newcomers[8999];
    last.set_nonblocking(false).expect("blocking");
    last.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    eventually("a connection", || last.peer_addr().is_ok());
    last.write_all(b"a newcomer").expect("send");
    let mut echo = [0; 10];
    last.read_exact(&mut echo).expect("receive");
    assert_eq!(&echo, b"a newcomer");
    drop((newcomers, friend));
    daemon.last_questions();
}

#[test]
fn at_the_limit_of_all_buffers_a_thousand_firehoses_are_served_in_turn() {
    let daemon = Daemon::start(&["--max-memory", "8MiB", "--max-buffer", "1MiB"]);
    let address = daemon.addresses[0].to_string();
    let firehoses = Command::new(env!("CARGO_BIN_EXE_echoload"))
        .args(["-c", "1000", "-l", "256KiB", "-p", "2", "-n", "3000", "--timeout", "60s"])
        .args(["--output-format", "json", "-q", &address])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut friend = daemon.connect();
    let mut most = 0;
    let mut firehoses = firehoses;
    while firehoses.try_wait().expect("wait").is_none() {
        ping(&mut friend, b"a friend");
        most = most.max(daemon.resident());
    }
    let report = firehoses.wait_with_output().expect("wait");
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains(r#""verdict":"ok""#), "{report}");
    assert!(!report.contains(r#""min_messages":0"#), "{report}");
    assert!(most < 12 * MIB, "{most} bytes resident");
    assert_eq!(
        daemon.log().matches("WARN").count(),
        daemon.log().matches("wait for memory").count()
    );
}

#[test]
fn stalled_readers_cannot_take_all_memory_from_those_who_want_little() {
    let bytes = pattern(MIB, 3);
    let daemon = Daemon::start(&["--max-memory", "8MiB", "--max-buffer", "1MiB"]);
    let address = daemon.addresses[0];
    let mut readers: Vec<_> = (0..200).map(|_| stalled_reader(address, &bytes)).collect();
    send_more(&mut readers, &bytes);
    let mut friend = daemon.connect();
    ping(&mut friend, b"one who reads");
    assert_eq!(memory_waits(&daemon), 0);
    assert!(daemon.resident() < 12 * MIB, "{} bytes resident", daemon.resident());
    for reader in &mut readers {
        read_back(reader, &bytes);
    }
}

#[test]
fn half_messages_whose_clients_are_gone_return_their_memory_though_they_wait_for_more() {
    let options = ["--framing", "length:u32", "--max-memory", "128KiB"];
    let daemon = Daemon::start(&options);
    let mut half = vec![0; 30 * KIB];
    half[..4].copy_from_slice(&60_000_u32.to_be_bytes());
    let mut clients: Vec<_> = (0..50).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.write_all(&half).expect("send");
    }
    eventually("all memory is taken", || memory_waits(&daemon) > 0);
    clients.into_iter().for_each(reset);
    let mut newcomer = daemon.connect();
    ping(&mut newcomer, &[&[0, 0, 0, 5][..], b"hello"].concat());
}

#[test]
fn a_burst_of_stalled_readers_leaves_no_memory_behind() {
    allow_many_files();
    let bytes = pattern(MIB, 4);
    let daemon = Daemon::start(&["--max-buffer", "1MiB"]);
    let mut friend = connect(daemon.addresses[0]);
    ping(&mut friend, &bytes[..64 * KIB]);
    let before = daemon.resident();
    let address = daemon.addresses[0];
    let mut readers: Vec<_> = (0..4000).map(|_| stalled_reader(address, &bytes[..3000])).collect();
    // In small pieces, so that what is owed to some of them is little.
    for _ in 0..100 {
        for (stream, sent) in &mut readers {
            *sent += stream.write(&bytes[*sent..*sent + 2500]).unwrap_or(0);
        }
    }
    send_more(&mut readers[..1000], &bytes);
    let most = daemon.resident();
    for (stream, _) in readers {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger 0");
    }
    eventually("they are gone", || daemon.files() < 20);
    ping(&mut friend, &bytes[..64 * KIB]);
    let left = daemon.resident().saturating_sub(before);
    assert!(most > before + 8 * MIB, "only {} bytes in the burst", most - before);
    assert!(left < 4 * MIB, "{left} bytes are left of the burst");
}

#[test]
fn a_memory_that_holds_no_two_buffers_is_refused() {
    let options = ["--max-memory", "100KiB", "127.0.0.1:0"];
    let output = output(Command::new(env!("CARGO_BIN_EXE_echod")).args(options));
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("memory") && error.contains("two buffers"), "{error}");
}
