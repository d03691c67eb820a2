//! The end of a connection, with an error or without, and what becomes of its slot.

use std::io::ErrorKind;

use crate::load::clock::Nanos;
use crate::load::fault::Fault;
use crate::load::messages::{Failure, Load};
use crate::load::results::statistics::error_name;
use crate::load::worker::connect::Connect;
use crate::load::worker::connections::Connections;
use crate::load::worker::slot::Stage;
use crate::load::worker::workload::Workload;
use crate::net::deadline::after;

/// Number of faults that are examined, which takes some milliseconds each. A server that makes more
/// faults is no echo server.
const EXAMINED: u64 = 16;

impl<C: Connect> Connections<C> {
    /// An established connection has ended in order, or with wrong bytes.
    pub(super) fn ended(&mut self, key: usize) {
        let slot = self.remove(key);
        self.workload.slots[slot].failures = 0;
        self.next_connection(slot);
    }

    /// The next message of an idle slot has another connection, if connections end after a number of messages.
    pub(super) fn next_connection(&mut self, slot: usize) {
        if !self.reconnect {
            return self.workload.retire(slot);
        }
        let now = self.workload.now();
        self.workload.schedule.release(&mut self.workload.slots[slot].position, now);
        self.offer(slot);
    }

    /// Closes the socket of a client, and returns its slot, which is then idle.
    pub(super) fn remove(&mut self, key: usize) -> usize {
        let client = self.clients.remove(key);
        if !client.is_connecting() {
            self.connector.targets.ended(self.workload.slots[client.slot()].target);
        }
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
                self.not_connected(slot, &e);
            }
            Failure::Lost(e) => {
                self.workload.statistics.connections.lost += 1;
                self.workload.statistics.count_error(error_name(&e));
                let (now, messages) = (self.workload.now(), self.in_flight(key));
                self.workload.statistics.messages.lost += messages;
                self.cut_off(key, (now, messages));
            }
            Failure::Corrupt(got) => {
                self.corrupt(key, &got);
                self.workload.statistics.messages.lost += self.in_flight(key);
                self.ended(key);
            }
        }
    }

    /// Closes a connection that is of no use any more; see [`lost`](Connections::lost).
    fn cut_off(&mut self, key: usize, cost: (Nanos, u64)) {
        let was_served = self.clients[key].echoed() > 0;
        let slot = self.remove(key);
        self.lost(slot, cost, was_served);
    }

    /// Returns the number of measured messages of a client that have not come back.
    pub(super) fn in_flight(&self, key: usize) -> u64 {
        let messages = self.clients[key].in_flight();
        messages.filter(|message| self.workload.schedule.is_measured(message.due)).count() as u64
    }

    /// Counts the messages of the connections that are still open, at the end, and the connects that are
    /// not complete. Of those nothing else would tell why no message was ever due.
    pub(super) fn count_open(&mut self) {
        let not_made =
            self.workload.connecting + self.connect_queue.slots.len() + self.retries.waiting;
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

    /// Ends the connections that have waited for the peer for longer than the timeout. The time in which this
    /// loop did not run does not count, and one whose bytes wait to be received has a turn first.
    pub(super) fn give_up_overdue(&mut self) {
        let (now, timeout) = (self.now.instant, self.timeout);
        // Those that are put back for the next turn are not looked at again in this one.
        let mut put_back = Vec::new();
        while let Some(key) = self.deadlines.pop_due(now) {
            let since = self.clients[key].waiting_since();
            let since = since.map_or(now, |since| self.workload.instant(since));
            let due =
                after(since, timeout.map(|timeout| timeout.saturating_add(self.gaps.since(since))));
            if due.is_none_or(|due| due > now) {
                self.deadlines.schedule(key, due);
            } else if self.clients[key].is_runnable()
                && after(since, timeout.map(|timeout| timeout.saturating_mul(2))) > Some(now)
            {
                put_back.push(key);
            } else if !self.give_up_messages(key) {
                self.give_up(key);
            }
        }
        for key in put_back {
            self.deadlines.schedule(key, Some(now));
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
        let messages = self.in_flight(key);
        let now = self.workload.now();
        let since = self.clients[key].waiting_since().unwrap_or(now);
        if self.clients[key].in_flight().next().is_some() {
            self.workload.statistics.messages.timed_out += messages;
            self.workload.statistics.count_error("message timed out");
        } else {
            self.workload.statistics.connections.lost += 1;
            self.workload.statistics.count_error("the end did not come in time");
        }
        self.cut_off(key, (since, messages));
    }

    /// Ends everything. An open loop can be so far behind that the rest would take hours.
    pub(super) fn give_up_all(&mut self) {
        self.retries.stop();
        for slot in 0..self.workload.slots.len() {
            let stage = self.workload.slots[slot].stage;
            if let Stage::InUse(key) = stage {
                self.give_up(key);
            }
            self.retire_if_waiting(slot);
            // It may now wait to connect, for a message that it has, or for its next one.
            let is_retired = self.workload.slots[slot].stage == Stage::Retired;
            let left_over = self.workload.left_over(slot, self.now.nanos);
            if stage != Stage::Retired && left_over + self.workload.waiting_message(slot) > 0 {
                let error = "the rate was not kept: messages could not be sent in time";
                self.workload.statistics.count_error(error);
            }
            if !is_retired {
                self.workload.retire(slot);
            }
        }
        self.connect_queue.slots.clear();
        debug_assert!(self.clients.is_empty() && self.workload.active == 0);
    }
}
