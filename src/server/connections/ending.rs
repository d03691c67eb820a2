//! What ends connections: their deadlines, the drain, and the end of the run.

use std::time::Instant;

use log::trace;

use crate::net::deadline::after;
use crate::net::ready::Readiness;
use crate::net::socket::Socket;
use crate::protocol::Protocol;
use crate::server::connection::{Connection, Turn};
use crate::server::connections::{Connections, TURN_TIME};
use crate::server::timeouts::QUIET;

impl<P: Protocol> Connections<P> {
    /// Closes the connections whose time is over. Time bounds it; the rest is due in the next turn.
    pub(crate) fn close_due(&mut self) {
        let mut end = None;
        while let Some(key) = self.deadlines.pop_due(self.context.now) {
            self.expire(key);
            let now = Instant::now();
            if *end.get_or_insert(now + TURN_TIME) <= now {
                break;
            }
        }
    }

    /// The deadline of a connection has come. If the connection has moved since, or need not end, the
    /// deadline is put off.
    fn expire(&mut self, key: usize) {
        let now = self.context.now;
        let connection = &self.slab[key];
        if !connection.is_lingering() && self.timeouts.is_over(connection, now) {
            // Bytes may have arrived whose event is still in the kernel. Ask the socket itself before its
            // silence ends it. It is not asked to send: what the kernel takes is no sign of the peer.
            trace!("connection {key}: asked before it ends");
            self.drive(key, Readiness { writable: false, ..Readiness::ALL });
        }
        let Some(connection) = self.slab.get_mut(key) else { return };
        let is_over = self.timeouts.is_over(connection, now);
        if connection.is_queued() {
            // It is not idle, but waits for its turn, or for memory. One that holds memory and waits for more
            // must not do so for ever: others may wait for what it holds.
            if !(is_over && connection.holds_bytes() && self.memory_queue.remove(key)) {
                return self.deadlines.schedule(key, after(now, Some(QUIET)));
            }
            connection.set_turn(Turn::Prompt);
        }
        if !is_over {
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
                self.drive(key, Readiness::default());
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
            prepare(connection);
            if !connection.is_queued() && connection.is_runnable() {
                connection.set_turn(Turn::Queued);
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
        self.memory_queue.clear();
        for key in 0..self.slab.capacity() {
            if let Some(connection) = self.slab.get_mut(key) {
                connection.set_turn(Turn::Prompt);
                self.close(key, None);
            }
        }
        debug_assert_eq!(self.context.counters.open(), 0, "the counters add up");
        debug_assert_eq!(self.context.pool.in_use(), 0, "every page is back");
    }
}
