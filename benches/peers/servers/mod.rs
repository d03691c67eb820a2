//! The peers: for each kind of server the smallest correct program. Each of TCP handles short sends,
//! back-pressure and half-close, and all but one receive into 64 KiB.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use echoloop::process::limits;

use crate::transport::Transport;

mod datagrams;
mod epoll;
mod listener;
mod processes;
mod smol;
mod threads;
mod tokio;

pub use processes::copy;

pub struct Kind {
    pub name: &'static str,
    pub transport: Transport,
    serve: fn(SocketAddr) -> io::Result<()>,
    /// The most connections that it is measured with.
    pub most: usize,
    /// How many idle connections its memory is measured with.
    pub idle: usize,
    /// The longest time that it may need until it serves a new connection.
    pub arrival: Duration,
}

/// The bare loop, which the other servers of the same transport are compared with.
pub fn limit(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "epoll",
        Transport::Udp => "recvfrom",
    }
}

/// All peers.
pub const KINDS: [Kind; 7] = [
    Kind { name: "epoll", serve: epoll::serve, ..LOOP },
    Kind { name: "tokio", serve: tokio::serve, ..LOOP },
    Kind { name: "tokio-copy", serve: tokio::serve_by_copy, ..LOOP },
    Kind { name: "smol", serve: smol::serve, ..LOOP },
    Kind {
        name: "threads",
        serve: threads::serve,
        most: 10_000,
        idle: 1000,
        arrival: Duration::from_micros(150),
        ..LOOP
    },
    Kind {
        name: "processes",
        serve: processes::serve,
        most: 1000,
        idle: 200,
        arrival: Duration::from_millis(5),
        ..LOOP
    },
    Kind { name: "recvfrom", transport: Transport::Udp, serve: datagrams::serve, ..LOOP },
];

/// The common values of servers with one thread for all connections.
pub const LOOP: Kind = Kind {
    name: "",
    transport: Transport::Tcp,
    serve: epoll::serve,
    most: usize::MAX,
    idle: 10_000,
    arrival: Duration::from_micros(50),
};

/// Runs a server of that kind.
pub fn serve(kind: &str, address: &str) -> io::Result<()> {
    let kind = KINDS.iter().find(|known| known.name == kind);
    let kind = kind.ok_or_else(|| io::Error::other("no such kind of server"))?;
    limits::raise_file_limit();
    (kind.serve)(address.parse().map_err(io::Error::other)?)
}
