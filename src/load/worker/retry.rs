//! Connections that are made again: those that were lost, and those that could not be made.
//!
//! | what happened | what becomes of the slot |
//! |---|---|
//! | lost, refused, or not there in time | it tries again after a wait that doubles |
//! | the same, and the server was never there | it waits; once every connection has failed, the run ends |
//! | the same, after the end of the messages | retired; what was due on it could not be sent |
//! | the first connect lacks a file or a port of this machine | retired: waiting brings none |
//! | another one of the same outage is served again | it tries again soon, once |
//! | wrong bytes | as after an orderly end; see `ending` |

use std::time::{Duration, Instant};

use crate::load::backoff;
use crate::load::clock::Nanos;
use crate::load::messages::Load;
use crate::load::worker::connect::Connect;
use crate::load::worker::connections::Connections;
use crate::load::worker::slot::Stage;
use crate::net::deadline::after;

/// How long a run that has no end by time goes on without an echo, if there is no timeout.
const PATIENCE: Duration = Duration::from_secs(10);

impl<C: Connect> Connections<C> {
    /// From now on nothing is made again. A connection that is being made again, and has nothing to send, is not
    /// waited for.
    pub(super) fn stop_retries(&mut self) {
        self.retries.stop();
        let (workload, now) = (&self.workload, self.now.nanos);
        let is_idle = |slot: usize| {
            let state = &workload.slots[slot];
            state.was_up && state.message.is_none() && workload.left_over(slot, now) == 0
        };
        let is_useless = |client: &C| client.is_connecting() && is_idle(client.slot());
        let clients = self.clients.iter().filter(|(_, client)| is_useless(client));
        let keys: Vec<usize> = clients.map(|(key, _)| key).collect();
        for key in keys {
            self.workload.connecting -= 1;
            let slot = self.remove(key);
            self.connector.targets.put_back(self.workload.slots[slot].target);
            self.workload.retire(slot);
        }
        self.retire_waiting();
    }

    /// The connection of an idle slot was lost, with this number of measured messages in flight, after it had
    /// said nothing since `since`. `was_served`: a message had come back on it.
    pub(super) fn lost(&mut self, slot: usize, (since, messages): (Nanos, u64), was_served: bool) {
        self.connector.targets.lost(self.workload.slots[slot].target);
        if was_served {
            self.workload.coordination.reached();
            self.workload.slots[slot].failures = 0;
        }
        let now = self.workload.now();
        let is_over = !self.reconnect && self.workload.is_over(slot, now);
        if is_over || !self.retries.is_on {
            return self.next_connection(slot);
        }
        if self.is_reached() {
            self.workload.lost(slot, since, messages);
        } else {
            self.workload.note_failure(slot);
        }
        self.wait_for_retry(slot);
    }

    /// Returns whether the server was ever there. A datagram socket is connected without it.
    fn is_reached(&self) -> bool {
        let coordination = &self.workload.coordination;
        if !coordination.is_reached() && self.workload.statistics.messages.returned > 0 {
            coordination.reached();
        }
        coordination.is_reached()
    }

    /// Takes note of the connections that were established in this turn.
    pub(super) fn settle_established(&mut self) {
        while let Some(slot) = self.workload.established.pop() {
            self.connector.targets.established(self.workload.slots[slot].target);
        }
    }

    /// An idle slot tries again after a wait.
    pub(super) fn wait_for_retry(&mut self, slot: usize) {
        self.workload.coordination.lookup.ask(self.now.instant);
        let state = &mut self.workload.slots[slot];
        state.stage = Stage::Waiting;
        state.failures += 1;
        let connection = state.position.connection() as u64;
        let wait = backoff::delay(self.retries.seed, connection, state.failures);
        self.retries.due.schedule(slot, after(self.now.instant, Some(wait)));
        self.retries.waiting += 1;
        let returned = self.workload.statistics.messages.returned;
        let since = self.retries.none_since.filter(|&(_, before)| before == returned);
        self.retries.none_since = since.or(Some((self.now.instant, returned)));
    }

    /// Returns when the next slot tries again. Before the server was ever there, none does.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.workload.schedule.start()?;
        self.retries.due.next().filter(|_| self.workload.coordination.is_reached())
    }

    /// Lets the slots that are due try again.
    pub(super) fn retry_due(&mut self) {
        if self.retries.waiting == 0 {
            return;
        }
        let now = self.now.instant;
        if self.workload.coordination.is_hopeless() || self.is_out_of_patience() {
            self.retries.stop();
        }
        if !self.retries.is_on || self.workload.schedule.is_spent() {
            self.retire_waiting();
        }
        let Some(start) = self.workload.schedule.start().filter(|_| self.is_reached()) else {
            return;
        };
        self.connect_queue.catch_up(self.now.nanos.saturating_sub(start));
        if self.workload.ended_outage > self.retries.hurried {
            self.retries.hurried = self.workload.ended_outage;
            self.hurry();
        }
        while let Some(slot) = self.retries.due.pop_due(now) {
            self.retries.waiting -= 1;
            self.workload.slots[slot].stage = Stage::Idle;
            if self.reconnect && self.workload.slots[slot].message.is_none() {
                self.offer(slot);
            } else {
                self.queue(slot);
            }
        }
    }

    /// The server is back: those that would wait for longer try again after a short wait. Otherwise the
    /// latencies would show their waits, and not the outage.
    fn hurry(&mut self) {
        for slot in 0..self.workload.slots.len() {
            if self.workload.slots[slot].stage == Stage::Waiting {
                let connection = self.workload.slots[slot].position.connection() as u64;
                let wait = backoff::delay(self.retries.seed, connection, 1);
                self.retries.due.schedule(slot, after(self.now.instant, Some(wait)));
            }
        }
    }

    /// Retires the slots that wait, unless one has a message of a number of messages that was asked for.
    fn retire_waiting(&mut self) {
        for slot in 0..self.workload.slots.len() {
            let state = &self.workload.slots[slot];
            let is_needed = self.retries.is_on && state.message.is_some();
            if !is_needed {
                self.retire_if_waiting(slot);
            }
        }
    }

    pub(super) fn retire_if_waiting(&mut self, slot: usize) {
        if self.workload.slots[slot].stage == Stage::Waiting {
            self.retries.due.schedule(slot, None);
            self.retries.waiting -= 1;
            self.workload.retire(slot);
        }
    }

    /// A run with a number of messages has no end by time. So it tries no more where connections fail and no
    /// message has come back for as long as one may take.
    fn is_out_of_patience(&self) -> bool {
        let returned = self.workload.statistics.messages.returned;
        let since = self.retries.none_since.filter(|&(_, before)| before == returned);
        let end = since.and_then(|(since, _)| after(since, self.timeout.or(Some(PATIENCE))));
        self.workload.schedule.is_numbered() && end.is_some_and(|end| end <= self.now.instant)
    }
}
