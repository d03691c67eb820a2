//! What a service manager does to a daemon: it hands sockets over, and wants to hear how it goes.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixDatagram, UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::datagrams;
use common::{
    DEADLINE, Daemon, Folder, InProcess, any_port, connect, connect_path, eventually, expect_bytes,
    expect_end, expect_error, expect_error_with, halt, have, leave, pattern, ping, resume, stuff,
};
use echoloop::process::systemd::ServiceManager;
use echoloop::sources::watchdog::Watchdog;
use echoloop::{Action, Config, EventSource, LoopHandle, Notification, Server};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");
const ANY_PORT: &str = "tcp://127.0.0.1:0";

/// Becomes the daemon, to which it hands over its stdin as file 3.
const HAND_OVER: &str = r#"exec 3<&0 0</dev/null; exec env LISTEN_FDS=1 LISTEN_PID=$$ "$0" "$@""#;

/// Its stdin and its stderr, in this order. Other files of the test could only be inherited by every
/// process that any test starts meanwhile.
const HAND_OVER_TWO: &str = r#"
    exec 3<&0 4<&2 0</dev/null 2>/dev/null; exec env LISTEN_FDS=2 LISTEN_PID=$$ "$0" "$@""#;

fn shell(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, ECHOD]).args(arguments);
    command
}

/// The same socket once more, for a process to have: the test keeps its own.
fn same(socket: impl AsFd) -> Stdio {
    socket.as_fd().try_clone_to_owned().expect("one more file").into()
}

#[track_caller]
fn adopting(socket: impl AsFd, arguments: &[&str]) -> Daemon {
    Daemon::spawn_between(same(socket), Stdio::piped(), &mut shell(HAND_OVER, arguments))
}

/// Blocking, as systemd's are, and with its address.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    (listener, address)
}

/// A daemon that is not asked the last questions: they need a time without clients, and an echo.
struct Bare(Child);

impl Bare {
    #[track_caller]
    fn start(stdin: Stdio, stdout: impl Into<Stdio>, command: &mut Command) -> Bare {
        command.env_remove("RUST_LOG").stdin(stdin).stdout(stdout).stderr(Stdio::null());
        Bare(command.spawn().expect("start"))
    }

    #[track_caller]
    fn end(&mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).expect("kill");
        eventually("the daemon ends", || self.0.try_wait().expect("wait").is_some());
        assert_eq!(self.0.wait().expect("wait").code(), Some(0));
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Raised when a test is done, also when it has failed, so that its threads come to an end.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client that is owed something for as long as it does not read: it holds up a drain.
#[track_caller]
fn stalled(daemon: &Daemon, message: &[u8]) -> (TcpStream, usize) {
    let mut stream = daemon.connect();
    let sent = stuff(&mut stream, message);
    assert!(sent < message.len(), "nothing pushes back");
    (stream, sent)
}

// LISTEN_FDS

#[test]
fn a_blocking_listener_that_is_handed_over_is_served_and_no_other_is_bound() {
    let (listener, address) = listener();
    let daemon = adopting(&listener, &[]);
    assert_eq!(daemon.printed, [format!("tcp://{address}")]);
    let mut clients: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        ping(client, b"all of us");
    }
    clients.into_iter().for_each(leave);
}

#[test]
fn a_listener_for_both_families_serves_both() {
    let listener = Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| {
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
        socket.listen(16).map(|()| TcpListener::from(socket))
    });
    let Ok(listener) = listener else { return eprintln!("NOT RUN: this test needs IPv6") };
    let port = listener.local_addr().expect("address").port();
    let daemon = adopting(&listener, &["--max-connections-per-ip", "1"]);
    assert_eq!(daemon.printed, [format!("tcp://[::]:{port}")]);
    let mut four = connect((Ipv4Addr::LOCALHOST, port).into());
    let mut six = connect((Ipv6Addr::LOCALHOST, port).into());
    ping(&mut four, b"four");
    ping(&mut six, b"six");
    expect_end(&mut connect((Ipv4Addr::LOCALHOST, port).into()));
    leave(four);
    leave(six);
}

