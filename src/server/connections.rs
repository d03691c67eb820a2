//! The connections of a server: a slab, and who is driven when.
//!
//! (One file: run queue, deadlines and counters must agree whenever a connection is opened, driven or
//! closed.)

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use log::{debug, trace};
use mio::event::Event;
use mio::{Registry, Token};
use slab::Slab;

use crate::net::address::Address;
use crate::net::deadline::{Deadlines, after};
use crate::net::escape::one_line;
use crate::net::ready::{self, Readiness};
use crate::net::socket::Socket;
use crate::protocol::Protocol;
use crate::server::address_limit::AddressLimit;
use crate::server::config::Config;
use crate::server::connection::{Connection, Progress};
use crate::server::connection_log::ConnectionLog;
use crate::server::context::Context;
use crate::server::counters::CloseReason;
use crate::server::timeouts::{QUIET, Timeouts};

/// How long a turn may be busy with the run queue, and how long with deadlines. Events, signals and new
/// connections wait meanwhile.
const TURN_TIME: Duration = Duration::from_millis(10);

/// All connections. The token of a connection is its key in the slab.
pub(crate) struct Connections<P: Protocol> {
    slab: Slab<Connection<Socket, P>>,
    /// What the connections share. Its time is the loop's time.
    pub(crate) context: Context<P>,
    /// Keys of the runnable connections, each once, and of no others. So an event for a connection that was
    /// runnable before need not drive it, and no connection ends while it is queued.
    run_queue: VecDeque<usize>,
    deadlines: Deadlines,
    timeouts: Timeouts,
    limit: Option<AddressLimit>,
    log: ConnectionLog,
    /// A connection has closed since [`Connections::take_closed`].
    any_closed: bool,
}

