//! The connections of a server: a slab, and who is driven when.
//!
//! (This file is longer than others: queues, deadlines and counters must agree whenever a connection is
//! opened, driven or closed. What ends connections is in `ending.rs`.)

mod ending;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use log::{debug, trace};
use mio::event::Event;
use mio::{Registry, Token};
use slab::Slab;

use crate::net::address::Address;
use crate::net::deadline::{Deadlines, after};
use crate::net::escape::one_line;
use crate::net::memory;
use crate::net::ready::{self, Readiness};
use crate::net::socket::Socket;
use crate::protocol::Protocol;
use crate::server::address_limit::AddressLimit;
use crate::server::config::Config;
use crate::server::connection::{Connection, Progress, Turn};
use crate::server::connection_log::ConnectionLog;
use crate::server::context::Context;
use crate::server::counters::CloseReason;
use crate::server::memory_queue::MemoryQueue;
use crate::server::timeouts::Timeouts;

/// How long a turn may be busy with events, how long with the run queue, and how long with deadlines. Newer
/// events, signals and new connections wait meanwhile.
pub(crate) const TURN_TIME: Duration = Duration::from_millis(4);

/// Number of bytes that a connection may receive or answer in one drive: a share of [`EVENT_BYTES`] when an
/// event has come for it, and the most when its turn in the run queue comes. The most takes the loop a fraction
/// of a millisecond; with a quarter of it a lone bulk transfer loses a tenth of its speed.
const BUDGET: RangeInclusive<usize> = 64 * 1024..=1024 * 1024;

/// Number of bytes that the events of a turn may move: about as much as in [`TURN_TIME`].
///
/// A connection that moves more than its share is loud, and its next event puts it into the run queue, behind
/// the others there. So one that moves little is served at once, however many are loud (RFC 8290, 4.2, keeps new
/// and old queues apart for the same reason).
const EVENT_BYTES: usize = 8 * 1024 * 1024;

/// All connections. The token of a connection is its key in the slab.
pub(crate) struct Connections<P: Protocol> {
    slab: Slab<Connection<Socket, P>>,
    /// What the connections share. Its time is the loop's time.
    pub(crate) context: Context<P>,
    /// Keys of the runnable connections, each once. An event for one of them does not drive it, and none ends
    /// while it is queued.
    run_queue: VecDeque<usize>,
    /// Those that wait for memory. They are not in the run queue.
    memory_queue: MemoryQueue,
    /// Number of bytes that make a connection loud in this turn, received and sent together.
    share: u64,
    /// The events of a turn are being dispatched.
    in_events: bool,
    deadlines: Deadlines,
    timeouts: Timeouts,
    limit: Option<AddressLimit>,
    log: ConnectionLog,
    /// A connection has closed since [`Connections::take_closed`].
    any_closed: bool,
}

