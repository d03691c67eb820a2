//! Server sockets: how they are bound, and how they accept.
//!
//! A server socket neither sends nor receives. It only ever makes client sockets ("Creating a
//! Socket" in the Socket Programming HOWTO).

use std::io::{self, ErrorKind};
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::{debug, warn};
use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::throttle::Throttle;

/// Connections accepted in one turn of the loop, so that a flood of newcomers does not starve those
/// who are here.
const BUDGET: usize = 64;

/// How long to leave accept alone after an error that stays. A connection that closes ends the pause.
const PAUSE: Duration = Duration::from_millis(100);

/// How often to look for one port that is free on several addresses.
const PORTS_TRIED: usize = 32;

/// The server's listening sockets, and what is still to be accepted from them.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Listener>,
    /// Who is asked first, so that with few slots free no listener waits for ever behind another.
    next: usize,
    paused_until: Option<Instant>,
    troubles: Throttle,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    token: Token,
    /// Somebody may wait in the backlog. With edges this has to be remembered: a queue that was not
    /// emptied is never announced again.
    owed: bool,
}

/// What one turn of the loop may still accept, and the error that the last accept met.
#[derive(Debug)]
pub struct Turn {
    budget: usize,
    error: Option<i32>,
}

impl Default for Turn {
    fn default() -> Turn {
        Turn { budget: BUDGET, error: None }
    }
}

impl Listeners {
    /// Binds all endpoints, or none.
    ///
    /// # Errors
    /// Names the endpoint, what was tried, and what to do.
    pub fn bind(config: &Config) -> io::Result<Listeners> {
        let mut sockets = Vec::new();
        for endpoint in &config.endpoints {
            sockets.extend(bind_endpoint(endpoint, config)?);
        }
        Ok(Listeners { sockets, next: 0, paused_until: None, troubles: Throttle::default() })
    }

