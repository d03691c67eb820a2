//! Accept, and what to do when it fails.

use std::fmt;
use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use log::trace;
use mio::event::Source;
use rustix::io::Errno;

use crate::net::address::Address;
use crate::net::bind::Bound;
use crate::net::endpoint::Endpoint;
use crate::net::socket::Socket;
use crate::server::listener::bind;
use crate::server::listener::options::ListenOptions;
use crate::server::listener::path::Patience;
use crate::server::listener::socket::Listener;
use crate::server::warnings::RateLimitedWarning;

/// Number of connections accepted in one turn of the loop. More would make the open connections wait.
const BUDGET: usize = 64;

/// How long accept is left alone after a repeated error. A connection that closes ends the pause.
const PAUSE: Duration = Duration::from_millis(100);

/// The listening sockets of a server, and what is still to be accepted from them.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Listener>,
    /// Index of the socket that accepts next. They take turns, so that with few slots free no listener
    /// waits forever behind another.
    next: usize,
    paused_until: Option<Instant>,
    turn: Turn,
    errors: u64,
    warning: RateLimitedWarning,
}

/// State of accept in one turn of the loop.
#[derive(Debug)]
struct Turn {
    budget: usize,
    any_accepted: bool,
    last_error: Option<(ErrorKind, Option<i32>)>,
}

impl Default for Turn {
    fn default() -> Turn {
        Turn { budget: BUDGET, any_accepted: false, last_error: None }
    }
}

impl Listeners {
    /// Binds all endpoints, or none.
    ///
    /// # Errors
    /// Names the endpoint, what was tried, and what to do.
    pub fn bind(endpoints: &[Endpoint], options: &ListenOptions) -> io::Result<Listeners> {
        Listeners::adopt(Vec::new(), endpoints, options)
    }

    /// Takes sockets that already listen, and binds all endpoints, or none.
    ///
    /// # Errors
    /// Names the socket or the endpoint, what was tried, and what to do.
    pub fn adopt(
        inherited: Vec<OwnedFd>,
        endpoints: &[Endpoint],
        options: &ListenOptions,
    ) -> io::Result<Listeners> {
        let patience = Patience::default();
        let adopted = inherited.into_iter().map(|socket| Ok(vec![bind::adopt(socket, options)?]));
        let bound = endpoints.iter().map(|endpoint| bind::bind(endpoint, options, &patience));
        let mut sockets: Vec<Listener> = Vec::new();
        for (number, listeners) in adopted.chain(bound).enumerate() {
            for mut listener in listeners? {
                listener.endpoint = number;
                sockets.push(listener);
            }
        }
        Ok(Listeners {
            sockets,
            next: 0,
            paused_until: None,
            turn: Turn::default(),
            errors: 0,
            warning: RateLimitedWarning::default(),
        })
    }

