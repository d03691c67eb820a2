//! Who is let in, and by which process.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use common::{
    DEADLINE, Daemon, connect, eventually, expect_bytes, expect_error, leave, ping, reset,
};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

/// From an address of 127.0.0.0/8 of one's own.
#[track_caller]
fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).expect("bind");
    socket.connect_timeout(&to.into(), DEADLINE).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    stream
}

fn ping_all(streams: &mut [TcpStream], message: &[u8]) {
    for stream in streams {
        ping(stream, message);
    }
}

/// The end comes, or a reset, and not a byte before it.
#[track_caller]
fn expect_refused(mut stream: TcpStream) {
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_address_has_as_many_connections_as_it_may_and_others_are_not_affected() {
    let daemon = Daemon::start(&["--max-connections-per-ip", "3"]);
    let mut full: Vec<_> = (0..3).map(|_| connect_from(5, daemon.address())).collect();
    ping_all(&mut full, b"in time");
    for _ in 0..20 {
        expect_refused(connect_from(5, daemon.address()));
    }
    let mut others: Vec<_> = (6..16).map(|last| connect_from(last, daemon.address())).collect();
    ping_all(&mut others, b"another address");
    ping_all(&mut full, b"still served");
    daemon.signal(Signal::SIGUSR1);
    assert_eq!(daemon.counters()["refused"], 20);
    // The helper's own client, the three, and the ten: who was refused is not among them.
    assert_eq!((daemon.counters()["accepted"], daemon.counters()["open"]), (14, 13));
}

#[test]
fn a_place_of_an_address_is_free_again_however_its_connection_ended() {
    let options = ["--max-connections-per-ip", "1", "--idle-timeout", "1s"];
    let daemon = Daemon::start(&options);
    let served = || {
        let mut stream = None;
        eventually("the place is free", || {
            let mut newcomer = connect_from(9, daemon.address());
            let is_in = newcomer.write_all(b"?").is_ok() && newcomer.read_exact(&mut [0]).is_ok();
            stream = is_in.then_some(newcomer);
            is_in
        });
        stream.expect("served")
    };
    leave(served());
    reset(served());
    let idle = served();
    drop(served());
    drop(idle);
}

#[test]
fn an_ipv4_address_is_the_same_one_when_it_comes_by_way_of_ipv6() {
    // Our own listeners are of one family each; one that is handed over may be of both.
    let Ok(socket) = Socket::new(Domain::IPV6, Type::STREAM, None) else {
        return eprintln!("NOT RUN: this test needs IPv6");
    };
    socket.set_only_v6(false).expect("dual stack");
    socket.bind(&SocketAddr::from(([0; 16], 0)).into()).expect("bind");
    socket.listen(16).expect("listen");
    let port = socket.local_addr().expect("address").as_socket().expect("IP").port();
    let v4 = SocketAddr::from(([127, 0, 0, 1], port));
    let mut command = Command::new("sh");
    let hand_over = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    command.args(["-c", hand_over, ECHOD, "--max-connections-per-ip", "2", "127.0.0.1:0"]);
    let daemon = Daemon::spawn_between(OwnedFd::from(socket), Stdio::piped(), &mut command);
    let direct = daemon.addresses[1];
    let mut first = connect_from(7, direct);
    let mut second = connect_from(7, v4);
    ping(&mut first, b"by IPv4");
    ping(&mut second, b"by IPv6");
    expect_refused(connect_from(7, direct));
    expect_refused(connect_from(7, v4));
}

#[test]
fn two_processes_share_a_port_and_its_connections_and_one_may_leave() {
    let mut first = Daemon::start(&["--reuse-port"]);
    let address = first.address().to_string();
    let second = Daemon::spawn(Command::new(ECHOD).args(["--reuse-port", &address]));
    let mut clients: Vec<_> = (0..400).map(|_| first.connect()).collect();
    ping_all(&mut clients, b"hello");
    let served = [&first, &second].map(|daemon| {
        daemon.signal(Signal::SIGUSR1);
        daemon.counters()["open"]
    });
    assert_eq!(served.iter().sum::<u64>(), 400);
    assert!(served.iter().all(|&n| n >= 60), "{served:?}");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().code(), Some(0));
    first.expect_counters_add_up();
    // Whoever comes now is served by the one that is left.
    for _ in 0..50 {
        let mut newcomer = second.connect();
        ping(&mut newcomer, b"hello");
    }
    drop(clients);
}

