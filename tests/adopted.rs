//! Sockets that somebody else has made: what they were set to before does not change what a client is
//! promised, whether it comes after the server has taken them or has waited for it.
#![cfg(target_os = "linux")]

mod common;

use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use common::{
    DEADLINE, InProcess, eventually, expect_bytes, half_close, leave, pattern, ping, stuff,
};
use echoloop::protocol::Echo;
use echoloop::sources::udp::{UdpEcho, UdpOptions};
use echoloop::{Config, ConfigBuilder, Server};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use socket2::{Domain, SockRef, Socket, Type};
use uapi::c;

const SECOND: Duration = Duration::from_secs(1);

/// A listener with these options, and its address.
fn listener(prepare: impl FnOnce(&TcpListener)) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    prepare(&listener);
    let address = listener.local_addr().expect("address");
    (listener, address)
}

/// A server on a copy of it.
#[track_caller]
fn adopt(listener: &impl AsFd, config: ConfigBuilder) -> Server {
    let copy: OwnedFd = listener.as_fd().try_clone_to_owned().expect("one more file");
    Server::adopt(Echo, vec![copy], &config.build().expect("a configuration")).expect("adopt")
}

#[track_caller]
fn set(socket: &impl AsRawFd, (level, option): (i32, i32), value: i32) {
    uapi::setsockopt(socket.as_raw_fd(), level, option, &value).expect("an option that Linux has");
}

#[track_caller]
fn get(socket: &impl AsRawFd, (level, option): (i32, i32)) -> i32 {
    let mut value = 0;
    uapi::getsockopt(socket.as_raw_fd(), level, option, &mut value).expect("an option");
    value
}

/// Two clients: one that is there before the server takes the listener, and one that comes later.
fn early_and_late(
    listener: &TcpListener,
    address: SocketAddr,
    config: ConfigBuilder,
) -> (InProcess, [TcpStream; 2]) {
    let early = common::connect(address);
    let server = InProcess::run(adopt(listener, config));
    let late = common::connect(address);
    (server, [early, late])
}

#[test]
fn every_option_that_would_change_a_stream_has_its_known_value_once_a_listener_is_taken() {
    let changed = [
        ("SO_RCVLOWAT", (c::SOL_SOCKET, c::SO_RCVLOWAT), 1000, 1),
        ("SO_OOBINLINE", (c::SOL_SOCKET, c::SO_OOBINLINE), 1, 0),
        ("TCP_CORK", (c::IPPROTO_TCP, c::TCP_CORK), 1, 0),
        ("IP_RECVERR", (c::IPPROTO_IP, c::IP_RECVERR), 1, 0),
        ("TCP_NODELAY", (c::IPPROTO_TCP, c::TCP_NODELAY), 0, 1),
        ("TCP_NOTSENT_LOWAT", (c::IPPROTO_TCP, c::TCP_NOTSENT_LOWAT), 1 << 30, 128 * 1024),
        ("SO_KEEPALIVE", (c::SOL_SOCKET, c::SO_KEEPALIVE), 1, 0),
        ("TCP_USER_TIMEOUT", (c::IPPROTO_TCP, c::TCP_USER_TIMEOUT), 5, 0),
    ];
    let linger2 = (c::IPPROTO_TCP, c::TCP_LINGER2);
    let (listener, _) = listener(|listener| {
        for (name, option, theirs, ours) in changed {
            set(listener, option, theirs);
            assert_ne!(get(listener, option), ours, "{name} is what it was");
        }
        set(listener, linger2, -1);
        SockRef::from(listener).set_linger(Some(SECOND)).expect("SO_LINGER");
        fcntl_setfl(listener, OFlags::ASYNC).expect("O_ASYNC");
    });
    let _server = InProcess::run(adopt(&listener, Config::builder().keepalive(None)));
    for (name, option, _, ours) in changed {
        assert_eq!(get(&listener, option), ours, "{name}");
    }
    assert!(get(&listener, linger2) > 0, "TCP_LINGER2");
    assert_eq!(SockRef::from(&listener).linger().expect("SO_LINGER"), None);
    let flags = fcntl_getfl(&listener).expect("flags");
    assert!(flags.contains(OFlags::NONBLOCK) && !flags.contains(OFlags::ASYNC), "{flags:?}");
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_after_twice_the_keepalive_and_at_most_a_probe_later() {
    let of_tcp = |option| (c::IPPROTO_TCP, option);
    for seconds in [1, 2, 3, 4, 5, 7, 59, 60, 32_767] {
        let (listener, _) = listener(|_| {});
        let keepalive = Duration::from_secs(seconds);
        let _server = InProcess::run(adopt(&listener, Config::builder().keepalive(keepalive)));
        assert_eq!(get(&listener, (c::SOL_SOCKET, c::SO_KEEPALIVE)), 1);
        let [idle, interval, probes, timeout] =
            [c::TCP_KEEPIDLE, c::TCP_KEEPINTVL, c::TCP_KEEPCNT, c::TCP_USER_TIMEOUT]
                .map(|option| u64::try_from(get(&listener, of_tcp(option))).expect("a number"));
        assert_eq!((idle, timeout), (seconds, 2000 * seconds));
        let last = idle + probes * interval;
        assert!((2 * seconds..2 * seconds + interval).contains(&last), "{last} s for {seconds} s");
        assert!(interval <= (seconds / 3).max(1), "{interval} s for {seconds} s");
    }
}

#[test]
fn a_listener_that_lingers_for_no_time_loses_no_byte_and_resets_nobody() {
    let (listener, address) = listener(|listener| {
        SockRef::from(listener).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    });
    // With so little room on this side most of the echo is still in the server's kernel when the server
    // closes.
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_recv_buffer_size(8 * 1024).expect("receive buffer");
        socket.connect(&address.into()).expect("connect");
        TcpStream::from(socket)
    };
    let early = connect();
    let _server = InProcess::run(adopt(&listener, Config::builder()));
    let message = pattern(100_000, 1);
    for mut client in [early, connect()] {
        client.write_all(&message).expect("send");
        half_close(&client);
        let port = client.local_addr().expect("address").port();
        eventually("the server has closed", || !is_held(port, address.port()));
        client.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("the end, not a reset");
        assert!(got == message, "{} of {} bytes", got.len(), message.len());
    }
}