#[test]
fn a_multipath_listener_is_served_and_what_it_lacks_is_one_warning() {
    let listener =
        Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).and_then(|socket| {
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            socket.listen(16).map(|()| TcpListener::from(socket))
        });
    let Ok(listener) = listener else { return eprintln!("NOT RUN: this test needs MPTCP") };
    let address = listener.local_addr().expect("address");
    let lacks = setsockopt(&listener, sockopt::TcpUserTimeout, &1).is_err();
    let early = connect(address);
    let mut daemon = adopting(&listener, &[]);
    for mut client in [early, connect(address)] {
        ping(&mut client, b"hello");
        leave(client);
    }
    daemon.last_questions();
    let log = daemon.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warnings.len(), usize::from(lacks), "{log}");
    let named = format!("tcp://{address} is served without TCP_USER_TIMEOUT (");
    assert!(warnings.iter().all(|line| line.contains(&named)), "{log}");
    // What was asked for by name is no option that may be missing.
    let words = ["cannot serve file 3", "congestion control `nonsense`"];
    let mut command = shell(HAND_OVER, &["--congestion", "nonsense"]);
    expect_error_with(same(&listener), &mut command, 1, &words);
}

#[test]
fn a_unix_socket_that_is_handed_over_stays_where_it_is() {
    let folder = Folder::new("stays");
    let path = folder.path("socket");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut first = adopting(&listener, &[]);
    assert_eq!(first.printed, [format!("unix:{path}")]);
    first.last_questions();

    // A second signal ends it in another way.
    let mut second = adopting(&listener, &[ANY_PORT]);
    let message = pattern(64 * 1024 * 1024, 1);
    let (_stalled, _) = stalled(&second, &message);
    second.signal(Signal::SIGTERM);
    eventually("the drain begins", || second.log().contains("draining"));
    assert_eq!(second.end_at_once(Signal::SIGTERM).code(), Some(128 + 15));

    // Nobody serves it now, but nobody is refused.
    let mut client = UnixStream::connect(&path).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    client.write_all(b"anybody there?").expect("send");
    client.shutdown(Shutdown::Write).expect("half-close");
    let _third = adopting(&listener, &[]);
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("receive");
    assert_eq!(got, b"anybody there?");
}

#[test]
fn endpoints_are_served_beside_what_is_handed_over_and_printed_behind_it() {
    let folder = Folder::new("beside");
    let (theirs, ours) = (folder.path("theirs"), folder.path("ours"));
    let unix = UnixListener::bind(&theirs).expect("bind");
    let (tcp, address) = listener();
    for tcp_first in [true, false] {
        let (stdin, stderr) =
            if tcp_first { (same(&tcp), same(&unix)) } else { (same(&unix), same(&tcp)) };
        let mut handed_over = [format!("tcp://{address}"), format!("unix:{theirs}")];
        if !tcp_first {
            handed_over.reverse();
        }
        let endpoint = format!("unix:{ours}");
        let mut command = shell(HAND_OVER_TWO, &[ANY_PORT, &endpoint]);
        let daemon = Daemon::spawn_between(stdin, stderr, &mut command);
        assert_eq!(daemon.printed[..2], handed_over);
        assert!(daemon.printed[2].starts_with("tcp://127.0.0.1:"), "{:?}", daemon.printed);
        assert_eq!(daemon.printed[3..], [endpoint]);
        for &address in &daemon.addresses {
            let mut stream = connect(address);
            ping(&mut stream, b"here too");
            leave(stream);
        }
        for path in [&theirs, &ours] {
            let mut stream = UnixStream::connect(path).expect("connect");
            stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
            stream.write_all(b"here too").expect("send");
            stream.read_exact(&mut [0; 8]).expect("receive");
        }
        drop(daemon);
        let left = [&theirs, &ours].map(|path| fs::exists(path).expect("look"));
        assert_eq!(left, [true, false], "what we bind we remove, and nothing else");
    }
}

