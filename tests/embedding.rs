//! The library as others embed it.

mod common;

use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use common::{InProcess, any_port, leave, ping};
use echoloop::protocol::Echo;
use echoloop::{Config, Endpoint, Server, StopReason};

/// What an embedder writes compiles: errors of every kind become the error of the caller.
#[test]
fn the_errors_of_configuration_and_endpoint_fit_an_io_result() {
    fn bind(endpoint: &str, max_buffer: usize) -> std::io::Result<Server> {
        let config = Config::builder().endpoint(endpoint.parse()?).max_buffer(max_buffer);
        Server::bind(&config.build()?)
    }
    assert!(bind("127.0.0.1:0", 1024).is_ok());
    let no_port = bind("127.0.0.1", 1024).expect_err("no port");
    assert_eq!(no_port.to_string(), "no port, expected HOST:PORT");
    let too_small = bind("127.0.0.1:0", 1023).expect_err("too small");
    assert!(too_small.to_string().contains("from 1KiB to 1GiB"), "{too_small}");
}

#[test]
fn a_configuration_out_of_its_range_is_refused_and_named() {
    for (builder, named) in [
        (Config::builder().max_connections(0), "maximum of connections must"),
        (Config::builder().max_connections_per_ip(0), "per IP"),
        (Config::builder().max_buffer(0), "buffer"),
        (Config::builder().max_memory(2 * 64 * 1024 - 1), "memory"),
        (Config::builder().idle_timeout(Duration::ZERO), "idle timeout"),
        (Config::builder().keepalive(Duration::from_millis(1500)), "keepalive"),
        (Config::builder().unix_mode(0o1000), "mode"),
    ] {
        let error = builder.build().expect_err(named);
        let error: Box<dyn Error> = error.into();
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn a_server_runs_on_one_thread_and_is_stopped_from_another() {
    let config = Config::builder().endpoint(any_port()).build().expect("a configuration");
    let server = Server::bind(&config).expect("bind");
    assert!(format!("{server:?}").contains("127.0.0.1"), "{server:?}");
    let (address, stopper) = (server.local_addrs()[0].as_tcp().expect("TCP"), server.stopper());
    let running = thread::spawn(move || server.run());
    ping(&mut common::connect(address), b"hello");
    thread::spawn(move || stopper.stop()).join().expect("no panic").expect("wake");
    let summary = running.join().expect("no panic").expect("no error");
    assert_eq!(summary.stop_reason, StopReason::Drained { cut_off: 0 });
    assert_eq!((summary.counters.accepted, summary.counters.bytes_out), (1, 5));
}

/// A second process would have the socket by fork(2). To have it twice in one is the same to the path.
#[test]
#[cfg(target_os = "linux")]
fn the_path_of_a_dropped_server_stays_while_somebody_else_listens_there() {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let path = std::env::temp_dir().join(format!("embedding-{}", std::process::id()));
    let endpoint: Endpoint = format!("unix:{}", path.display()).parse().expect("an endpoint");
    let config = Config::builder().endpoint(endpoint).build().expect("a configuration");
    let server = Server::bind(&config).expect("bind");
    let process = pidfd_open(getpid(), PidfdFlags::empty()).expect("pidfd_open");
    let copies = (0..1000).filter_map(|file| {
        let copy = pidfd_getfd(&process, file, PidfdGetfdFlags::empty()).ok()?;
        let socket = socket2::Socket::from(copy);
        let is_it = socket.is_listener().unwrap_or(false)
            && socket.local_addr().is_ok_and(|address| address.as_pathname() == Some(&path));
        is_it.then_some(socket)
    });
    let copies: Vec<_> = copies.collect();
    if copies.is_empty() {
        return eprintln!("NOT RUN: this test needs pidfd_getfd(2)");
    }
    drop(server);
    let client = std::os::unix::net::UnixStream::connect(&path);
    drop(copies);
    let stale = std::fs::remove_file(&path);
    client.expect("it still listens");
    stale.expect("nobody was left to remove it");

    drop(Server::bind(&config).expect("bind"));
    assert!(!path.exists(), "nobody listens, and the path is left");
}

#[test]
fn two_servers_in_two_threads_share_one_port() {
    let config = |endpoint: Endpoint| {
        Config::builder().endpoint(endpoint).reuse_port(true).build().expect("a configuration")
    };
    let first = Server::bind(&config(any_port())).expect("bind");
    let address = first.local_addrs()[0].as_tcp().expect("TCP");
    let second = Server::bind(&config(address.into())).expect("bind the same port");
    let (first, first_counters) = InProcess::run_counted(first);
    let (second, second_counters) = InProcess::run_counted(second);
    for _ in 0..200 {
        let mut stream = common::connect(address);
        ping(&mut stream, b"either");
        leave(stream);
    }
    first.stop();
    second.stop();
    let accepted = [first_counters, second_counters].map(|c| c.recv().expect("ended").accepted);
    assert_eq!(accepted.iter().sum::<u64>(), 200);
    assert!(accepted.iter().all(|&n| n > 0), "one has all: {accepted:?}");
}

#[test]
fn an_adopted_listener_is_all_that_a_default_configuration_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let inherited = vec![OwnedFd::from(listener.try_clone().expect("clone"))];
    let server = Server::adopt(Echo, inherited, &Config::default()).expect("adopt");
    assert_eq!(server.local_addrs().len(), 1);
    let server = InProcess::run(server);
    assert_eq!(server.address, address);
    ping(&mut server.connect(), b"hello");
    server.stop();
    // Its owner has it still. It is nonblocking now, as the documentation says.
    let waits = TcpStream::connect(address).expect("the backlog");
    let (_, peer) = listener.accept().expect("a connection waits");
    assert_eq!(peer, waits.local_addr().expect("address"));
    let empty = listener.accept().expect_err("nothing waits");
    assert_eq!(empty.kind(), std::io::ErrorKind::WouldBlock);
}