impl<P: Protocol> Connections<P> {
    pub(crate) fn new(protocol: P, config: &Config) -> Connections<P> {
        let mut context = Context::new(protocol, config.max_buffer, Instant::now());
        context.pool.set_limit(config.max_memory);
        Connections {
            slab: Slab::new(),
            context,
            run_queue: VecDeque::new(),
            memory_queue: MemoryQueue::default(),
            share: *BUDGET.end() as u64,
            in_events: false,
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

    /// Returns when connections are to be driven without an event. That is at once (`now`) if one is
    /// runnable.
    pub(crate) fn due(&self) -> Option<Instant> {
        let now = self.context.now;
        let run = (!self.run_queue.is_empty()).then_some(now);
        let memory = self.memory_queue.due(&self.context.pool, now);
        run.or_else(|| [memory, self.deadlines.next()].into_iter().flatten().min())
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

    /// Makes room for one more connection in all that grows with their number, and returns whether there is
    /// memory for it. Later an allocation that fails would end the process.
    pub(crate) fn reserve(&mut self) -> bool {
        if self.limit.as_mut().is_some_and(|limit| !limit.reserve_address()) {
            return false;
        }
        if self.slab.len() < self.slab.capacity() {
            return true;
        }
        // Many at first: large blocks are mapped, and cost nothing before they are used.
        let count = (2 * self.slab.len()).max(4096);
        let bytes_each = size_of::<Connection<Socket, P>>()
            + size_of::<usize>()
            + MemoryQueue::BYTES_PER_KEY
            + Deadlines::BYTES_PER_KEY
            + AddressLimit::BYTES_PER_KEY
            + ConnectionLog::BYTES_PER_KEY;
        if !memory::is_available(count * bytes_each) {
            return false;
        }
        self.slab.reserve_exact(count - self.slab.len());
        memory::reserve_queue(&mut self.run_queue, count);
        self.memory_queue.reserve(count);
        self.deadlines.reserve(count);
        self.log.reserve(count);
        if let Some(limit) = &mut self.limit {
            limit.reserve(count);
        }
        true
    }

    /// Begins a turn with so many events.
    pub(crate) fn begin_turn(&mut self, events: usize) {
        let share = EVENT_BYTES / (events + self.run_queue.len()).max(1);
        self.context.budget = share.clamp(*BUDGET.start(), *BUDGET.end());
        self.share = self.context.budget as u64;
        self.in_events = true;
    }

    /// An event has come for a connection. One that is queued is driven when its turn comes. One that is
    /// unknown has just been closed.
    pub(crate) fn ready(&mut self, key: usize, event: &Event) {
        let readiness = Readiness::from(event);
        trace!("connection {key}: {readiness}");
        self.drive(key, readiness);
    }

    /// Drives the connections of the run queue, each once. `time` bounds it, but at least one is driven.
    pub(crate) fn run_queued(&mut self, time: Option<Duration>) {
        self.in_events = false;
        if self.run_queue.is_empty() {
            return;
        }
        self.context.budget = *BUDGET.end();
        let until = after(Instant::now(), time);
        for _ in 0..self.run_queue.len() {
            let Some(key) = self.run_queue.pop_front() else { break };
            trace!("connection {key}: its turn again");
            self.slab[key].set_turn(Turn::Prompt);
            self.drive(key, Readiness::default());
            if until.is_some_and(|until| until <= Instant::now()) {
                break;
            }
        }
        self.context.budget = *BUDGET.start();
    }

    /// Drives connections that wait for memory, each at most once, until there is none again. Time bounds it.
    pub(crate) fn run_memory_queue(&mut self) {
        let count = self.memory_queue.begin_retry(&mut self.context.pool, self.context.now);
        if count == 0 {
            return;
        }
        let end = Instant::now() + TURN_TIME;
        for _ in 0..count {
            let Some(key) = self.memory_queue.pop() else { break };
            trace!("connection {key}: memory may be there again");
            self.slab[key].set_turn(Turn::Prompt);
            self.drive(key, Readiness::default());
            // One that holds bytes may want more memory than is there, and the next one less.
            let wants_little =
                self.slab.get(key).is_some_and(|connection| !connection.holds_bytes());
            if wants_little && self.context.pool.is_short() || end <= Instant::now() {
                break;
            }
        }
    }

    /// Drives a connection to which an event has given new readiness, unless it is queued.
    fn drive(&mut self, key: usize, readiness: Readiness) {
        let Some(connection) = self.slab.get_mut(key) else { return };
        connection.latch(readiness);
        if connection.turn() != Turn::Prompt {
            return self.defer(key);
        }
        let progress = connection.drive(&mut self.context);
        let traffic = self.context.traffic;
        self.context.counters.bytes_in += traffic.received;
        self.context.counters.bytes_out += traffic.sent;
        self.log.moved(key, traffic);
        // The usual answer is tested alone: a jump table of all would cost each echo five instructions.
        if let Ok(Progress::Blocked) = progress
            && traffic.received + traffic.sent <= self.share
        {
            return;
        }
        match progress {
            Ok(Progress::Blocked) => {
                self.slab[key].set_turn(Turn::Deferred);
                self.check_time();
            }
            Ok(Progress::Again) => {
                self.queue(key);
                self.check_time();
            }
            Ok(Progress::Lingering) => {
                self.log_malformed(key);
                self.schedule(key);
            }
            Ok(Progress::Done) => self.close(key, None),
            Err(e) if e.kind() == ErrorKind::OutOfMemory => self.wait_for_memory(key, &e),
            Err(e) => self.close(key, Some(&e)),
        }
    }

    /// An event has come for a connection that was loud, or that is queued.
    #[cold]
    fn defer(&mut self, key: usize) {
        let connection = &self.slab[key];
        if connection.turn() == Turn::Deferred && connection.is_runnable() {
            self.queue(key);
        }
    }

    fn queue(&mut self, key: usize) {
        self.slab[key].set_turn(Turn::Queued);
        self.run_queue.push_back(key);
    }

    /// Takes the budget from the events that are left in this turn if they come too late. Then they find
    /// their connections a place in the run queue.
    fn check_time(&mut self) {
        if self.in_events && self.context.now.elapsed() > TURN_TIME {
            self.context.budget = 0;
        }
    }

    /// Keeps a connection for which there is no memory now. Nothing that it has received is lost, and its
    /// readiness stays latched.
    #[cold]
    fn wait_for_memory(&mut self, key: usize, error: &io::Error) {
        self.check_time();
        let Context { pool, now, counters, .. } = &mut self.context;
        counters.memory_waits += 1;
        self.slab[key].set_turn(Turn::Queued);
        self.memory_queue.push(key, pool, *now);
        self.memory_queue.warn(error, pool, *now);
    }

    fn log_malformed(&mut self, key: usize) {
        if let Some(malformed) = self.context.malformed.take() {
            debug!("connection {key}: malformed input: {}", one_line(&malformed.to_string()));
        }
    }

    #[inline(never)]
    fn close(&mut self, key: usize, error: Option<&io::Error>) {
        self.log_malformed(key);
        debug_assert!(!self.slab[key].is_queued(), "nothing ends while it is queued");
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
}
