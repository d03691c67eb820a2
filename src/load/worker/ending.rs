//! The end of a connection, with an error or without, and what becomes of its slot.

use std::io::{self, ErrorKind};

use crate::load::clock::Nanos;
use crate::load::fault::Fault;
use crate::load::messages::{Failure, Load};
use crate::load::results::statistics::error_name;
use crate::load::worker::connect::Connect;
use crate::load::worker::connections::Connections;
use crate::load::worker::workload::{Stage, Workload};
use crate::net::deadline::after;

/// Number of faults that are examined, which takes some milliseconds each. A server that makes more
/// faults is no echo server.
const EXAMINED: u64 = 16;

/// Most connects of a slot, if it was connected to itself each time.
const SELF_CONNECTS: usize = 10;

impl<C: Connect> Connections<C> {
    /// An established connection has ended, with an error or without. The next message of its slot has
    /// another connection, if every message has its own.
    pub(super) fn ended(&mut self, key: usize) {
        let slot = self.remove(key);
        if !self.reconnect {
            return self.workload.retire(slot);
        }
        self.workload.slots[slot].failed_connects = 0;
        let now = self.workload.now();
        self.workload.schedule.release(&mut self.workload.slots[slot].position, now);
        self.offer(slot);
    }

    /// Closes the socket of a client, and returns its slot, which is then idle.
    fn remove(&mut self, key: usize) -> usize {
        let client = self.clients.remove(key);
        if client.is_runnable() {
            self.run_queue.retain(|&queued| queued != key);
        }
        self.deadlines.schedule(key, None);
        let slot = &mut self.workload.slots[client.slot()];
        debug_assert_eq!(slot.stage, Stage::InUse(key));
        slot.echoed += client.echoed();
        slot.stage = Stage::Idle;
        client.slot()
    }

    /// Ends a client that failed, and counts its failure.
    pub(super) fn failed(&mut self, key: usize, failure: Failure) {
        match failure {
            Failure::Connect(e) => {
                self.workload.connecting -= 1;
                let slot = self.remove(key);
                return self.not_connected(slot, &e);
            }
            Failure::Lost(e) => {
                self.workload.statistics.connections.lost += 1;
                self.workload.statistics.count_error(error_name(&e));
            }
            Failure::Corrupt(got) => self.corrupt(key, &got),
        }
        self.workload.statistics.messages.lost += self.in_flight(key);
        self.ended(key);
    }

    /// Returns the number of measured messages of a client that have not come back.
    pub(super) fn in_flight(&self, key: usize) -> u64 {
        let messages = self.clients[key].in_flight();
        messages.filter(|message| self.workload.schedule.is_measured(message.due)).count() as u64
    }

    /// Returns 1 for a slot without a connection that has started a measured message.
    pub(super) fn waiting_message(&self, slot: usize) -> u64 {
        let message = self.workload.slots[slot].message;
        message.is_some_and(|due| self.workload.schedule.is_measured(due)).into()
    }

    /// Tries the next address of the target, or the same one again after a connection to itself.
    pub(super) fn not_connected(&mut self, slot: usize, e: &io::Error) {
        let with_itself = e.kind() == ErrorKind::AddrInUse && e.get_ref().is_some();
        let most = if with_itself { SELF_CONNECTS } else { self.connector.targets() };
        let state = &mut self.workload.slots[slot];
        state.stage = Stage::Idle;
        state.failed_connects += 1;
        if state.failed_connects < most {
            return self.queue(slot);
        }
        self.workload.statistics.messages.lost += self.waiting_message(slot);
        self.workload.statistics.connections.failed += 1;
        self.workload.statistics.count_error(error_name(e));
        self.workload.retire(slot);
    }

    /// Counts the messages of the connections that are still open, at the end, and the connects that are
    /// not complete. Of those nothing else would tell why no message was ever due.
    pub(super) fn count_open(&mut self) {
        let not_made = self.workload.connecting + self.connect_queue.slots.len();
        self.workload.statistics.connections.connecting += not_made as u64;
        let established = self.workload.statistics.connections.established;
        if self.workload.schedule.start().is_none() || established == 0 {
            for _ in 0..self.workload.connecting {
                self.workload.statistics.count_error("no answer to a connect, until the end");
            }
        }
        for (_, client) in &self.clients {
            self.workload.slots[client.slot()].echoed += client.echoed();
        }
    }

