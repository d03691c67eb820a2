//! The loop.
//!
//! Everything in this crate that waits, waits in one place: `Poll::poll`, in [`Server::run`].
//! Everything below it is a short answer to "this socket may be ready now".

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::trace;
use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use slab::Slab;

use crate::net::deadline::{Deadlines, after};
use crate::net::endpoint::Address;
use crate::net::ready::{self, Progress, Readiness};
use crate::net::socket::Socket;
use crate::server::config::Config;
use crate::server::connection::{Connection, Tools};
use crate::server::counters::Cause;
use crate::server::listener::{Allowance, Listeners};
use crate::server::peers::Peers;
use crate::server::source::{Guest, Host, TOKENS};
use crate::server::throttle::Throttle;

pub mod config;
pub mod connection;
pub mod counters;
mod ending;
pub mod listener;
mod peers;
pub mod source;
mod throttle;

use ending::Drain;
pub use ending::{End, Ended, Stopper};

/// Events taken from the kernel in one call; more wait there for the next turn.
const EVENTS: usize = 256;

/// How long a turn may be busy with the run queue: signals, newcomers and deadlines wait meanwhile.
const QUEUE_TIME: Duration = Duration::from_millis(10);

/// Whom an event is for. A connection's token is its key in the slab; the others have tokens that no
/// slab can reach.
const LISTENERS: usize = usize::MAX / 4;
const GUESTS: usize = usize::MAX / 2;
const WAKER: usize = usize::MAX - 1;

/// An echo server: one poll, one slab of connections, one loop, one thread.
pub struct Server {
    poll: Poll,
    waker: Arc<Waker>,
    listeners: Listeners,
    connections: Slab<Connection<Socket>>,
    /// What the connections share; its clock is the loop's.
    tools: Tools,
    peers: Peers,
    guests: Vec<Box<dyn Guest>>,
    /// Connections with a latched, wanted call left: the runnable ones, each once, and no other. So what
    /// is runnable before an event is queued already, and nothing ends while it is queued.
    run_queue: VecDeque<usize>,
    deadlines: Deadlines,
    config: Config,
    /// Until when to ask without sleeping.
    busy_until: Option<Instant>,
    drain: Option<Drain>,
    end: Option<End>,
    troubles: Throttle,
}

impl Server {
    /// Binds all endpoints. From here on the kernel accepts connections; they are served by
    /// [`run`](Server::run).
    ///
    /// # Errors
    /// A setting that [`Config::check`] refuses (`InvalidInput`), an endpoint that cannot be bound,
    /// or no more files.
    pub fn bind(config: &Config) -> io::Result<Server> {
        Server::adopt(Vec::new(), config)
    }