#[test]
fn without_reuse_port_on_both_sides_a_port_has_one_owner() {
    let first = Daemon::start(&["--reuse-port"]);
    let address = first.address().to_string();
    expect_error(Command::new(ECHOD).arg(&address), 1, &["in use"]);
    let mut stream = first.connect();
    ping(&mut stream, b"mine");
    stream.write_all(b"still").expect("send");
    expect_bytes(&mut stream, b"still");
}

/// A command for a daemon with so many files.
fn with_files(files: usize, arguments: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" {arguments}"), ECHOD]);
    command
}

/// How many files it says that it needs, if it does not start.
#[track_caller]
fn needed(command: &mut Command) -> Option<usize> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let starts = child.stdout.take().expect("piped").read(&mut [0]).expect("stdout") > 0;
    // It has printed an address, or ended.
    let _ = child.kill();
    let ended = child.wait_with_output().expect("output");
    if starts {
        return None;
    }
    let error = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(error.contains("the limit of open files is") && error.lines().count() == 1, "{error}");
    let (_, behind) = error.split_once("too low: at least ").expect("how many are needed");
    Some(behind.split(' ').next().and_then(|n| n.parse().ok()).expect("a number"))
}

/// How many connections the daemon says that it serves.
#[track_caller]
fn promised(daemon: &Daemon) -> usize {
    let mut found = None;
    eventually("the limit is logged", || {
        let log = daemon.log();
        found = log.split_once("at most ").and_then(|(_, n)| n.split(' ').next()?.parse().ok());
        found.is_some()
    });
    found.expect("a number")
}

/// So many are served at once, and one more waits.
#[track_caller]
fn expect_served(daemon: &Daemon, count: usize) {
    let mut clients: Vec<_> = (0..count).map(|_| daemon.connect()).collect();
    ping_all(&mut clients, b"all at once");
    let mut waiting = daemon.connect();
    waiting.write_all(b"one more").expect("send");
    ping_all(&mut clients, b"all at once");
    let early = waiting.set_nonblocking(true).and_then(|()| waiting.peek(&mut [0]));
    assert_eq!(early.map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
    waiting.set_nonblocking(false).expect("blocking");
    clients.into_iter().for_each(leave);
    expect_bytes(&mut waiting, b"one more");
    leave(waiting);
    assert!(!daemon.log().contains("cannot accept"), "{}", daemon.log());
}

#[test]
fn with_few_files_the_daemon_serves_somebody_or_says_how_many_it_needs() {
    for arguments in ["127.0.0.1:0", ":0 udp://127.0.0.1:0", "--metrics 127.0.0.1:0 localhost:0"] {
        // With three or fewer the system cannot load a program.
        let mut files = 4;
        while let Some(needed) = needed(&mut with_files(files, arguments)) {
            assert!((files + 1..=30).contains(&needed), "of {files} files it needs {needed}");
            files += 1;
            assert!(files <= needed, "it starts where it says that it does");
        }
        let daemon = Daemon::spawn(&mut with_files(files, arguments));
        expect_served(&daemon, promised(&daemon));
    }
}

#[test]
fn many_endpoints_leave_room_for_all_connections_that_the_log_promises() {
    let endpoints = "127.0.0.1:0 ".repeat(200);
    let daemon = Daemon::spawn(&mut with_files(300, &endpoints));
    let most = promised(&daemon);
    assert!((70..=90).contains(&most), "each endpoint is one file, and {most} are left");
    expect_served(&daemon, most);
    let asked = "--max-connections 1000 ".to_owned() + &endpoints;
    let daemon = Daemon::spawn(&mut with_files(300, &asked));
    assert_eq!(promised(&daemon), most);
    assert!(daemon.log().contains(&format!("allows only {most} connections")));
    drop(connect(daemon.address()));
}