    fn corrupt(&mut self, key: usize, got: &[u8]) {
        let connection = |client: &C| self.workload.slots[client.slot()].position.connection();
        let (client, payload) = (&self.clients[key], &self.context.payload);
        let (number, offset) = (connection(client), client.received_bytes());
        let fault = if self.workload.statistics.messages.corrupt >= EXAMINED {
            Fault::Unknown
        } else {
            let others = self.clients.iter().filter(|&(other, _)| other != key);
            client.diagnose(payload, got, others.map(|(_, other)| (connection(other), other)))
        };
        self.workload.statistics.count_corruption(number, offset, fault);
    }

    /// Ends the connections that have waited for the peer for longer than the timeout.
    pub(super) fn give_up_overdue(&mut self) {
        while let Some(key) = self.deadlines.pop_due(self.now.instant) {
            let since = self.clients[key].waiting_since();
            let since = since.map_or(self.now.instant, |since| self.workload.instant(since));
            let due = after(since, self.timeout);
            if due.is_none_or(|due| due > self.now.instant) {
                self.deadlines.schedule(key, due);
                continue;
            }
            if !self.give_up_messages(key) {
                self.give_up(key);
            }
        }
    }

    /// Gives up the messages of a client that are overdue, and returns whether it goes on without
    /// them.
    fn give_up_messages(&mut self, key: usize) -> bool {
        let now = self.now.nanos;
        let timeout = self.timeout.unwrap_or_default().as_nanos() as Nanos;
        if !self.lose_messages(key, now.saturating_sub(timeout) + 1) {
            return false;
        }
        // For the next message in flight.
        self.deadlines.schedule(key, Some(self.now.instant));
        if !self.clients[key].is_runnable() {
            self.drive(key, now);
        }
        true
    }

    /// Counts the messages of a client that were sent before a time as lost, if it can go on without
    /// them.
    fn lose_messages(&mut self, key: usize, sent_before: Nanos) -> bool {
        let Some(due_times) = self.clients[key].give_up(sent_before) else { return false };
        let Workload { statistics, schedule, .. } = &mut self.workload;
        for due in due_times {
            statistics.messages.lost += u64::from(schedule.is_measured(due));
            statistics.count_error("datagram not back in time");
        }
        true
    }

    fn give_up(&mut self, key: usize) {
        let client = &self.clients[key];
        if client.is_connecting() {
            return self.failed(key, Failure::Connect(ErrorKind::TimedOut.into()));
        }
        if self.lose_messages(key, Nanos::MAX) {
            return self.ended(key);
        }
        if self.clients[key].in_flight().next().is_some() {
            self.workload.statistics.messages.timed_out += self.in_flight(key);
            self.workload.statistics.count_error("message timed out");
        } else {
            self.workload.statistics.connections.lost += 1;
            self.workload.statistics.count_error("the end did not come in time");
        }
        self.ended(key);
    }

    /// Ends everything. An open loop can be so far behind that the rest would take hours.
    pub(super) fn give_up_all(&mut self) {
        for slot in 0..self.workload.slots.len() {
            match self.workload.slots[slot].stage {
                Stage::Retired => continue,
                Stage::InUse(key) => self.give_up(key),
                Stage::Idle | Stage::Queued => {}
            }
            // It may now wait to connect to another address, or for its next message.
            let stage = self.workload.slots[slot].stage;
            let mut unsent = self.workload.left_over(slot, self.now.nanos);
            if stage == Stage::Queued {
                let waiting = self.waiting_message(slot);
                self.workload.statistics.messages.timed_out += waiting;
                unsent += waiting;
            }
            if unsent > 0 {
                let error = "the rate was not kept: messages could not be sent in time";
                self.workload.statistics.count_error(error);
            }
            if stage != Stage::Retired {
                self.workload.retire(slot);
            }
        }
        self.connect_queue.slots.clear();
        debug_assert!(self.clients.is_empty() && self.workload.active == 0);
    }
}
