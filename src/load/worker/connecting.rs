//! Begins connects: in order, at a rate, and not too many at the same time; and what becomes of those that fail.

use std::io::{self, ErrorKind};
use std::time::Instant;

use mio::{Registry, Token};
use rustix::io::Errno;

use crate::load::messages::Load;
use crate::load::results::statistics::error_name;
use crate::load::worker::connect::Connect;
use crate::load::worker::connections::Connections;
use crate::load::worker::slot::Stage;
use crate::net::deadline::after;
use crate::net::ready;

/// Most connects of a loop that are not complete. More would overflow the backlog of the server, and a
/// connect that is dropped there waits for a second before its next try.
const MAX_CONNECTING: usize = 128;

/// Most connects of a slot, if it was connected to itself each time.
const SELF_CONNECTS: usize = 10;

impl<C: Connect> Connections<C> {
    /// Returns whether no connection is made or waits to be made for the first time.
    pub(super) fn are_all_made(&self) -> bool {
        self.connect_queue.slots.is_empty() && self.workload.connecting == 0
    }

    /// Returns when the next connect may be begun. `at_rate`: at the rate of the plan, if it has one.
    pub(super) fn next_connect(&self, at_rate: bool) -> Option<Instant> {
        if self.connect_queue.slots.is_empty() || self.workload.connecting >= MAX_CONNECTING {
            return None;
        }
        if let Some(backlog) = self.connect_queue.backlog {
            return Some(backlog.retry_at);
        }
        match self.connect_queue.next_offset().filter(|_| at_rate) {
            Some(offset) => {
                let at = self.workload.schedule.start()?.saturating_add(offset);
                Some(self.workload.instant(at))
            }
            None => Some(self.now.instant),
        }
    }

    /// Begins all connects that may be begun now.
    pub(super) fn connect_due(&mut self, registry: &Registry, at_rate: bool) {
        while self.next_connect(at_rate).is_some_and(|at| at <= self.now.instant) {
            let Some(slot) = self.connect_queue.slots.pop_front() else { break };
            let now = self.workload.now();
            self.workload.skip_past(slot, now);
            if !self.reconnect && self.workload.is_over(slot, now) {
                self.workload.retire(slot);
                continue;
            }
            self.try_connect(registry, slot);
        }
    }

    fn try_connect(&mut self, registry: &Registry, slot: usize) {
        self.connector.look_up(&self.workload.coordination.lookup, self.now.instant);
        let target = self.connector.targets.take(self.now.instant);
        self.workload.slots[slot].target = target;
        let connected = self.connect(registry, slot);
        let is_full = matches!(&connected, Err(e) if e.kind() == ErrorKind::WouldBlock);
        let (now, timeout) = (self.now.instant, self.timeout);
        if is_full && self.connect_queue.wait_for_backlog(slot, now, timeout) {
            return self.connector.targets.put_back(target);
        }
        self.connect_queue.begun += 1;
        self.connect_queue.turn += 1;
        if !is_full {
            self.connect_queue.backlog = None;
        }
        match connected {
            Ok(()) => {}
            Err(e)
                if e.kind() == ErrorKind::AddrNotAvailable && self.connector.use_next_source() =>
            {
                self.connector.targets.put_back(target);
                self.workload.slots[slot].stage = Stage::Idle;
                self.queue(slot);
            }
            Err(e) => self.not_connected(slot, &e),
        }
    }

    fn connect(&mut self, registry: &Registry, slot: usize) -> io::Result<()> {
        let state = self.workload.slots[slot];
        debug_assert_eq!(state.stage, Stage::Queued);
        let begun = self.workload.now();
        self.workload.slots[slot].round.get_or_insert((begun, 0));
        let number = self.connect_queue.next_number();
        let mut socket = C::connect(&self.connector, state.target, number)?;
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        registry.register(&mut socket, Token(key), ready::interest())?;
        // Every connection has its own stream of bytes, the later ones of a slot too.
        let payload = &self.context.payload;
        let client = C::new(socket, slot, payload.start(number), begun);
        let left = self.workload.per_connection().saturating_sub(1);
        entry.insert(match state.message {
            Some(due) => client.with_first(due, left == 0, payload),
            None => client,
        });
        self.workload.slots[slot].left = left;
        self.workload.slots[slot].stage = Stage::InUse(key);
        self.workload.connecting += 1;
        self.deadlines.schedule(key, after(self.now.instant, self.timeout));
        Ok(())
    }

    /// Tries another address of the target, or the same one again after a connection to itself. If there is no
    /// other one, the slot waits.
    pub(super) fn not_connected(&mut self, slot: usize, e: &io::Error) {
        let with_itself = e.kind() == ErrorKind::AddrInUse && e.get_ref().is_some();
        let (now, targets) = (self.now.instant, &mut self.connector.targets);
        let state = &mut self.workload.slots[slot];
        state.stage = Stage::Idle;
        let tries = state.round.as_mut().map_or(1, |(_, tries)| {
            *tries += 1;
            *tries
        });
        if with_itself && tries < SELF_CONNECTS {
            targets.put_back(state.target);
            return self.queue(slot);
        }
        let is_local = is_local(e);
        if is_local {
            targets.put_back(state.target);
        } else {
            targets.failed(state.target, now);
        }
        let may_fall_back = !is_local && tries < targets.addresses().count();
        let falls_back = may_fall_back && targets.has_other(now);
        self.workload.statistics.count_error(error_name(e));
        if falls_back {
            self.workload.statistics.connections.fell_back += 1;
            return self.queue(slot);
        }
        self.workload.statistics.connections.failed += 1;
        self.failed_round(slot, is_local);
    }

    /// No address of the target would have the connection of a slot.
    fn failed_round(&mut self, slot: usize, is_local: bool) {
        let state = &mut self.workload.slots[slot];
        state.round = None;
        let was_up = state.was_up;
        self.workload.note_failure(slot);
        if !self.retries.is_on || is_local && !was_up {
            return self.workload.retire(slot);
        }
        // Where connections come and go, this is how it shows that the server is gone.
        let now = self.workload.now();
        self.workload.lost(slot, now, 0);
        self.wait_for_retry(slot);
    }
}

/// Returns whether a connect failed for want of something of this machine: a file, a port, an address.
fn is_local(e: &io::Error) -> bool {
    const LOCAL: [Errno; 5] =
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    // A source address that cannot be used has a text of its own.
    e.kind() == ErrorKind::AddrNotAvailable
        || LOCAL.iter().any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}