#[test]
fn who_waits_before_the_start_and_at_the_end_is_served_and_who_comes_later_by_the_next() {
    let (listener, address) = listener();
    for _ in 0..3 {
        let mut early: Vec<_> = (0..20).map(|_| connect(address)).collect();
        for client in &mut early {
            client.write_all(b"anybody there?").expect("send");
        }
        let mut daemon = adopting(&listener, &[]);
        for mut client in early {
            expect_bytes(&mut client, b"anybody there?");
            leave(client);
        }
        halt(&daemon);
        let mut late: Vec<_> = (0..20).map(|_| connect(address)).collect();
        for client in &mut late {
            client.write_all(b"still there?").expect("send");
        }
        daemon.signal(Signal::SIGTERM);
        resume(&daemon);
        for mut client in late {
            expect_bytes(&mut client, b"still there?");
            expect_end(&mut client);
        }
        assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
        daemon.expect_counters_add_up();
    }
}

#[test]
fn a_restart_on_the_same_socket_refuses_nobody_and_loses_nothing() {
    let (listener, address) = listener();
    let (done, echoes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let come = || {
        while !done.load(Ordering::Relaxed) {
            let mut stream = connect(address);
            stream.write_all(b"hello").expect("send");
            let mut got = [0; 5];
            match stream.read(&mut got[..1]).expect("no reset") {
                // A drain does not wait for who connects and then is slow to send.
                0 => continue,
                n => stream.read_exact(&mut got[n..]).expect("all of it"),
            }
            assert_eq!(&got, b"hello");
            leave(stream);
            echoes.fetch_add(1, Ordering::Relaxed);
        }
    };
    let start = || Bare::start(same(&listener), Stdio::null(), &mut shell(HAND_OVER, &[]));
    // It outlives the clients, who would wait for the next one.
    let mut daemon = start();
    thread::scope(|scope| {
        let _raised = Raised(&done);
        for _ in 0..4 {
            scope.spawn(come);
        }
        for _ in 0..6 {
            let before = echoes.load(Ordering::Relaxed);
            eventually("it serves", || echoes.load(Ordering::Relaxed) > before + 50);
            daemon.end();
            daemon = start();
        }
    });
    daemon.end();
}

#[test]
fn a_udp_socket_that_is_handed_over_is_served_and_no_default_endpoint_beside_it() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("address");
    let client = datagrams::client();
    client.send_to(b"before the start", address).expect("send");
    let mut daemon = adopting(&socket, &[]);
    assert_eq!(daemon.printed, [format!("udp://{address}")]);
    datagrams::expect(&client, b"before the start", address);
    datagrams::ping(&client, address, b"hello");
    daemon.last_questions();
    // It is deaf now, but nobody has closed the socket.
    client.send_to(b"for the next one", address).expect("send");
    let _next = adopting(&socket, &[]);
    datagrams::expect(&client, b"for the next one", address);
}

#[test]
fn a_udp_socket_for_both_families_answers_from_the_address_that_was_asked() {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).and_then(|socket| {
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
        Ok(UdpSocket::from(socket))
    });
    let Ok(socket) = socket else { return eprintln!("NOT RUN: this test needs IPv6") };
    let port = socket.local_addr().expect("address").port();
    let _daemon = adopting(&socket, &[]);
    for asked in ["127.0.0.1", "127.0.0.2", "::1"] {
        let asked = SocketAddr::new(asked.parse().expect("an address"), port);
        datagrams::ping(&datagrams::client_of(asked.is_ipv6()), asked, b"who are you?");
    }
}

#[test]
fn options_that_change_what_a_datagram_gets_are_turned_off() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_broadcast(true).expect("broadcast");
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).expect("IP_RECVERR");
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    let daemon = adopting(&socket, &[]);
    datagrams::ping(&datagrams::client(), socket.local_addr().expect("address"), b"hello");
    // The options are those of the daemon, too.
    assert!(!socket.broadcast().expect("broadcast"));
    assert!(!getsockopt(&socket, sockopt::Ipv4RecvErr).expect("IP_RECVERR"));
    assert!(!getsockopt(&socket, sockopt::UdpGroSegment).unwrap_or_default());
    drop(daemon);
}

