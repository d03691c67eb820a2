//! Begins connects: in order, at a rate, and not too many at the same time.

use std::io::{self, ErrorKind};
use std::time::Instant;

use mio::{Registry, Token};

use crate::load::messages::Load;
use crate::load::worker::connect::Connect;
use crate::load::worker::connections::Connections;
use crate::load::worker::workload::Stage;
use crate::net::deadline::after;
use crate::net::ready;

/// Most connects of a loop that are not complete. More would overflow the backlog of the server, and a
/// connect that is dropped there waits for a second before its next try.
const MAX_CONNECTING: usize = 128;

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
}