impl<P: Protocol> Connections<P> {
    pub(crate) fn new(protocol: P, config: &Config) -> Connections<P> {
        Connections {
            slab: Slab::new(),
            context: Context::new(protocol, config.max_buffer, Instant::now()),
            run_queue: VecDeque::new(),
            deadlines: Deadlines::default(),
            timeouts: Timeouts::new(config.idle_timeout),
            limit: config.max_connections_per_ip.map(AddressLimit::new),
            log: ConnectionLog::default(),
            any_closed: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Returns the number of connections that can progress without an event.
    pub(crate) fn queued(&self) -> usize {
        self.run_queue.len()
    }

    /// Returns the earliest deadline of a connection.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Returns whether a connection has closed since the last call.
    pub(crate) fn take_closed(&mut self) -> bool {
        std::mem::take(&mut self.any_closed)
    }

    /// Takes in a connection that was accepted, or closes it if its address has as many as it may have.
    ///
    /// # Errors
    /// Those of the registry. The connection is closed and counted.
    pub(crate) fn open(
        &mut self,
        mut socket: Socket,
        peer: &Address,
        registry: &Registry,
    ) -> io::Result<()> {
        if self.limit.as_ref().is_some_and(|limit| !limit.admits(peer)) {
            debug!("refused {peer}: its address has as many connections as it may have");
            self.context.counters.refused += 1;
            return Ok(());
        }
        let now = self.context.now;
        let key = self.slab.vacant_key();
        self.context.counters.accepted += 1;
        if let Err(e) = registry.register(&mut socket, Token(key), ready::interest()) {
            self.context.counters.closed_error += 1;
            return Err(e);
        }
        self.slab.insert(Connection::new(socket, now));
        if let Some(limit) = &mut self.limit {
            limit.opened(key, peer);
        }
        self.log.opened(key, peer, now);
        self.schedule(key);
        Ok(())
    }

    /// An event has come for a connection. One that is runnable already is in the run queue, and is driven
    /// from there. One that is unknown has just been closed.
    pub(crate) fn ready(&mut self, key: usize, event: &Event) {
        let Some(connection) = self.slab.get_mut(key) else { return };
        let (was_queued, readiness) = (connection.is_runnable(), Readiness::from(event));
        trace!("connection {key}: {readiness}");
        connection.latch(readiness);
        if !was_queued {
            self.drive(key);
        }
    }

    /// Drives every connection of the run queue once, without a bound of time.
    pub(crate) fn run_all_queued(&mut self) {
        for _ in 0..self.run_queue.len() {
            let Some(key) = self.run_queue.pop_front() else { break };
            self.drive(key);
        }
    }

    /// Drives the first `queued` connections of the run queue, each once. Time bounds it, but at least one
    /// is driven.
    pub(crate) fn run_queued(&mut self, queued: usize) {
        let mut until = None;
        for _ in 0..queued {
            let Some(key) = self.run_queue.pop_front() else { break };
            trace!("connection {key}: its turn again");
            self.drive(key);
            if is_over(&mut until) {
                break;
            }
        }
    }

    fn drive(&mut self, key: usize) {
        let progress = self.slab[key].drive(&mut self.context);
        let traffic = self.context.traffic;
        self.context.counters.bytes_in += traffic.received;
        self.context.counters.bytes_out += traffic.sent;
        self.log.moved(key, traffic);
        // The usual answer is tested alone: a jump table of all would cost each echo five instructions.
        if let Ok(Progress::Blocked) = progress {
            return;
        }
        match progress {
            Ok(Progress::Blocked) => {}
            Ok(Progress::Lingering) => {
                self.log_malformed(key);
                self.schedule(key);
            }
            Ok(Progress::Again) => self.run_queue.push_back(key),
            Ok(Progress::Done) => self.close(key, None),
            Err(e) => self.close(key, Some(&e)),
        }
    }

    fn log_malformed(&mut self, key: usize) {
        if let Some(malformed) = self.context.malformed.take() {
            debug!("connection {key}: malformed input: {}", one_line(&malformed.to_string()));
        }
    }

    #[inline(never)]
    fn close(&mut self, key: usize, error: Option<&io::Error>) {
        self.log_malformed(key);
        debug_assert!(!self.run_queue.contains(&key), "nothing ends while it is queued");
        let connection = self.slab.remove(key);
        let reason = connection.close_reason(error.is_some());
        connection.close(&mut self.context);
        self.context.counters.count_close(reason);
        if let Some(limit) = &mut self.limit {
            limit.closed(key);
        }
        let reason: &dyn fmt::Display = match error {
            Some(e) if reason == CloseReason::Error => e,
            _ => &reason,
        };
        self.log.closed(key, reason, self.context.now);
        self.deadlines.schedule(key, None);
        self.any_closed = true;
    }

    fn schedule(&mut self, key: usize) {
        let at = self.timeouts.next_look(&self.slab[key], self.context.now);
        self.deadlines.schedule(key, at);
    }

    /// Closes the connections whose time is over. Time bounds it; the rest is due in the next turn.
    pub(crate) fn close_due(&mut self) {
        let mut until = None;
        while let Some(key) = self.deadlines.pop_due(self.context.now) {
            self.expire(key);
            if is_over(&mut until) {
                break;
            }
        }
    }

    /// The deadline of a connection has come. If the connection has moved since, or need not end, the
    /// deadline is put off.
    fn expire(&mut self, key: usize) {
        let now = self.context.now;
        let connection = &mut self.slab[key];
        if connection.is_runnable() {
            // It is in the run queue: not idle, but waiting for its turn.
            return self.deadlines.schedule(key, after(now, Some(QUIET)));
        }
        if !connection.is_lingering() && self.timeouts.is_over(connection, now) {
            // Bytes may have arrived whose event is still in the kernel. Ask the socket itself before its
            // silence ends it.
            trace!("connection {key}: asked before it ends");
            connection.latch(Readiness::ALL);
            self.drive(key);
        }
        let Some(connection) = self.slab.get(key) else { return };
        if !self.timeouts.is_over(connection, now) {
            self.schedule(key);
        } else if connection.is_lingering() {
            self.close(key, None);
        } else {
            self.linger(key);
        }
    }

    fn linger(&mut self, key: usize) {
        let connection = &mut self.slab[key];
        let reason = self.timeouts.reason(connection);
        match connection.linger(reason, &mut self.context) {
            Ok(()) => {
                self.schedule(key);
                self.drive(key);
            }
            Err(e) => self.close(key, Some(&e)),
        }
    }

    /// Begins the drain: each connection is to be driven once, with all readiness bits set.
    pub(crate) fn begin_drain(&mut self) {
        let now = self.context.now;
        self.timeouts.begin_drain(now);
        self.queue_all(|connection| connection.latch(Readiness::ALL));
        for (key, _) in &self.slab {
            self.deadlines.schedule(key, after(now, Some(QUIET)));
        }
    }

    /// From now on no connection receives. What is owed is still sent.
    pub(crate) fn stop_receiving(&mut self) {
        self.queue_all(Connection::finish);
    }

    /// Prepares every connection, and queues those that are then runnable. They are driven in turns of
    /// bounded time, however many they are.
    fn queue_all(&mut self, prepare: impl Fn(&mut Connection<Socket, P>)) {
        for (key, connection) in &mut self.slab {
            let was_queued = connection.is_runnable();
            prepare(connection);
            if !was_queued && connection.is_runnable() {
                self.run_queue.push_back(key);
            }
        }
    }

    /// Returns the number of connections that have not been sent all that they are owed, and our end of the
    /// stream behind it.
    pub(crate) fn unfinished(&self) -> usize {
        self.slab.iter().filter(|(_, connection)| !connection.is_lingering()).count()
    }

    /// Closes every connection.
    pub(crate) fn close_all(&mut self) {
        self.run_queue.clear();
        for key in self.keys() {
            self.close(key, None);
        }
        debug_assert_eq!(self.context.counters.open(), 0, "the counters add up");
        debug_assert_eq!(self.context.pool.in_use(), 0, "every page is back");
    }

    fn keys(&self) -> Vec<usize> {
        self.slab.iter().map(|(key, _)| key).collect()
    }
}

/// Returns whether [`TURN_TIME`] has passed since the first call.
fn is_over(until: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    *until.get_or_insert(now + TURN_TIME) <= now
}