    /// The addresses bound, in the order of the endpoints, v4 before v6.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|listener| listener.address).collect()
    }

    /// Registers every listener for readable, with the tokens from `first` on. Registered once, it
    /// is announced when the backlog fills and not again until accept has said would-block.
    ///
    /// # Errors
    /// Those of the registry.
    pub fn register(&mut self, registry: &Registry, first: usize) -> io::Result<()> {
        for (listener, token) in self.sockets.iter_mut().zip((first..).map(Token)) {
            listener.token = token;
            listener.socket.register(registry, token, Interest::READABLE)?;
        }
        Ok(())
    }

    /// An event said that somebody waits.
    pub fn latch(&mut self, token: Token) {
        for listener in self.sockets.iter_mut().filter(|listener| listener.token == token) {
            listener.owed = true;
        }
    }

    /// Somebody may wait at every listener.
    pub fn latch_all(&mut self) {
        self.sockets.iter_mut().for_each(|listener| listener.owed = true);
    }

    /// When accept is to be called without waiting for an event, if it is: at once, or after a pause.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let owed = self.sockets.iter().any(|listener| listener.owed);
        owed.then(|| self.paused_until.unwrap_or(now))
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
    /// - One that gave up while it waited (`ECONNABORTED`, `EPROTO` and their like): the next one may
    ///   be well, so go on.
    /// - The same error twice in a row is no longer one peer's. When files or memory run out
    ///   (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`; accept(2)) the connection stays in the backlog.
    ///   Edges would never mention it again, and a level-triggered loop would spin on it. So accept
    ///   stays owed, and is tried again after a pause or as soon as a connection closes.
    pub fn accept(&mut self, turn: &mut Turn, now: Instant) -> Option<(TcpStream, SocketAddr)> {
        if self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        while turn.budget > 0 {
            let listener = self.next_owed()?;
            match listener.socket.accept() {
                Ok(accepted) => {
                    turn.budget -= 1;
                    turn.error = None;
                    return Some(accepted);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => listener.owed = false,
                Err(e) => {
                    turn.budget -= 1;
                    debug!("accept on {}: {e}", listener.address);
                    if mem::replace(&mut turn.error, e.raw_os_error()) == e.raw_os_error() {
                        let address = listener.address;
                        self.paused_until = now.checked_add(PAUSE);
                        self.troubles.warn(now, format_args!("cannot accept on {address}: {e}"));
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

/// Binds every address that the endpoint stands for, on one port.
fn bind_endpoint(endpoint: &Endpoint, config: &Config) -> io::Result<Vec<Listener>> {
    let failed = |tried: &str, e: io::Error| {
        io::Error::new(e.kind(), format!("cannot {tried} {endpoint}: {e}{}", advice(e.kind())))
    };
    let addresses = endpoint.resolve().map_err(|e| failed("resolve", e))?;
    let any_port = addresses.iter().all(|address| address.port() == 0);
    let mut tries = if any_port && addresses.len() > 1 { PORTS_TRIED } else { 1 };
    loop {
        tries -= 1;
        match bind_addresses(&addresses, config) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            result => return result.map_err(|e| failed("listen on", e)),
        }
    }
}

/// A machine without IPv6 has no `::1` and can still serve 127.0.0.1: an address that is not to be
/// had is skipped if another is left.
fn bind_addresses(addresses: &[SocketAddr], config: &Config) -> io::Result<Vec<Listener>> {
    let mut bound: Vec<Listener> = Vec::new();
    let mut lacking = Vec::new();
    for &(mut address) in addresses {
        if let Some(first) = bound.first() {
            address.set_port(first.address.port());
        }
        match listen(address, config) {
            Ok(listener) => bound.push(listener),
            Err(e) if e.kind() == ErrorKind::AddrNotAvailable => lacking.push((address, e)),
            Err(e) => return Err(e),
        }
    }
    match lacking.pop() {
        Some((_, e)) if bound.is_empty() => Err(e),
        last => {
            for (address, e) in lacking.iter().chain(&last) {
                warn!("not listening on {address}: {e}");
            }
            Ok(bound)
        }
    }
}

/// What mio's own bind leaves out: the backlog (its 128 overflows when a thousand clients come at
/// once, and each one that is dropped waits a second for its next try; the 5 of the HOWTO is long
/// past), IPv6 beside IPv4 on one port, and options that the client sockets inherit, which spares
/// each of them the system calls (tcp(7)).
fn listen(address: SocketAddr, config: &Config) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .map_err(|e| match e.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => io::Error::new(ErrorKind::AddrNotAvailable, e),
            _ => e,
        })?;
    socket.set_nonblocking(true)?;
    // A restart must not wait until the last run's connections have left TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // An echo is sent as it comes: Nagle's algorithm would hold a small one back until the peer has
    // acknowledged the one before.
    socket.set_tcp_nodelay(true)?;
    if let Some(idle) = config.keepalive {
        set_keepalive(&socket, idle)?;
    }
    socket.bind(&address.into())?;
    socket.listen(config.backlog.try_into().unwrap_or(i32::MAX))?;
    let socket = TcpListener::from_std(socket.into());
    let address = socket.local_addr()?;
    Ok(Listener { socket, address, token: Token(0), owed: false })
}

/// A peer that vanishes says nothing. After `idle` without a byte the kernel asks, three times, a
/// third of `idle` apart (tcp(7)). A peer that takes nothing of what it is owed is given up after the
/// same time (`TCP_USER_TIMEOUT`, RFC 5482).
fn set_keepalive(socket: &Socket, idle: Duration) -> io::Result<()> {
    const PROBES: u32 = 3;
    let interval = (idle / PROBES).max(Duration::from_secs(1));
    let keepalive =
        TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(idle + interval * PROBES))?;
    Ok(())
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrInUse => {
            "; another program listens there: choose another port, or 0 for a free one"
        }
        ErrorKind::PermissionDenied => {
            "; a port below 1024 takes root or CAP_NET_BIND_SERVICE: choose a higher one"
        }
        ErrorKind::AddrNotAvailable => "; choose an address of this machine, or leave it out",
        _ => "",
    }
}