    /// Returns the bound addresses: first those of adopted sockets, then those of the endpoints in their
    /// order, IPv4 before IPv6.
    pub fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().map(|listener| listener.address().clone()).collect()
    }

    /// Returns the same addresses, with a list for each adopted socket and for each endpoint.
    pub fn endpoint_addresses(&self) -> Vec<Vec<Address>> {
        let endpoints = self.sockets.chunk_by(|one, next| one.endpoint == next.endpoint);
        endpoints.map(|those| those.iter().map(|l| l.address().clone()).collect()).collect()
    }

    /// Registers every listener, with a function that is given the socket and a number, from 0 on; events
    /// report it with [`latch`](Listeners::latch). The interest is readable: a listener is announced when
    /// its backlog fills, and not again before accept has answered would-block.
    ///
    /// # Errors
    /// Those of the function.
    pub fn register(
        &mut self,
        mut register: impl FnMut(&mut dyn Source, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        for (number, listener) in self.sockets.iter_mut().enumerate() {
            listener.number = number;
            register(listener.source(), number)?;
        }
        Ok(())
    }

    /// Latches an event: connections wait in the backlog of the listener with this number.
    pub fn latch(&mut self, number: usize) {
        if let Some(listener) = self.sockets.iter_mut().find(|l| l.number == number) {
            trace!("{}: a connection waits", listener.address());
            listener.owed = true;
        }
    }

    /// Prepares for closing. Unix sockets lose their paths, so that nobody can find them any more. Accept is
    /// owed at every listener, for those who found it in time.
    pub fn begin_close(&mut self) {
        for listener in &mut self.sockets {
            listener.remove_path();
            listener.owed = true;
        }
    }

    /// Returns when accept is to be called without an event: at once, after a pause, or never (`None`).
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let owed = self.sockets.iter().any(|listener| listener.owed);
        owed.then(|| self.paused_until.unwrap_or(now))
    }

    /// Returns the number of errors that accept has answered since the start.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Ends a pause. Call it when a connection has closed: what accept lacked may be there again.
    pub fn end_pause(&mut self) {
        self.paused_until = None;
    }

    /// Begins a turn of the loop, with a new budget.
    pub fn begin_turn(&mut self) {
        self.turn = Turn::default();
    }

    /// Accepts one connection, from the listeners in turn. Returns `None` when no more can be accepted in
    /// this turn of the loop.
    ///
    /// The HOWTO says that "your accept will (almost certainly) work". When it does not:
    ///
    /// - Would-block: the backlog is empty, and an event will come.
    /// - An error for the first time may belong to one connection: its peer gave up while it waited
    ///   (`ECONNABORTED`), or it brought an error of the network along (`EPROTO` and others; accept(2)). The
    ///   next connection may be well, so go on.
    /// - A repeated error is local: files or memory have run out (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`).
    ///   The connection stays in the backlog. Edges never announce it again, and a level-triggered loop
    ///   would spin on it. So accept stays owed, and is tried again after a pause or when a connection
    ///   closes.
    /// - `ECONNABORTED` may be repeated: many peers can give up at once. Only a turn that had no other answer
    ///   ends in the pause, since an error that never stops would keep the loop from sleeping.
    /// - `EINVAL`: another process that has the socket has shut it down (shutdown(2)). Nobody comes, unless it
    ///   listens again, and then an event says so. The other listeners need not pause for it.
    pub fn accept(&mut self, now: Instant) -> Option<(Socket, Address)> {
        if self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        while self.turn.budget > 0 {
            let listener = self.next_owed()?;
            match listener.accept() {
                Ok(Some(accepted)) => {
                    let budget = self.turn.budget - 1;
                    self.turn = Turn { budget, any_accepted: true, last_error: None };
                    return Some(accepted);
                }
                Ok(None) => {
                    trace!("  accept answers WouldBlock");
                    listener.owed = false;
                }
                Err(e) => {
                    let address = listener.address().clone();
                    if listener.failure == Some(Errno::INVAL) {
                        listener.owed = false;
                        self.errors += 1;
                        self.warning.warn(now, format_args!("nobody can come to {address}: {e}"));
                    } else if self.is_local(&e) {
                        self.pause(now, format_args!("cannot accept on {address}: {e}"));
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Leaves accept alone for a while, and warns why.
    pub(crate) fn pause(&mut self, now: Instant, reason: fmt::Arguments<'_>) {
        self.warning.warn(now, reason);
        self.paused_until = now.checked_add(PAUSE);
    }

    /// Counts an error, and returns whether it is local: then the next accept would fail as well.
    fn is_local(&mut self, e: &io::Error) -> bool {
        trace!("  accept answers {e}");
        self.errors += 1;
        self.turn.budget -= 1;
        let error = Some((e.kind(), e.raw_os_error()));
        let is_repeated = mem::replace(&mut self.turn.last_error, error) == error;
        let is_peers = e.kind() == ErrorKind::ConnectionAborted;
        let is_in_vain = self.turn.budget == 0 && !self.turn.any_accepted;
        is_repeated && (!is_peers || is_in_vain)
    }

    fn next_owed(&mut self) -> Option<&mut Listener> {
        let count = self.sockets.len();
        let mut in_turn = (self.next..self.next + count).map(|i| i % count);
        let found = in_turn.find(|&i| self.sockets[i].owed)?;
        self.next = found + 1;
        Some(&mut self.sockets[found])
    }

    /// Closes the listeners whose backlog is empty. Closing a listener while connections wait in its
    /// backlog makes the kernel reset them. Where accept fails, the backlog itself is asked.
    ///
    /// `any_open` says whether connections are open that may close. Without any, no file comes back to a
    /// process that has run out of files (`EMFILE`): then one listener is closed for the sake of the others,
    /// and in the end the last one. What the whole system lacks (`ENFILE`, `ENOMEM`) others may give back.
    pub fn close_empty(&mut self, any_open: bool) {
        let before = self.sockets.len();
        self.sockets.retain(|l| l.owed && (l.failure.is_none() || l.has_waiting()));
        if self.sockets.len() == before && !any_open {
            let lacks_file = |l: &Listener| l.failure == Some(Errno::MFILE);
            self.sockets.iter().position(lacks_file).map(|i| self.sockets.swap_remove(i));
        }
        if self.sockets.len() < before {
            // This has freed files.
            self.end_pause();
        }
    }

    /// Closes every listener. Connections that wait in a backlog are reset.
    pub fn close_all(&mut self) {
        self.sockets.clear();
    }

    /// Returns whether no listener is left.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}
