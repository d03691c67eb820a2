//! One server socket, TCP or Unix.

use std::io;

use mio::event::Source;
use mio::net::{TcpListener, UnixStream};
use socket2::SockRef;

use crate::net::address::Address;
use crate::net::bind::Bound;
use crate::net::nonblocking::answer;
use crate::net::socket::Socket;
use crate::server::listener::path::BoundPath;

/// A listening socket, and whether connections are still to be accepted from it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The path, if this process has bound a Unix socket there. It is removed before the socket is closed:
    /// as long as the socket is open, no other file can have its inode.
    path: Option<BoundPath>,
    socket: ListenSocket,
    address: Address,
    /// Number with which it is registered.
    pub(crate) number: usize,
    /// Index of the endpoint that it belongs to.
    pub(crate) endpoint: usize,
    /// Accept is owed: connections may wait in the backlog. A backlog that was not emptied is never
    /// announced again, so this has to be remembered.
    pub(crate) owed: bool,
}

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    /// Kept as a stream, whose `try_io` leaves accept to us. Mio's own accept panics at a client whose path
    /// fills its address to the last byte: the kernel reports its length with one byte more (unix(7),
    /// BUGS).
    Unix(UnixStream),
}

impl Bound for Listener {
    fn address(&self) -> &Address {
        &self.address
    }
}

impl Listener {
    /// Takes a TCP socket that listens and does not block.
    pub(crate) fn tcp(socket: socket2::Socket) -> io::Result<Listener> {
        let socket = TcpListener::from_std(socket.into());
        let address = Address::Tcp(socket.local_addr()?);
        Ok(Listener::new(ListenSocket::Tcp(socket), address, None))
    }

    /// Takes a Unix socket that listens and does not block; with its path, if we have bound it.
    pub(crate) fn unix(socket: socket2::Socket, path: Option<BoundPath>) -> io::Result<Listener> {
        let address = Address::of_socket(&socket.local_addr()?);
        let socket = UnixStream::from_std(socket.into());
        Ok(Listener::new(ListenSocket::Unix(socket), address, path))
    }

    fn new(socket: ListenSocket, address: Address, path: Option<BoundPath>) -> Listener {
        Listener { path, socket, address, number: 0, endpoint: 0, owed: false }
    }

    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            ListenSocket::Tcp(listener) => listener,
            ListenSocket::Unix(listener) => listener,
        }
    }

    /// Accepts one connection; `None` stands for "would block". The peer's address is the one that accept
    /// returned: asked for later, a peer that has sent a reset has none.
    pub(crate) fn accept(&self) -> io::Result<Option<(Socket, Address)>> {
        match &self.socket {
            ListenSocket::Tcp(listener) => {
                let accepted = answer(|| listener.accept())?;
                Ok(accepted.map(|(stream, peer)| (Socket::Tcp(stream), Address::Tcp(peer))))
            }
            ListenSocket::Unix(listener) => {
                let accept = || listener.try_io(|| SockRef::from(listener).accept());
                let Some((socket, peer)) = answer(accept)? else { return Ok(None) };
                socket.set_nonblocking(true)?;
                let stream = UnixStream::from_std(socket.into());
                Ok(Some((Socket::Unix(stream), Address::of_socket(&peer))))
            }
        }
    }

    /// Removes the path of a Unix socket: nobody can find it any more.
    pub(crate) fn remove_path(&mut self) {
        self.path = None;
    }
}