/// Whether the server side of a connection belongs to a process still.
#[track_caller]
fn is_held(client: u16, server: u16) -> bool {
    let connections = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let (local, remote) = (format!(":{server:04X}"), format!(":{client:04X}"));
    connections.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // The inode is 0 once nobody has it open.
        fields[1].ends_with(&local) && fields[2].ends_with(&remote) && fields[9] != "0"
    })
}

#[test]
fn a_listener_that_lingers_does_not_stop_the_loop_when_a_stalled_reader_is_closed() {
    let (listener, address) = listener(|listener| {
        SockRef::from(listener).set_linger(Some(5 * SECOND)).expect("SO_LINGER");
    });
    let config = Config::builder().idle_timeout(SECOND);
    let message = pattern(64 << 20, 2);
    let stall = |mut client: TcpStream| {
        assert!(stuff(&mut client, &message) < message.len(), "nothing pushes back");
        client
    };
    let early = common::connect(address);
    let (server, counters) = InProcess::run_counted(adopt(&listener, config));
    let stalled = [stall(early), stall(common::connect(address))];
    for client in &stalled {
        let port = client.local_addr().expect("address").port();
        eventually("the server has closed it", || !is_held(port, address.port()));
    }
    server.stop();
    let longest = counters.recv().expect("ended").longest_turn;
    assert!(longest < 2 * SECOND, "the loop waited {longest:?} for a close");
    drop(stalled);
}

#[test]
fn a_message_shorter_than_the_low_water_mark_of_the_listener_is_echoed() {
    let (listener, address) =
        listener(|listener| set(listener, (c::SOL_SOCKET, c::SO_RCVLOWAT), 1000));
    let (_server, clients) = early_and_late(&listener, address, Config::builder());
    for mut client in clients {
        ping(&mut client, b"x");
        leave(client);
    }
}

#[test]
fn an_urgent_byte_is_no_part_of_the_stream_whatever_the_listener_says() {
    let (listener, address) =
        listener(|listener| set(listener, (c::SOL_SOCKET, c::SO_OOBINLINE), 1));
    let (_server, clients) = early_and_late(&listener, address, Config::builder());
    for mut client in clients {
        ping(&mut client, b"before");
        SockRef::from(&client).send_out_of_band(b"!").expect("send");
        client.write_all(b"behind").expect("send");
        expect_bytes(&mut client, b"behind");
        leave(client);
    }
}

/// Bytes that the kernel holds for the server and has not sent yet, for the connection with this client.
#[track_caller]
fn send_queue(client: u16, server: u16) -> usize {
    let connections = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let (local, remote) = (format!(":{server:04X}"), format!(":{client:04X}"));
    let queue = connections.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let found = fields[1].ends_with(&local) && fields[2].ends_with(&remote);
        found.then(|| fields[4].split(':').next().expect("a queue").to_owned())
    });
    usize::from_str_radix(&queue.expect("the connection"), 16).expect("a number")
}

