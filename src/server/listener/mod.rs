//! Server sockets: how they are bound, and how they accept.
//!
//! A server socket neither sends nor receives. It only ever makes client sockets ("Creating a
//! Socket" in the Socket Programming HOWTO).

use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use log::trace;
use mio::event::Source;
use mio::net::{TcpListener, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::net::endpoint::Address;
use crate::net::socket::Socket;
use crate::server::config::Config;
use crate::server::throttle::Throttle;

mod bind;
mod unix;

use unix::OwnPath;

/// Connections accepted in one turn of the loop, so that a flood of newcomers does not starve those
/// who are here.
const BUDGET: usize = 64;

/// How long to leave accept alone after an error that stays. A connection that closes ends the pause.
const PAUSE: Duration = Duration::from_millis(100);

/// The server's listening sockets, and what is still to be accepted from them.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Listener>,
    /// Who is asked first, so that with few slots free no listener waits for ever behind another.
    next: usize,
    paused_until: Option<Instant>,
    errors: u64,
    troubles: Throttle,
}

#[derive(Debug)]
struct Listener {
    /// Where this process has put a Unix socket. It goes before the socket does: while that is open
    /// nobody else's file can have its inode.
    path: Option<OwnPath>,
    socket: ListenSocket,
    address: Address,
    token: Token,
    /// Somebody may wait in the backlog. With edges this has to be remembered: a queue that was not
    /// emptied is never announced again.
    owed: bool,
}

impl Listener {
    fn new(socket: ListenSocket, address: Address, path: Option<OwnPath>) -> Listener {
        Listener { socket, address, path, token: Token(0), owed: false }
    }
}

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    /// As a stream, whose `try_io` leaves accept to us. Mio's own panics at a client whose path fills
    /// its address to the last byte: the kernel tells its length with one byte more (unix(7), BUGS).
    Unix(UnixStream),
}

impl ListenSocket {
    fn accept(&self) -> io::Result<(Socket, Address)> {
        Ok(match self {
            ListenSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                (Socket::Tcp(stream), Address::Tcp(peer))
            }
            ListenSocket::Unix(listener) => {
                let (socket, peer) = listener.try_io(|| SockRef::from(listener).accept())?;
                socket.set_nonblocking(true)?;
                (Socket::Unix(UnixStream::from_std(socket.into())), Address::from(&peer))
            }
        })
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            ListenSocket::Tcp(listener) => listener,
            ListenSocket::Unix(listener) => listener,
        }
    }
}

/// What one turn of the loop may still accept, whether it has accepted any, and the error that the last
/// accept met.
#[derive(Debug)]
pub struct Allowance {
    left: usize,
    any: bool,
    error: Option<(ErrorKind, Option<i32>)>,
}

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance { left: BUDGET, any: false, error: None }
    }
}

impl Listeners {
    /// Binds all endpoints, or none.
    ///
    /// # Errors
    /// Names the endpoint, what was tried, and what to do.
    pub fn bind(config: &Config) -> io::Result<Listeners> {
        Listeners::adopt(Vec::new(), config)
    }

    /// Takes over sockets that listen already, and binds all endpoints beside them, or none.
    ///
    /// # Errors
    /// Names the socket or the endpoint, what was tried, and what to do.
    pub fn adopt(inherited: Vec<OwnedFd>, config: &Config) -> io::Result<Listeners> {
        let mut sockets = Vec::new();
        for socket in inherited {
            let number = socket.as_raw_fd();
            sockets.push(bind::adopt(socket, config).map_err(|e| {
                let why = format!("cannot serve file {number}, which was handed over: {e}");
                io::Error::new(e.kind(), why)
            })?);
        }
        for endpoint in &config.endpoints {
            sockets.extend(bind::bind(endpoint, config)?);
        }
        let troubles = Throttle::default();
        Ok(Listeners { sockets, next: 0, paused_until: None, errors: 0, troubles })
    }

