//! One server socket, TCP or Unix.

use std::io;

use log::debug;
use mio::event::Source;
use mio::net::{TcpListener, UnixStream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::SockRef;

use crate::net::address::Address;
use crate::net::bind::Bound;
use crate::net::nonblocking::answer;
use crate::net::socket::Socket;
use crate::server::listener::inherited;
use crate::server::listener::options::ListenOptions;
use crate::server::listener::path::BoundPath;

/// A listening socket, and whether connections are still to be accepted from it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: ListenSocket,
    /// The path, if we have bound a Unix socket there. It is dropped behind the socket, and then asks whether
    /// somebody else still serves there.
    path: Option<BoundPath>,
    address: Address,
    /// Number with which it is registered.
    pub(crate) number: usize,
    /// Index of the endpoint that it belongs to.
    pub(crate) endpoint: usize,
    /// Accept is owed: connections may wait in the backlog. A backlog that was not emptied is never
    /// announced again, so this has to be remembered.
    pub(crate) owed: bool,
    /// Why accept last failed, if nothing was accepted since.
    pub(crate) failure: Option<Errno>,
    /// Set until the backlog of an adopted socket was empty once. Until then what is accepted may be older
    /// than the known state of the socket, and is brought there by itself.
    pub(crate) until_empty: Option<ListenOptions>,
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
        let (number, endpoint, owed, failure, until_empty) = (0, 0, false, None, None);
        Listener { socket, path, address, number, endpoint, owed, failure, until_empty }
    }

    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            ListenSocket::Tcp(listener) => listener,
            ListenSocket::Unix(listener) => listener,
        }
    }

    /// Accepts one connection; `None` stands for "would block". The peer's address is the one that accept
    /// returned: asked for later, a peer that has sent a reset has none.
    pub(crate) fn accept(&mut self) -> io::Result<Option<(Socket, Address)>> {
        let accepted = self
            .accept_one()
            .inspect_err(|e| self.failure = Some(Errno::from_io_error(e).unwrap_or(Errno::IO)))?;
        self.failure = None;
        match (&accepted, &self.until_empty) {
            (Some((socket, peer)), Some(options)) => {
                if let Err(e) = inherited::prepare_connection(socket, options) {
                    debug!("{peer}: {e}");
                }
            }
            (Some(_), None) => {}
            (None, _) => self.until_empty = None,
        }
        Ok(accepted)
    }

    fn accept_one(&self) -> io::Result<Option<(Socket, Address)>> {
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

    /// Asks whether connections wait in the backlog, where accept cannot tell: it may lack a file before it
    /// looks.
    pub(crate) fn has_waiting(&self) -> bool {
        let mut asked = match &self.socket {
            ListenSocket::Tcp(listener) => [PollFd::new(listener, PollFlags::IN)],
            ListenSocket::Unix(listener) => [PollFd::new(listener, PollFlags::IN)],
        };
        // What cannot be asked is taken for a yes.
        poll(&mut asked, Some(&Timespec::default())) != Ok(0)
    }

    /// Removes the path of a Unix socket, so that nobody can find it any more; but not in another process
    /// than the one that has bound it, beside which others may serve there.
    pub(crate) fn remove_path(&mut self) {
        if let Some(path) = self.path.take_if(|path| path.is_bound_here()) {
            path.remove();
        }
    }
}