#[test]
fn a_long_queue_of_datagrams_takes_many_turns_so_that_others_are_heard_between_them() {
    const QUEUED: u64 = 50_000;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    if let Err(e) = setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)) {
        return eprintln!("NOT RUN: this test needs a large receive buffer: {e}");
    }
    let daemon = adopting(&socket, &["--udp-rate", "10M", ANY_PORT]);
    halt(&daemon);
    let client = datagrams::client();
    for _ in 0..QUEUED {
        client.send_to(b"", socket.local_addr().expect("address")).expect("send");
    }
    let began = Instant::now();
    resume(&daemon);
    eventually("all are received", || {
        daemon.signal(Signal::SIGUSR1);
        daemon.log().contains("accepted=") && daemon.counters()["datagrams_received"] > QUEUED
    });
    let (all, longest) = (began.elapsed(), daemon.counters()["longest_turn_us"]);
    assert!(Duration::from_micros(longest) < all / 4, "a turn of {longest} us, of {all:?}");
}

#[test]
fn streams_and_datagrams_that_are_handed_over_are_printed_in_their_order() {
    let (tcp, address) = listener();
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let udp_address = udp.local_addr().expect("address");
    let lines = [format!("udp://{udp_address}"), format!("tcp://{address}")];
    for udp_first in [true, false] {
        let (mut files, mut expected) = ([same(&udp), same(&tcp)], lines.clone());
        if !udp_first {
            files.reverse();
            expected.reverse();
        }
        let [stdin, stderr] = files;
        let mut command = shell(HAND_OVER_TWO, &["udp://127.0.0.1:0", ANY_PORT]);
        let daemon = Daemon::spawn_between(stdin, stderr, &mut command);
        assert_eq!(daemon.printed[..2], expected);
        let schemes: Vec<_> = daemon.printed[2..].iter().map(|line| &line[..6]).collect();
        assert_eq!(schemes, ["udp://", "tcp://"]);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list")]
fn what_is_handed_over_and_cannot_be_served_is_one_clear_line() {
    let (listener, address) = listener();
    let connected = connect(address);
    let accepted = listener.accept().expect("accept").0;
    let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("socket");
    let (datagram, _other) = UnixDatagram::pair().expect("pair");
    let (stream, _other) = UnixStream::pair().expect("pair");
    let (pipe, _other) = std::io::pipe().expect("pipe");
    let file = File::open(ECHOD).expect("open");
    let none = "cannot serve what was handed over (LISTEN_FDS)";
    let cannot_listen = "file 3, which was handed over: it is no stream socket that listens";
    for (what, words) in [
        (same(&file), &[none, "fd 3 is not a socket"][..]),
        (same(&pipe), &[none, "fd 3 is not a socket"]),
        (same(&unbound), &["file 3, which was handed over: it is not bound"]),
        (same(&datagram), &[none, "fd 3"]),
        (same(&connected), &[cannot_listen, "Accept=no"]),
        (same(&accepted), &[cannot_listen, "Accept=no"]),
        (same(&stream), &[cannot_listen, "Accept=no"]),
    ] {
        expect_error_with(what, &mut shell(HAND_OVER, &[ANY_PORT]), 1, words);
    }
    for (text, range) in [
        ("abc", "from 0 to 65536"),
        ("", "from 0 to 65536"),
        ("-1", "from 0 to 65536"),
        ("+1", "from 0 to 65536"),
        ("65537", "from 0 to 65536"),
        ("2147483647", "from 0 to 65536"),
        ("4000000000", "from 0 to 65536"),
    ] {
        let count = HAND_OVER.replace("LISTEN_FDS=1", &format!("LISTEN_FDS={text}"));
        let words = ["the variable LISTEN_FDS is", &format!("`{text}`"), range];
        expect_error_with(same(&listener), &mut shell(&count, &[ANY_PORT]), 1, &words);
    }
    for pid in ["me", "0", "-1", "1 "] {
        let meant = HAND_OVER.replace("LISTEN_PID=$$", &format!("'LISTEN_PID={pid}'"));
        let words = ["the variable LISTEN_PID is", &format!("`{pid}`"), "from 1"];
        expect_error_with(same(&listener), &mut shell(&meant, &[ANY_PORT]), 1, &words);
    }
    let first = HAND_OVER.replace("LISTEN_FDS=1", "LISTEN_FDS=2 LISTEN_FDS_FIRST_FD=2147483647");
    let words = ["LISTEN_FDS_FIRST_FD", "`2147483647`"];
    expect_error_with(same(&listener), &mut shell(&first, &[ANY_PORT]), 1, &words);
    let closed = r#"exec 3<&-; exec env LISTEN_FDS=1 LISTEN_PID=$$ "$0" "$@""#;
    expect_error(&mut shell(closed, &[ANY_PORT]), 1, &[none]);
    // It is one after the other, and the first one is fine.
    let two = HAND_OVER.replace("LISTEN_FDS=1", "LISTEN_FDS=2");
    expect_error_with(same(&listener), &mut shell(&two, &[ANY_PORT]), 1, &[none, "4"]);
}

#[test]
fn what_was_handed_over_to_somebody_else_is_left_alone() {
    let (listener, _) = listener();
    for meant in [
        "LISTEN_FDS=1 LISTEN_PID=1",
        "LISTEN_FDS=1 LISTEN_PID=",
        "LISTEN_FDS=0 LISTEN_PID=$$",
        "LISTEN_PID=$$",
    ] {
        let script = HAND_OVER.replace("LISTEN_FDS=1 LISTEN_PID=$$", meant);
        let mut command = shell(&script, &["127.0.0.2:0"]);
        let daemon = Daemon::spawn_between(same(&listener), Stdio::piped(), &mut command);
        assert_eq!(daemon.printed.len(), 1, "{:?}", daemon.printed);
        assert!(daemon.printed[0].starts_with("tcp://127.0.0.2:"), "{:?}", daemon.printed);
    }
    // Still blocking, so this would wait for ever if somebody else had taken what is there.
    let waiting = connect(listener.local_addr().expect("address"));
    let peer = listener.accept().expect("accept").1;
    assert_eq!(peer, waiting.local_addr().expect("address"));
}

#[test]
fn systemd_socket_activate_finds_a_daemon_that_serves() {
    if !have("systemd-socket-activate", &["--version"]) {
        return;
    }
    let folder = Folder::new("activate");
    let paths = [folder.path("first"), folder.path("second")];
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &paths[0], "-l", &paths[1], ECHOD]);
    thread::scope(|scope| {
        // It starts the daemon when the first client comes.
        let client = scope.spawn(|| {
            let mut stream = connect_path(&paths[1]);
            stream.write_all(b"hello").expect("send");
            stream.shutdown(Shutdown::Write).expect("half-close");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).expect("receive");
            assert_eq!(got, b"hello");
        });
        let mut daemon = Daemon::spawn(&mut command);
        assert_eq!(daemon.printed, paths.each_ref().map(|path| format!("unix:{path}")));
        client.join().expect("served");
        daemon.last_questions();
    });
    assert!(paths.iter().all(|path| fs::exists(path).expect("look")), "they are not ours");
}

