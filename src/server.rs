//! The loop.
//!
//! Everything in this crate that waits, waits in one place: `Poll::poll`, in [`Server::run`].
//! Everything below it is a short answer to "this socket may be ready now".

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Poll, Token, Waker};
use slab::Slab;

use crate::buffer::Pool;
use crate::config::Config;
use crate::connection::Connection;
use crate::deadline::{Deadlines, after};
use crate::guest::Guest;
use crate::listener::{Listeners, Turn};
use crate::ready::{self, Progress, Readiness};
use crate::throttle::Throttle;

mod ending;

use ending::Drain;

/// Events taken from the kernel in one call; more wait there for the next turn.
const EVENTS: usize = 1024;

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
    connections: Slab<Connection<TcpStream>>,
    guests: Vec<Box<dyn Guest>>,
    /// Connections with a latched, wanted call left: the runnable ones, each once, and no other. So what
    /// is runnable before an event is queued already, and what ends while it is queued is taken out.
    run_queue: VecDeque<usize>,
    deadlines: Deadlines,
    pool: Pool,
    /// The clock, read once a turn.
    now: Instant,
    max_connections: usize,
    idle_timeout: Option<Duration>,
    drain_timeout: Duration,
    drain: Option<Drain>,
    ended: Option<Ended>,
    troubles: Throttle,
}

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was taken has been given back, but to those that the deadline cut off.
    Drained {
        /// How many connections were still open at the deadline.
        cut_off: usize,
    },
    /// A guest wished so.
    Stopped {
        /// The status that it gave.
        status: u8,
    },
}

/// Ends a server's run from any thread, after a drain.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Waker>);

impl Stopper {
    /// Asks for the drain and returns. To ask again, or before the run, or after it, does no harm.
    ///
    /// # Errors
    /// Those of mio's waker.
    pub fn stop(&self) -> io::Result<()> {
        self.0.wake()
    }
}

impl Server {
    /// Binds all endpoints. From here on the kernel accepts connections; they are served by
    /// [`run`](Server::run).
    ///
    /// # Errors
    /// A setting that [`Config::check`] refuses (`InvalidInput`), an endpoint that cannot be bound,
    /// or no more files.
    pub fn bind(config: &Config) -> io::Result<Server> {
        config.check().map_err(|why| io::Error::new(ErrorKind::InvalidInput, why))?;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(WAKER))?);
        let mut listeners = Listeners::bind(config)?;
        listeners.register(poll.registry(), LISTENERS)?;
        Ok(Server {
            poll,
            waker,
            listeners,
            connections: Slab::new(),
            guests: Vec::new(),
            run_queue: VecDeque::new(),
            deadlines: Deadlines::default(),
            pool: Pool::new(config.max_buffer),
            now: Instant::now(),
            max_connections: config.max_connections,
            idle_timeout: config.idle_timeout,
            drain_timeout: config.drain_timeout,
            drain: None,
            ended: None,
            troubles: Throttle::default(),
        })
    }

    /// The addresses bound, in the order of the endpoints, v4 before v6.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// A handle with which any thread can end the run.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.waker))
    }

    /// Lets something else live on this server's poll.
    ///
    /// # Errors
    /// Those of [`Guest::register`].
    pub fn invite(&mut self, mut guest: Box<dyn Guest>) -> io::Result<()> {
        guest.register(self.poll.registry(), Token(GUESTS + self.guests.len()))?;
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
            if let Some(ended) = self.ended {
                return Ok(ended);
            }
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        loop {
            let answer = self.poll.poll(events, self.timeout());
            self.now = Instant::now();
            match answer {
                // A debugger or a SIGCONT: wait again, for what is left of the time.
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                answer => return answer,
            }
        }
    }

    /// Exactly until there is something to do that no event will announce.
    fn timeout(&self) -> Option<Duration> {
        if !self.run_queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let has_room = self.connections.len() < self.max_connections;
        let accept = self.listeners.due(self.now).filter(|_| has_room);
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
            WAKER => self.begin_drain(),
            token if token >= GUESTS => {
                let guest = &mut self.guests[token - GUESTS];
                let wish = guest.ready(self.poll.registry(), event)?;
                self.grant(wish);
            }
            token if token >= LISTENERS => self.listeners.latch(event.token()),
            key => self.ready(key, event),
        }
        Ok(())
    }

    /// A connection may be ready. One that is runnable already is in the run queue, and has its turn
    /// there; one that is unknown has just ended.
    fn ready(&mut self, key: usize, event: &Event) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let was_queued = connection.is_runnable();
        connection.latch(Readiness::from(event));
        if !was_queued {
            self.drive(key);
        }
    }

    /// What was queued when the turn began, each once.
    fn run_queued(&mut self, queued: usize) {
        for _ in 0..queued {
            let Some(key) = self.run_queue.pop_front() else { break };
            self.drive(key);
        }
    }

    fn drive(&mut self, key: usize) {
        match self.connections[key].drive(&mut self.pool, self.now) {
            Ok(Progress::Blocked) => {}
            Ok(Progress::Again) => self.run_queue.push_back(key),
            Ok(Progress::Done) => self.close(key, format_args!("done")),
            Err(e) => self.close(key, format_args!("{e}")),
        }
    }

    fn close(&mut self, key: usize, why: std::fmt::Arguments<'_>) {
        debug!("connection {key} closed: {why}");
        let connection = self.connections.remove(key);
        if connection.is_runnable() {
            self.run_queue.retain(|&queued| queued != key);
        }
        connection.close(&mut self.pool);
        self.deadlines.schedule(key, None);
        self.listeners.end_pause();
    }

    /// Last, so that slots are free first, and so that no key of the slab is used again inside a
    /// batch of events, where a stale event could still be under way for it.
    fn accept(&mut self) {
        let mut turn = Turn::default();
        while self.connections.len() < self.max_connections {
            let Some((stream, peer)) = self.listeners.accept(&mut turn, self.now) else { break };
            self.welcome(stream, peer);
        }
        if self.drain.is_some() {
            self.listeners.close_empty();
        }
    }

    fn welcome(&mut self, mut stream: TcpStream, peer: SocketAddr) {
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        if let Err(e) = self.poll.registry().register(&mut stream, Token(key), ready::interest()) {
            let trouble = format_args!("cannot watch the connection of {peer}: {e}");
            return self.troubles.warn(self.now, trouble);
        }
        debug!("connection {key} from {peer}");
        entry.insert(Connection::new(stream, self.now));
        self.schedule(key, after(self.now, self.idle_timeout));
    }
}
