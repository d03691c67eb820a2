//! The peers: for each kind of server the smallest honest one. Each echoes any stream right, through
//! short sends, back-pressure and half-close, and all but one have 64 KiB to receive into.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use echoloop::process::limits;
use socket2::{Domain, Socket, Type};

mod epoll;
mod processes;
mod smol;
mod threads;
mod tokio;

pub use processes::copy;

/// As many bytes as ours receives at once.
const BUFFER: usize = 64 * 1024;

/// As many as with ours; the 128 of the standard library would measure how SYNs are sent again.
const BACKLOG: i32 = 4096;

pub struct Kind {
    pub name: &'static str,
    serve: fn(SocketAddr) -> io::Result<()>,
    /// Connections beyond which it makes no sense.
    pub most: usize,
    /// Of those that are idle, whose memory is measured.
    pub idle: usize,
    /// What a new connection may take, at worst, until it is served.
    pub arrival: Duration,
}

/// The first is the limit, which all are compared with.
pub const KINDS: [Kind; 6] = [
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
    },
    Kind {
        name: "processes",
        serve: processes::serve,
        most: 1000,
        idle: 200,
        arrival: Duration::from_millis(5),
    },
];

/// What is common to all that have one thread for all connections.
pub const LOOP: Kind = Kind {
    name: "",
    serve: epoll::serve,
    most: usize::MAX,
    idle: 10_000,
    arrival: Duration::from_micros(50),
};

/// Becomes a server of that kind.
pub fn serve(kind: &str, address: &str) -> io::Result<()> {
    let kind = KINDS.iter().find(|known| known.name == kind);
    let kind = kind.ok_or_else(|| io::Error::other("no such kind of server"))?;
    limits::raise_file_limit(0)?;
    (kind.serve)(address.parse().map_err(io::Error::other)?)
}

/// Listens, and says where.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    println!("tcp://{}", listener.local_addr()?);
    Ok(listener)
}