    /// Takes over sockets that listen already, as systemd hands them over, and binds all endpoints
    /// beside them.
    ///
    /// # Errors
    /// Those of [`bind`](Server::bind), and a file that is no stream socket, or does not listen.
    pub fn adopt(inherited: Vec<OwnedFd>, config: &Config) -> io::Result<Server> {
        let refused = |why: String| io::Error::new(ErrorKind::InvalidInput, why);
        config.check().map_err(refused)?;
        if inherited.is_empty() && config.endpoints.is_empty() {
            return Err(refused("no endpoint to listen on".into()));
        }
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(WAKER))?);
        let mut listeners = Listeners::adopt(inherited, config)?;
        listeners.register(poll.registry(), LISTENERS)?;
        Ok(Server {
            poll,
            waker,
            listeners,
            connections: Slab::new(),
            tools: Tools::new(config.max_buffer, Instant::now()),
            peers: Peers::new(config.max_connections_per_ip),
            guests: Vec::new(),
            run_queue: VecDeque::new(),
            deadlines: Deadlines::default(),
            config: config.clone(),
            busy_until: None,
            drain: None,
            end: None,
            troubles: Throttle::default(),
        })
    }

    /// The addresses bound: first those of sockets taken over, then in the order of the endpoints, v4
    /// before v6.
    pub fn local_addrs(&self) -> Vec<Address> {
        self.listeners.addresses()
    }

    /// A handle with which any thread can end the run.
    pub fn stopper(&self) -> Stopper {
        Stopper::new(Arc::clone(&self.waker))
    }

    /// Lets something else live on this server's poll.
    ///
    /// # Errors
    /// Those of [`Guest::register`].
    pub fn invite(&mut self, mut guest: Box<dyn Guest>) -> io::Result<()> {
        guest.register(self.poll.registry(), Token(GUESTS + TOKENS * self.guests.len()))?;
        self.guests.push(guest);
        Ok(())
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// The poll failed, or a guest did. What fails on one connection ends that connection only.
    pub fn run(mut self) -> io::Result<Ended> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let queued = self.run_queue.len();
            self.wait(&mut events)?;
            for event in &events {
                self.dispatch(event)?;
            }
            self.run_queued(queued);
            self.close_due();
            self.accept();
            self.advance_drain();
            let turn = self.tools.now.elapsed();
            self.tools.counters.longest_turn = self.tools.counters.longest_turn.max(turn);
            if let Some(end) = self.end {
                return Ok(self.close_all(end));
            }
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        loop {
            let answer = self.poll.poll(events, self.timeout());
            self.tools.now = Instant::now();
            match answer {
                // A signal's handler ran, or a debugger: wait again, for what is left of the time.
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                answer => answer?,
            }
            if !events.is_empty() {
                self.busy_until = after(self.tools.now, self.config.busy_poll);
            }
            return Ok(());
        }
    }

    /// Exactly until there is something to do that no event will announce.
    fn timeout(&self) -> Option<Duration> {
        let busy = self.busy_until.is_some_and(|until| self.tools.now < until);
        if busy || !self.run_queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let has_room = self.connections.len() < self.config.max_connections;
        let accept = self.listeners.due(self.tools.now).filter(|_| has_room);
        let drain = self.drain.as_ref().and_then(Drain::due);
        let guests = self.guests.iter().filter_map(|guest| guest.due());
        [self.deadlines.next(), accept, drain]
            .into_iter()
            .flatten()
            .chain(guests)
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()))
    }

    fn dispatch(&mut self, event: &Event) -> io::Result<()> {
        match event.token().0 {
            key if key < LISTENERS => self.ready(key, event),
            token if token < GUESTS => self.listeners.latch(event.token()),
            WAKER => self.begin_drain(),
            token => {
                let guest = (token - GUESTS) / TOKENS;
                let host = host(&self.poll, &self.tools);
                let wish = self.guests[guest].ready(&host, event)?;
                self.grant(wish);
            }
        }
        Ok(())
    }

    /// A connection may be ready. One that is runnable already is in the run queue, and has its turn
    /// there; one that is unknown has just ended.
    fn ready(&mut self, key: usize, event: &Event) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let (was_queued, said) = (connection.is_runnable(), Readiness::from(event));
        trace!("connection {key}: {said}");
        connection.latch(said);
        if !was_queued {
            self.drive(key);
        }
    }

    /// What was queued when the turn began, each once, the first of them in any case.
    fn run_queued(&mut self, queued: usize) {
        let mut until = None;
        for _ in 0..queued {
            let Some(key) = self.run_queue.pop_front() else { break };
            trace!("connection {key}: its turn again");
            self.drive(key);
            let now = Instant::now();
            if *until.get_or_insert(now + QUEUE_TIME) <= now {
                break;
            }
        }
    }

    fn drive(&mut self, key: usize) {
        let before = (self.tools.counters.bytes_in, self.tools.counters.bytes_out);
        let progress = self.connections[key].drive(&mut self.tools);
        self.peers.moved(key, before, &self.tools.counters);
        match progress {
            Ok(Progress::Blocked) => {}
            Ok(Progress::Again) => self.run_queue.push_back(key),
            Ok(Progress::Done) => self.close(key, Cause::Peer),
            Err(e) => self.close(key, Cause::Error(e)),
        }
    }

    fn close(&mut self, key: usize, cause: Cause) {
        let connection = self.connections.remove(key);
        // However the lingering ends, the connection was ended by what began it.
        let cause = connection.lingers().map_or(cause, Cause::from);
        debug_assert!(!self.run_queue.contains(&key));
        connection.close(&mut self.tools);
        self.tools.counters.count(&cause);
        self.peers.leave(key, &cause, self.tools.now);
        self.deadlines.schedule(key, None);
        self.listeners.end_pause();
    }

    /// Last, so that slots are free first, and so that no key of the slab is used again inside a
    /// batch of events, where a stale event could still be under way for it.
    fn accept(&mut self) {
        let (mut allowance, now) = (Allowance::default(), self.tools.now);
        while self.connections.len() < self.config.max_connections {
            let Some((socket, peer)) = self.listeners.accept(&mut allowance, now) else { break };
            if self.peers.admit(&peer) {
                self.welcome(socket, peer);
            } else {
                self.tools.counters.refused += 1;
            }
        }
        self.tools.counters.accept_errors = self.listeners.errors();
        if self.drain.is_some() {
            self.listeners.close_empty();
        }
    }

    fn welcome(&mut self, mut socket: Socket, peer: Address) {
        let now = self.tools.now;
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        self.tools.counters.accepted += 1;
        if let Err(e) = self.poll.registry().register(&mut socket, Token(key), ready::interest()) {
            self.troubles.warn(now, format_args!("cannot watch the connection of {peer}: {e}"));
            return self.tools.counters.count(&Cause::Error(e));
        }
        self.peers.arrive(key, peer, now);
        entry.insert(Connection::new(socket, now));
        self.schedule(key);
    }
}

fn host<'a>(poll: &'a Poll, tools: &'a Tools) -> Host<'a> {
    Host { registry: poll.registry(), counters: &tools.counters, now: tools.now }
}
