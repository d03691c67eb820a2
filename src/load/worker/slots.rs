//! From a free slot to a connection, and from its end back to a free slot.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::Token;

use super::{Stage, TurnedAway, Worker};
use crate::load::client::{Client, Failure, Load, Nanos, Next};
use crate::load::payload::Fault;
use crate::load::results::statistics::{Corruption, cause};
use crate::net::deadline::after;
use crate::net::ready;

/// Connects under way at once in a loop: more would overflow the server's backlog, and each one that
/// is dropped there waits a second for its next try.
pub(super) const CONNECTING: usize = 128;

/// Faults that are told apart, which takes some milliseconds each. Whoever sends more of them is no echo
/// server.
const DIAGNOSED: u64 = 16;

/// How long to leave a full backlog alone.
const FULL: Duration = Duration::from_millis(2);

/// How often a slot that connected to itself tries again.
const TRIES: usize = 10;

/// After the time of a run, how long a message may take to come back when there is no timeout.
pub(super) const GRACE: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) fn queue(&mut self, slot: usize) {
        self.slots[slot].stage = Stage::Queued;
        self.dial_queue.push_back(slot);
    }

    /// With `reconnect`: a free slot connects when its next message is due.
    pub(super) fn offer(&mut self, slot: usize) {
        match self.share.next(slot, self.share.now()) {
            Next::Due(due) => {
                self.slots[slot].message = Some(due);
                self.queue(slot);
            }
            Next::NotYet => {}
            Next::Never => self.retire(slot),
        }
    }

    /// A connection that stood is over, well or not: with `reconnect` its slot's next message has another.
    pub(super) fn go_on(&mut self, key: usize) {
        let slot = self.remove(key);
        if !self.reconnect {
            return self.retire(slot);
        }
        self.slots[slot].tries = 0;
        self.share.free(slot, self.share.now());
        self.offer(slot);
    }

    /// When a new connection may be begun.
    pub(super) fn next_dial(&self) -> Option<Instant> {
        let possible = !self.dial_queue.is_empty() && self.share.connecting < CONNECTING;
        if let Some(turned_away) = self.turned_away {
            return possible.then_some(turned_away.again);
        }
        let Some(interval) = self.dial_interval.filter(|_| !self.is_late()) else {
            return possible.then_some(self.now);
        };
        let start = self.share.start().filter(|_| possible)?;
        let wait = interval.as_nanos().saturating_mul(self.next_number().into());
        let at = start.saturating_add(Nanos::try_from(wait).unwrap_or(Nanos::MAX));
        Some(self.instant(at))
    }

    /// Numbers all connects of the run: the loops take turns.
    fn next_number(&self) -> u64 {
        self.dialed * self.threads + self.thread
    }

    pub(super) fn dial(&mut self) {
        while self.next_dial().is_some_and(|at| at <= self.now) {
            let Some(slot) = self.dial_queue.pop_front() else { break };
            let now = self.share.now();
            self.share.skip_past(slot, now);
            if !self.reconnect && self.share.peek(slot, now) == Next::Never {
                self.retire(slot);
                continue;
            }
            let target = self.slots[slot].tries % self.dialer.targets();
            let number = self.next_number();
            let connected = self.connect(slot, target, number);
            let is_full = matches!(&connected, Err(e) if e.kind() == ErrorKind::WouldBlock);
            if is_full && self.waits_for_room() {
                self.dial_queue.push_front(slot);
                continue;
            }
            self.dialed += 1;
            if !is_full {
                self.turned_away = None;
            }
            match connected {
                Ok(()) => {}
                Err(e) if no_port(&e) && self.dialer.use_next_source() => self.queue(slot),
                Err(e) => self.not_connected(slot, &e),
            }
        }
    }

    /// Whether to connect again later: the backlog is full, and has not been so for too long.
    fn waits_for_room(&mut self) -> bool {
        let since = self.turned_away.map_or(self.now, |before| before.since);
        let waits = after(since, self.patience()).is_none_or(|end| end > self.now);
        let again = if waits { self.now + FULL } else { self.now };
        self.turned_away = Some(TurnedAway { since, again });
        waits
    }

    fn connect(&mut self, slot: usize, target: usize, number: u64) -> io::Result<()> {
        let begun = self.share.now();
        let mut stream = self.dialer.dial(target, number)?;
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        self.poll.registry().register(&mut stream, Token(key), ready::interest())?;
        // A stream of its own for each connection, those of a slot's earlier connections included.
        let payload = self.tools.payload.key(number);
        let client = Client::new(stream, slot, payload, &self.tools.manner, begun);
        entry.insert(match self.slots[slot].message {
            Some(due) => client.for_one(due, &self.tools.manner),
            None => client,
        });
        self.slots[slot].stage = Stage::Taken(key);
        self.share.connecting += 1;
        self.deadlines.schedule(key, after(self.now, self.patience()));
        Ok(())
    }

    pub(super) fn failed(&mut self, key: usize, failure: Failure) {
        match failure {
            Failure::Connect(e) => {
                self.share.connecting -= 1;
                let slot = self.remove(key);
                return self.not_connected(slot, &e);
            }
            Failure::Lost(e) => {
                self.share.tally.lost += 1;
                self.share.tally.error(cause(&e));
            }
            Failure::Corrupt(got) => self.corrupt(key, &got),
        }
        self.share.tally.messages_lost += self.in_flight(key);
        self.go_on(key);
    }

    /// Measured messages of a client that are not back.
    fn in_flight(&self, key: usize) -> u64 {
        let flights = self.clients[key].in_flight();
        flights.filter(|flight| self.share.is_measured(flight.due)).count() as u64
    }

    /// The message, if it is measured, that a slot without a connection has taken on.
    fn in_hand(&self, slot: usize) -> u64 {
        self.slots[slot].message.is_some_and(|due| self.share.is_measured(due)).into()
    }

    /// Tries the next address of the target, or the same one again where it was our own fault.
    fn not_connected(&mut self, slot: usize, e: &io::Error) {
        self.slots[slot].tries += 1;
        let with_itself = e.kind() == ErrorKind::AddrInUse && e.get_ref().is_some();
        let most = if with_itself { TRIES } else { self.dialer.targets() };
        if self.slots[slot].tries < most {
            return self.queue(slot);
        }
        self.share.tally.messages_lost += self.in_hand(slot);
        self.share.tally.failed += 1;
        self.share.tally.error(cause(e));
        self.retire(slot);
    }

    fn corrupt(&mut self, key: usize, got: &[u8]) {
        let client = &self.clients[key];
        let at = client.received();
        let offset = at.offset();
        let fault = if self.share.tally.corrupt >= DIAGNOSED {
            Fault::Unknown
        } else if offset >= client.sent() {
            Fault::Surplus(got.len() as u64)
        } else {
            let others = self.clients.iter().filter(|&(other, _)| other != key);
            let others = others.map(|(_, c)| (self.share.number(c.slot()), c.received()));
            self.tools.payload.diagnose(at, client.sent(), got, others)
        };
        let connection = self.share.number(client.slot());
        let tally = &mut self.share.tally;
        tally.corrupt += 1;
        tally.error(match fault {
            Fault::Unknown => "wrong bytes, not looked into",
            Fault::Changed => "bytes were changed",
            Fault::Missing(_) => "bytes were missing",
            Fault::Surplus(_) => "surplus bytes",
            Fault::Misplaced(_) => "bytes of another connection",
        });
        tally.first_corrupt.get_or_insert(Corruption { connection, offset, fault });
    }

    pub(super) fn give_up_overdue(&mut self) {
        while let Some(key) = self.deadlines.pop_due(self.now) {
            let client = &self.clients[key];
            let patience = self.patience();
            let since = client.waiting_since().map_or(self.now, |since| self.instant(since));
            let due = after(since, patience);
            if due.is_none_or(|due| due > self.now) {
                self.deadlines.schedule(key, due);
                continue;
            }
            self.give_up(key);
        }
    }

    fn give_up(&mut self, key: usize) {
        let client = &self.clients[key];
        if client.is_connecting() {
            return self.failed(key, Failure::Connect(ErrorKind::TimedOut.into()));
        }
        if client.in_flight().next().is_some() {
            self.share.tally.timed_out += self.in_flight(key);
            self.share.tally.error("message timed out");
        } else {
            self.share.tally.lost += 1;
            self.share.tally.error("the end did not come in time");
        }
        self.go_on(key);
    }

    /// How long a client is waited for. After the time of the run nobody is waited for without limit.
    fn patience(&self) -> Option<Duration> {
        self.timeout.or(self.is_late().then_some(GRACE))
    }

    /// The time for what was due before the end, and is not back yet, is over: an open loop may have
    /// fallen so far behind that the rest would take hours.
    pub(super) fn give_up_all(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].stage == Stage::Retired {
                continue;
            }
            if let Stage::Taken(key) = self.slots[slot].stage {
                self.give_up(key);
            }
            // Which may have queued it for another address, or for its next message.
            let mut unsent = self.share.left_over(slot, self.turn);
            if self.slots[slot].stage == Stage::Queued {
                let in_hand = self.in_hand(slot);
                self.share.tally.timed_out += in_hand;
                unsent += in_hand;
            }
            if unsent > 0 {
                self.share.tally.error("the rate was not kept: messages could not be sent in time");
            }
            self.slots[slot].stage = Stage::Retired;
        }
        self.dial_queue.clear();
        self.active = 0;
    }

    /// Closes the client's socket; its slot.
    pub(super) fn remove(&mut self, key: usize) -> usize {
        let client = self.clients.remove(key);
        if client.is_runnable() {
            self.run_queue.retain(|&queued| queued != key);
        }
        self.deadlines.schedule(key, None);
        self.share.tally.by_connection[client.slot()] += client.echoed();
        self.slots[client.slot()].stage = Stage::Idle;
        client.slot()
    }

    pub(super) fn retire(&mut self, slot: usize) {
        self.slots[slot].stage = Stage::Retired;
        self.active -= 1;
    }
}

fn no_port(e: &io::Error) -> bool {
    e.kind() == ErrorKind::AddrNotAvailable
}
