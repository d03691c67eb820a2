//! Ends what takes too long.

use std::io::ErrorKind;

use crate::load::messages::Failure;
use crate::load::worker::connections::Connections;
use crate::load::worker::slots::Stage;
use crate::net::deadline::after;

impl Connections {
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
            self.give_up(key);
        }
    }

    fn give_up(&mut self, key: usize) {
        let client = &self.clients[key];
        if client.is_connecting() {
            return self.failed(key, Failure::Connect(ErrorKind::TimedOut.into()));
        }
        if client.in_flight().next().is_some() {
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
        for slot in self.workload.slots.all() {
            match self.workload.slots.get(slot).stage {
                Stage::Retired => continue,
                Stage::InUse(key) => self.give_up(key),
                Stage::Idle | Stage::Queued => {}
            }
            // It may now wait to connect to another address, or for its next message.
            let stage = self.workload.slots.get(slot).stage;
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
                self.workload.slots.retire(slot);
            }
        }
        self.connect_queue.clear();
        debug_assert!(self.clients.is_empty() && !self.workload.slots.any_active());
    }
}
