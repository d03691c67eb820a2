//! The event source: all UDP sockets of the daemon.

use std::io::{self, ErrorKind};
use std::mem;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use log::debug;
use mio::Interest;

use crate::net::address::Address;
use crate::net::bind::{Bound, bind_endpoint};
use crate::net::endpoint::Endpoint;
use crate::server::source::{Action, EventSource, LoopHandle, Notification, SourceCounter};
use crate::server::warnings::RateLimitedWarning;
use crate::sources::udp::guard::Guard;
use crate::sources::udp::rate::RateLimit;
use crate::sources::udp::responder::Responder;
use crate::sources::udp::socket::Socket;

/// What may be received in one turn of the loop, in bytes, shared by all sockets. More would make the
/// connections wait. The rest is received in the next turn.
const BUDGET: usize = 128 * 1024;

/// What may be received in the drain: more than a receive buffer of 8 MiB holds.
const DRAIN_BUDGET: usize = 16 * 1024 * 1024;

/// How long a socket is left alone after an error that stays.
const PAUSE: Duration = Duration::from_millis(100);

/// Options of the echo of datagrams.
#[derive(Debug, Clone)]
pub struct UdpOptions {
    /// Number of answers a second to one source address. The addresses of an IPv6 network of 64 bits count
    /// as one.
    pub rate: usize,
    /// Whether several processes may serve one port (`SO_REUSEPORT`, socket(7)).
    pub reuse_port: bool,
}

impl Default for UdpOptions {
    fn default() -> UdpOptions {
        UdpOptions { rate: 10_000, reuse_port: false }
    }
}

/// Echoes datagrams, on all UDP sockets of the daemon.
#[derive(Debug)]
pub struct UdpEcho {
    sockets: Vec<Socket>,
    responder: Responder,
    warning: RateLimitedWarning,
    /// A time that has passed: what is due then is due at once.
    start: Instant,
}

impl UdpEcho {
    /// Takes sockets that are bound already, as systemd hands them over, and binds all endpoints, or none. A
    /// socket that is taken becomes nonblocking, in every process that has it.
    ///
    /// # Errors
    /// Names the socket or the endpoint, what was tried, and what to do.
    pub fn adopt(
        inherited: Vec<UdpSocket>,
        endpoints: &[Endpoint],
        options: &UdpOptions,
    ) -> io::Result<UdpEcho> {
        let adopted = inherited.into_iter().map(|socket| Ok(vec![Socket::adopt(socket)?]));
        let bound = endpoints.iter().map(|endpoint| bind(endpoint, options));
        let mut sockets = Vec::new();
        for (number, bound) in adopted.chain(bound).enumerate() {
            for mut socket in bound? {
                socket.endpoint = number;
                sockets.push(socket);
            }
        }
        let own = sockets.iter().filter_map(|socket| socket.address().as_udp()).collect();
        let start = Instant::now();
        let guard = Guard::new(own, RateLimit::new(options.rate, start));
        Ok(UdpEcho {
            sockets,
            responder: Responder::new(guard),
            warning: RateLimitedWarning::default(),
            start,
        })
    }

    /// Returns the bound addresses, with a list for each adopted socket and for each endpoint.
    pub fn endpoint_addrs(&self) -> Vec<Vec<Address>> {
        let endpoints = self.sockets.chunk_by(|one, next| one.endpoint == next.endpoint);
        endpoints.map(|those| those.iter().map(|s| s.address().clone()).collect()).collect()
    }

    /// Answers what waits in the sockets, within the budget.
    fn serve(&mut self, budget: usize, now: Instant) {
        let count = self.sockets.iter().filter(|socket| socket.is_due(now)).count();
        for socket in self.sockets.iter_mut().filter(|socket| socket.is_due(now)) {
            socket.paused_until = None;
            if let Err(e) = self.responder.serve(socket, budget / count, now) {
                let address = socket.address();
                self.warning.warn(now, format_args!("cannot receive on {address}: {e}"));
                socket.paused_until = now.checked_add(PAUSE);
            }
        }
    }

    /// Answers what has arrived, and closes the sockets. The source stays, so that its counters are part of
    /// the last line.
    fn drain(&mut self, handle: &LoopHandle<'_>) {
        for socket in &mut self.sockets {
            socket.is_readable = true;
        }
        self.serve(DRAIN_BUDGET, handle.now);
        for mut socket in mem::take(&mut self.sockets) {
            // Whoever has handed it over still has it open, and then the poll would not forget it.
            if let Err(e) = handle.deregister(&mut socket.io) {
                debug!("{}: {e}", socket.address());
            }
        }
    }
}

fn bind(endpoint: &Endpoint, options: &UdpOptions) -> io::Result<Vec<Socket>> {
    bind_endpoint(endpoint, |address| {
        let address = address.as_udp().ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidInput, "datagrams need an endpoint of UDP")
        })?;
        Socket::bind(address, options.reuse_port)
    })
}

impl EventSource for UdpEcho {
    fn register(&mut self, handle: &LoopHandle<'_>) -> io::Result<()> {
        for (number, socket) in self.sockets.iter_mut().enumerate() {
            handle.register(&mut socket.io, number, Interest::READABLE)?;
        }
        Ok(())
    }

    fn notify(&mut self, what: Notification, handle: &LoopHandle<'_>) -> io::Result<Action> {
        match what {
            Notification::Ready { number, .. } => {
                if let Some(socket) = self.sockets.get_mut(number) {
                    socket.is_readable = true;
                }
            }
            Notification::Due | Notification::Again => self.serve(BUDGET, handle.now),
            Notification::Drain => self.drain(handle),
            Notification::Woken => {}
        }
        // Behind all events of the turn, so that the sockets share one budget; and in the next turn, for what
        // is left.
        let is_due = self.sockets.iter().any(|socket| socket.is_due(handle.now));
        Ok(if is_due { Action::Again } else { Action::Continue })
    }

    fn due(&self) -> Option<Instant> {
        self.sockets.iter().filter_map(|socket| socket.due(self.start)).min()
    }

    fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().map(|socket| socket.address().clone()).collect()
    }

    fn counters(&self) -> Vec<SourceCounter> {
        self.responder.counters()
    }
}