// NOTIFY_SOCKET

/// A service manager's ear.
fn manager(folder: &Folder) -> (UnixDatagram, String) {
    let path = folder.path("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    (socket, path)
}

#[track_caller]
fn heard(manager: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let n = manager.recv(&mut message).expect("a message");
    String::from_utf8_lossy(&message[..n]).trim_end().to_owned()
}

/// Messages until there is room for none; how many they are.
fn deafen(path: &str) -> usize {
    let socket = UnixDatagram::unbound().expect("socket");
    socket.set_nonblocking(true).expect("nonblocking");
    let mut count = 0;
    loop {
        match socket.send_to(b"STATUS=noise", path) {
            Ok(_) => count += 1,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return count,
            Err(e) => panic!("send: {e}"),
        }
    }
}

#[test]
fn the_manager_hears_ready_when_all_is_bound_and_said_and_stopping_when_the_drain_begins() {
    let folder = Folder::new("hears");
    let (manager, path) = manager(&folder);
    let printed = folder.path("stdout");
    let mut command = Command::new(ECHOD);
    command.args(["--metrics", "127.0.0.1:0", ANY_PORT]).env("NOTIFY_SOCKET", &path);
    let stdout = File::create(&printed).expect("create");
    let mut bare = Bare::start(Stdio::null(), stdout, &mut command);
    assert_eq!(heard(&manager), "READY=1");
    let printed = fs::read_to_string(printed).expect("stdout");
    let address = printed.strip_prefix("tcp://").and_then(|a| a.trim_end().parse().ok());
    leave(connect(address.expect("an address")));
    bare.end();
    assert_eq!(heard(&manager), "STOPPING=1");

    let mut daemon = Daemon::spawn(&mut command);
    assert_eq!(heard(&manager), "READY=1");
    let message = pattern(64 * 1024 * 1024, 2);
    let (mut stalled, sent) = stalled(&daemon, &message);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(heard(&manager), "STOPPING=1");
    expect_bytes(&mut stalled, &message[..sent]);
    expect_end(&mut stalled);
    drop(stalled);
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
    manager.set_nonblocking(true).expect("nonblocking");
    let more = manager.recv(&mut [0; 16]).map_err(|e| e.kind());
    assert_eq!(more, Err(ErrorKind::WouldBlock), "one word each");
}

#[test]
fn a_manager_with_an_abstract_name_hears_too() {
    let name = format!("echod-notify-{}", std::process::id());
    let address = net::SocketAddr::from_abstract_name(&name).expect("address");
    let manager = UnixDatagram::bind_addr(&address).expect("bind");
    manager.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    let mut command = Command::new(ECHOD);
    let daemon = Daemon::spawn(command.arg(ANY_PORT).env("NOTIFY_SOCKET", format!("@{name}")));
    assert_eq!(heard(&manager), "READY=1");
    drop(daemon);
    assert_eq!(heard(&manager), "STOPPING=1");
}

#[test]
fn a_manager_that_is_not_there_is_a_warning() {
    let folder = Folder::new("nobody");
    let gone = folder.path("gone");
    drop(UnixDatagram::bind(&gone).expect("bind"));
    let long = folder.path(&"x".repeat(200));
    for path in [&folder.path("nothing"), &gone, &long, "", "vsock:2:1"] {
        let mut command = Command::new(ECHOD);
        let mut daemon = Daemon::spawn(command.arg(ANY_PORT).env("NOTIFY_SOCKET", path));
        eventually("a warning", || daemon.log().contains("cannot notify the service manager"));
        daemon.last_questions();
    }
}

#[test]
fn a_manager_that_never_reads_holds_up_neither_the_echo_nor_the_drain() {
    let folder = Folder::new("deaf");
    let (_manager, path) = manager(&folder);
    deafen(&path);
    let mut command = Command::new(ECHOD);
    let mut daemon = Daemon::spawn(command.arg(ANY_PORT).env("NOTIFY_SOCKET", &path));
    let message = pattern(64 * 1024 * 1024, 3);
    let (mut stalled, sent) = stalled(&daemon, &message);
    daemon.signal(Signal::SIGTERM);
    eventually("the drain begins", || daemon.log().contains("draining"));
    expect_bytes(&mut stalled, &message[..sent]);
    leave(stalled);
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
    // STOPPING=1 found no room, and READY=1 none until the end.
    let warnings = daemon.log().matches("cannot notify the service manager").count();
    assert_eq!(warnings, 2, "log: {}", daemon.log());
    daemon.expect_counters_add_up();
    let longest = daemon.counters()["longest_turn_us"];
    assert!(longest < 1_000_000, "the loop waited {longest} us for a manager");
}

#[test]
fn a_manager_that_is_busy_at_the_start_hears_ready_later() {
    let folder = Folder::new("busy");
    let (manager, path) = manager(&folder);
    let noise = deafen(&path);
    let printed = folder.path("stdout");
    let mut command = Command::new(ECHOD);
    let stdout = File::create(&printed).expect("create");
    command.arg(ANY_PORT).env("NOTIFY_SOCKET", &path);
    let mut bare = Bare::start(Stdio::null(), stdout, &mut command);
    eventually("it is bound", || !fs::read(&printed).expect("stdout").is_empty());
    for _ in 0..noise {
        assert_eq!(heard(&manager), "STATUS=noise");
    }
    assert_eq!(heard(&manager), "READY=1");
    bare.end();
}

// WATCHDOG_USEC

const PAUSE: Duration = Duration::from_millis(20);

/// What a manager hears. It is read at once: few messages fit into its queue.
fn ear(manager: UnixDatagram) -> Receiver<String> {
    manager.set_read_timeout(None).expect("no deadline");
    let (said, heard_so_far) = mpsc::channel();
    thread::spawn(move || while said.send(heard(&manager)).is_ok() {});
    heard_so_far
}

/// Waits for this message, and returns those before it.
#[track_caller]
fn until(ear: &Receiver<String>, message: &str) -> Vec<String> {
    let next = || ear.recv_timeout(DEADLINE).expect("a message");
    std::iter::repeat_with(next).take_while(|heard| heard != message).collect()
}

#[track_caller]
fn expect_keepalives(ear: &Receiver<String>) {
    for _ in 0..5 {
        let others = until(ear, "WATCHDOG=1");
        assert!(others.is_empty(), "{others:?}");
    }
}

/// Whether nothing is heard for twenty times as long as the pause between two keepalives.
fn is_silent(ear: &Receiver<String>) -> bool {
    while ear.recv_timeout(PAUSE / 2).is_ok() {}
    ear.recv_timeout(20 * PAUSE).is_err()
}

#[test]
fn keepalives_come_while_the_daemon_runs_and_drains_and_stop_while_it_is_stopped() {
    let folder = Folder::new("watchdog");
    let (manager, path) = manager(&folder);
    let ear = ear(manager);
    let mut command = Command::new(ECHOD);
    command.args(["--drain-timeout", "1h", ANY_PORT]).env("NOTIFY_SOCKET", &path);
    let time = (2 * PAUSE).as_micros().to_string();
    let mut daemon = Daemon::spawn(command.env("WATCHDOG_USEC", time));
    // It comes from another thread than the first keepalives.
    until(&ear, "READY=1");
    expect_keepalives(&ear);
    halt(&daemon);
    assert!(is_silent(&ear));
    resume(&daemon);
    expect_keepalives(&ear);
    let message = pattern(64 * 1024 * 1024, 4);
    let (mut stalled, sent) = stalled(&daemon, &message);
    daemon.signal(Signal::SIGTERM);
    until(&ear, "STOPPING=1");
    expect_keepalives(&ear);
    expect_bytes(&mut stalled, &message[..sent]);
    leave(stalled);
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
}

/// A source that keeps the loop for as long as somebody holds the lock.
struct Hanging(Arc<Mutex<()>>);

impl EventSource for Hanging {
    fn register(&mut self, _: &LoopHandle<'_>) -> io::Result<()> {
        Ok(())
    }

    fn notify(&mut self, _: Notification, _: &LoopHandle<'_>) -> io::Result<Action> {
        drop(self.0.lock());
        Ok(Action::Continue)
    }
}

#[test]
fn keepalives_stop_while_the_loop_hangs() {
    let folder = Folder::new("hanging");
    let (manager, path) = manager(&folder);
    let ear = ear(manager);
    let config = Config::builder().endpoint(any_port()).build().expect("a configuration");
    let mut server = Server::bind(&config).expect("bind");
    let there = ServiceManager::at(path.into()).expect("a manager");
    let watchdog = Watchdog::new(there, 2 * PAUSE, Instant::now());
    server.add_source(Box::new(watchdog)).expect("add");
    let lock = Arc::new(Mutex::new(()));
    let waker = server.add_source(Box::new(Hanging(Arc::clone(&lock)))).expect("add");
    let server = InProcess::run(server);
    expect_keepalives(&ear);
    let held = lock.lock().expect("lock");
    waker.wake().expect("wake");
    eventually("the loop hangs", || is_silent(&ear));
    drop(held);
    expect_keepalives(&ear);
    server.stop();
}

#[test]
fn a_watchdog_of_somebody_else_gets_nothing_and_one_that_cannot_be_read_is_one_clear_line() {
    let folder = Folder::new("no-watchdog");
    let (manager, path) = manager(&folder);
    let mut command = Command::new(ECHOD);
    command.arg(ANY_PORT).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000");
    let mut daemon = Daemon::spawn(command.env("WATCHDOG_PID", "1"));
    assert_eq!(heard(&manager), "READY=1");
    daemon.last_questions();
    assert_eq!(heard(&manager), "STOPPING=1");
    command.env_remove("WATCHDOG_PID");
    for time in ["0", "soon", "18446744073709551615"] {
        let words = ["the variable WATCHDOG_USEC is", &format!("`{time}`")];
        let command = command.env("WATCHDOG_USEC", time);
        let output = common::output(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{stderr}");
    }
}