    /// The addresses bound: first those of sockets taken over, then in the order of the endpoints, v4
    /// before v6.
    pub fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().map(|listener| listener.address.clone()).collect()
    }

    /// Registers every listener for readable, with the tokens from `first` on. Registered once, it
    /// is announced when the backlog fills and not again until accept has said would-block.
    ///
    /// # Errors
    /// Those of the registry.
    pub fn register(&mut self, registry: &Registry, first: usize) -> io::Result<()> {
        for (listener, token) in self.sockets.iter_mut().zip((first..).map(Token)) {
            listener.token = token;
            registry.register(listener.socket.source(), token, Interest::READABLE)?;
        }
        Ok(())
    }

    /// An event said that somebody waits.
    pub fn latch(&mut self, token: Token) {
        for listener in self.sockets.iter_mut().filter(|listener| listener.token == token) {
            trace!("{}: somebody waits", listener.address);
            listener.owed = true;
        }
    }

    /// The end is near: from here on a Unix socket is not to be found any more, and at every listener
    /// somebody may wait who has found it in time.
    pub fn last_call(&mut self) {
        for listener in &mut self.sockets {
            listener.path = None;
            listener.owed = true;
        }
    }

    /// When accept is to be called without waiting for an event, if it is: at once, or after a pause.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let owed = self.sockets.iter().any(|listener| listener.owed);
        owed.then(|| self.paused_until.unwrap_or(now))
    }

    /// Answers of accept that were errors, all in all.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// A connection has closed: what accept ran out of may be there again.
    pub fn end_pause(&mut self) {
        self.paused_until = None;
    }

    /// Accepts one connection, from the listeners in turn; `None` when no more is to be had in this
    /// turn of the loop.
    ///
    /// "accept will almost certainly work" (HOWTO), and when it does not:
    ///
    /// - Would-block: the backlog is empty, an event will tell.
    /// - One that gave up while it waited (`ECONNABORTED`), or an error that it has brought along
    ///   (`EPROTO` and its like): the next one may be well, so go on.
    /// - The same error twice in a row, if it is none of peers that give up, or no other answer for a
    ///   whole turn, is no longer one peer's. When files or memory run out
    ///   (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`; accept(2)) the connection stays in the backlog.
    ///   Edges would never mention it again, and a level-triggered loop would spin on it. So accept
    ///   stays owed, and is tried again after a pause or as soon as a connection closes.
    pub fn accept(&mut self, allowance: &mut Allowance, now: Instant) -> Option<(Socket, Address)> {
        if self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        while allowance.left > 0 {
            let listener = self.next_owed()?;
            match listener.socket.accept() {
                Ok(accepted) => {
                    allowance.left -= 1;
                    allowance.any = true;
                    allowance.error = None;
                    return Some(accepted);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    trace!("  accept answers WouldBlock");
                    listener.owed = false;
                }
                Err(e) => {
                    let address = listener.address.clone();
                    allowance.left -= 1;
                    self.errors += 1;
                    trace!("  accept answers {e}");
                    let error = Some((e.kind(), e.raw_os_error()));
                    let again = mem::replace(&mut allowance.error, error) == error;
                    let passing = [ErrorKind::ConnectionAborted, ErrorKind::Interrupted];
                    let in_vain = allowance.left == 0 && !allowance.any;
                    if again && (!passing.contains(&e.kind()) || in_vain) {
                        self.troubles.warn(now, format_args!("cannot accept on {address}: {e}"));
                        self.paused_until = now.checked_add(PAUSE);
                        return None;
                    }
                }
            }
        }
        None
    }

    fn next_owed(&mut self) -> Option<&mut Listener> {
        let count = self.sockets.len();
        let mut turn = (self.next..self.next + count).map(|i| i % count);
        let found = turn.find(|&i| self.sockets[i].owed)?;
        self.next = found + 1;
        Some(&mut self.sockets[found])
    }

    /// Closes the listeners at which nobody waits. To close one while somebody does makes the kernel
    /// reset them.
    pub fn close_empty(&mut self) {
        self.sockets.retain(|listener| listener.owed);
    }

    /// Closes every listener, whoever waits.
    pub fn close_all(&mut self) {
        self.sockets.clear();
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}