#[test]
fn the_kernel_holds_less_than_512_kib_for_a_reader_that_stalls() {
    let (listener, address) = listener(|_| {});
    let (_server, clients) = early_and_late(&listener, address, Config::builder());
    let message = pattern(64 << 20, 3);
    for mut client in clients {
        let sent = stuff(&mut client, &message);
        assert!(sent < message.len(), "nothing pushes back");
        let queue = send_queue(client.local_addr().expect("address").port(), address.port());
        assert!((1..512 * 1024).contains(&queue), "{queue} bytes are in the send queue");
        expect_bytes(&mut client, &message[..sent]);
        leave(client);
    }
    // One that is bound here, too.
    let server = InProcess::start(Config::builder());
    let mut client = server.connect();
    let sent = stuff(&mut client, &message);
    let queue = send_queue(client.local_addr().expect("address").port(), server.address.port());
    assert!((1..512 * 1024).contains(&queue), "{queue} bytes are in the send queue");
    expect_bytes(&mut client, &message[..sent]);
}

/// Sends a byte with a file.
fn pass(stream: &UnixStream, file: &impl AsRawFd) -> Result<usize, Errno> {
    let files = [file.as_raw_fd()];
    let with_file = [ControlMessage::ScmRights(&files)];
    let bytes = [IoSlice::new(b"x")];
    let address = None::<&SockaddrStorage>;
    sendmsg(stream.as_raw_fd(), &bytes, &with_file, MsgFlags::empty(), address)
}

#[test]
fn a_unix_listener_that_is_taken_refuses_files_from_those_who_wait_and_those_who_come() {
    let path = std::env::temp_dir().join(format!("adopted-{}", std::process::id()));
    let listener = UnixListener::bind(&path).expect("bind");
    let early = UnixStream::connect(&path).expect("connect");
    let server = adopt(&listener, Config::builder());
    let stopper = server.stopper();
    let running = thread::spawn(move || server.run());
    let late = UnixStream::connect(&path).expect("connect");
    std::fs::remove_file(&path).expect("remove");
    for mut client in [early, late] {
        client.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
        ping(&mut client, b"accepted");
        if let Ok(sent) = pass(&client, &listener) {
            assert_eq!(sent, 1);
            eprintln!("NOT RUN: this test needs SO_PASSRIGHTS, Linux 6.16");
            expect_bytes(&mut client, b"x");
        }
        ping(&mut client, b"still here?");
        leave(client);
    }
    stopper.stop().expect("wake");
    eventually("the server ends", || running.is_finished());
    running.join().expect("no panic").expect("no error");
}

#[test]
fn a_udp_socket_that_is_taken_answers_each_datagram_with_one_at_once() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("address");
    let (cork, segment) = ((c::IPPROTO_UDP, c::UDP_CORK), (c::IPPROTO_UDP, c::UDP_SEGMENT));
    set(&socket, cork, 1);
    set(&socket, segment, 4);
    fcntl_setfl(&socket, OFlags::ASYNC).expect("O_ASYNC");
    let copy = socket.try_clone().expect("one more file");
    let udp = UdpEcho::adopt(vec![copy], &[], &UdpOptions::default()).expect("adopt");
    let config = Config::builder().endpoint(common::any_port()).build().expect("a configuration");
    let mut server = Server::bind(&config).expect("bind");
    server.add_source(Box::new(udp)).expect("a source");
    let _server = InProcess::run(server);
    let client = common::datagrams::client();
    for _ in 0..3 {
        common::datagrams::ping(&client, address, b"hello, world");
    }
    assert_eq!((get(&socket, cork), get(&socket, segment)), (0, 0));
    assert!(!fcntl_getfl(&socket).expect("flags").contains(OFlags::ASYNC));
}

/// A process that has the same listener can do that.
#[test]
fn a_listener_that_another_process_has_shut_down_holds_up_neither_others_nor_the_drain() {
    let (dead, _) = listener(|_| {});
    let (alive, address) = listener(|_| {});
    let copies = [&dead, &alive].map(|l| OwnedFd::from(l.try_clone().expect("one more file")));
    let config = Config::builder().drain_timeout(Duration::from_secs(3600));
    let config = config.build().expect("a configuration");
    let server = Server::adopt(Echo, copies.into(), &config).expect("adopt");
    let stopper = server.stopper();
    let running = thread::spawn(move || server.run());
    SockRef::from(&dead).shutdown(std::net::Shutdown::Both).expect("shut down");
    for _ in 0..20 {
        let mut client = common::connect(address);
        ping(&mut client, b"hello");
        leave(client);
    }
    stopper.stop().expect("wake");
    eventually("the drain ends long before its time", || running.is_finished());
    running.join().expect("no panic").expect("no error");
}
