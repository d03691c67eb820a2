//! How connections end that nothing ends by itself: the idle timeout, the lingering close, the drain.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, trace};
use mio::Waker;

use super::{Server, host};
use crate::net::deadline::after;
use crate::net::ready::Readiness;
use crate::net::socket::Socket;
use crate::server::connection::{Connection, Ending, LINGER};
use crate::server::counters::{Cause, Counters};
use crate::server::source::Wish;

/// In a drain, how long nothing must have moved on a connection that owes nothing, before it is taken
/// to have given back all it took. It covers what was on its way when the stop came.
const QUIET: Duration = Duration::from_millis(100);

/// How a run came to its end, and what had been done by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Why it ended.
    pub end: End,
    /// What it did, all connections closed.
    pub counters: Counters,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything that was taken has been given back, but to those that the deadline cut off.
    Drained {
        /// How many connections were still owed something at the deadline.
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
    pub(super) fn new(waker: Arc<Waker>) -> Stopper {
        Stopper(waker)
    }

    /// Asks for the drain and returns. To ask again, or before the run, or after it, does no harm.
    ///
    /// # Errors
    /// Those of mio's waker.
    pub fn stop(&self) -> io::Result<()> {
        self.0.wake()
    }
}

impl From<Ending> for Cause {
    fn from(why: Ending) -> Cause {
        match why {
            Ending::Idle => Cause::Idle,
            Ending::Drain => Cause::Drain,
        }
    }
}

/// What a drain has still to come to.
pub(super) struct Drain {
    began: Instant,
    /// Half the time is over: receive no more.
    half: Option<Instant>,
    /// All of it is.
    end: Option<Instant>,
}

impl Drain {
    pub(super) fn due(&self) -> Option<Instant> {
        self.half.or(self.end)
    }
}

impl Server {
    pub(super) fn close_due(&mut self) {
        while let Some(key) = self.deadlines.pop_due(self.tools.now) {
            self.expire(key);
        }
        for i in 0..self.guests.len() {
            if self.guests[i].due().is_some_and(|due| due <= self.tools.now) {
                let wish = self.guests[i].on_due(&host(&self.poll, &self.tools));
                self.grant(wish);
            }
        }
    }

    /// A connection's entry has come up. If it has moved since, or need not end, it is put back.
    fn expire(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if connection.is_runnable() {
            // It is in the run queue: not idle, but waiting for its turn.
            return self.deadlines.schedule(key, after(self.tools.now, Some(QUIET)));
        }
        if !connection.is_lingering() && self.is_due(key) {
            // Bytes may be there already, and their event still in the kernel: ask the socket itself
            // before its silence is held against it.
            trace!("connection {key}: asked before it ends");
            self.connections[key].latch(Readiness::ALL);
            self.drive(key);
        }
        let Some(connection) = self.connections.get(key) else { return };
        let drained = self.drain.is_some() && connection.is_settled();
        let why = if drained { Ending::Drain } else { Ending::Idle };
        let lingering = connection.is_lingering();
        if !self.is_due(key) {
            self.schedule(key);
        } else if lingering {
            self.close(key, Cause::CutOff);
        } else if let Err(e) = self.connections[key].linger(why, &mut self.tools) {
            self.close(key, Cause::Error(e));
        } else {
            self.schedule(key);
            self.drive(key);
        }
    }

    /// When a connection is to end if nothing moves on it.
    fn due(&self, key: usize) -> Option<Instant> {
        let connection = &self.connections[key];
        let moved = connection.last_moved();
        match &self.drain {
            _ if connection.is_lingering() => after(moved, Some(LINGER)),
            Some(drain) if connection.is_settled() => after(moved.max(drain.began), Some(QUIET)),
            Some(drain) => after(moved.max(drain.began), self.config.idle_timeout),
            None => after(moved, self.config.idle_timeout),
        }
    }

    fn is_due(&self, key: usize) -> bool {
        self.due(key).is_some_and(|due| due <= self.tools.now)
    }

    /// When to look at a connection next. In a drain every [`QUIET`]: whether it is settled does not
    /// depend on time alone.
    pub(super) fn schedule(&mut self, key: usize) {
        let quiet = after(self.tools.now, Some(QUIET));
        let at = if self.drain.is_some() { quiet } else { self.due(key) };
        self.deadlines.schedule(key, at);
    }

    pub(super) fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Nothing => {}
            Wish::Drain => self.begin_drain(),
            Wish::Stop(status) => self.end = Some(End::Stopped { status }),
        }
    }

    /// Every byte comes back that was taken when the stop came, and what keeps arriving behind it.
    ///
    /// Who waits in the backlog is accepted and served too; a listener closes once nobody waits. Each
    /// connection is driven once with all bits set, so that a would-block, and no older hint, says
    /// that nothing is left. From then on one that is quiet ends, and one that owes waits for its
    /// reader. At half the time we stop receiving and send what is owed; at the end we close.
    pub(super) fn begin_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        info!("draining, {} connections open", self.connections.len());
        self.drain = Some(Drain {
            began: self.tools.now,
            half: after(self.tools.now, Some(self.config.drain_timeout / 2)),
            end: after(self.tools.now, Some(self.config.drain_timeout)),
        });
        self.listeners.last_call();
        self.drive_all(|connection| connection.latch(Readiness::ALL));
        for (key, _) in &self.connections {
            self.deadlines.schedule(key, after(self.tools.now, Some(QUIET)));
        }
    }

    pub(super) fn advance_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let end = drain.end;
        if drain.half.is_some_and(|half| half <= self.tools.now) {
            drain.half = None;
            self.listeners.close_all();
            self.drive_all(Connection::finish);
        }
        let all_gone = self.connections.is_empty() && self.listeners.is_empty();
        if all_gone || end.is_some_and(|end| end <= self.tools.now) {
            // Who lingers has been given everything.
            let owed = self.connections.iter().filter(|(_, c)| !c.is_lingering());
            self.end.get_or_insert(End::Drained { cut_off: owed.count() });
        }
    }

    pub(super) fn close_all(mut self, end: End) -> Ended {
        self.run_queue.clear();
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.close(key, Cause::CutOff);
        }
        Ended { end, counters: self.tools.counters }
    }

    fn drive_all(&mut self, prepare: impl Fn(&mut Connection<Socket>)) {
        self.run_queue.clear();
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            trace!("connection {key}: asked in the drain");
            prepare(&mut self.connections[key]);
            self.drive(key);
        }
    }
}
