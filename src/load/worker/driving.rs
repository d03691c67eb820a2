//! Which clients a turn drives: those with events, those in the run queue, and those whose messages
//! have become due.

use crate::load::clock::Nanos;
use crate::load::messages::Load;
use crate::load::worker::connections::Connections;
use crate::load::worker::slots::Stage;
use crate::net::ready::Readiness;

/// Most messages that one turn sends because they are due.
const DUE_BUDGET: usize = 1024;

impl Connections {
    /// Returns the number of clients that can go on without an event.
    pub(super) fn runnable(&self) -> usize {
        self.run_queue.len()
    }

    /// Handles an event. An unknown key is that of the waker, of the alarm, or of a client that has
    /// just ended.
    pub(super) fn on_event(&mut self, key: usize, readiness: Readiness) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let was_queued = client.is_runnable();
        client.latch(readiness);
        if !was_queued {
            self.drive(key, self.now.nanos);
        }
    }

    /// Drives the first clients of the run queue, each once.
    pub(super) fn run_queued(&mut self, count: usize) {
        for _ in 0..count {
            let Some(key) = self.run_queue.pop_front() else { break };
            self.drive(key, self.now.nanos);
        }
    }

    /// Drives every client, after a change that concerns all: the messages begin or end.
    pub(super) fn drive_all(&mut self) {
        let keys: Vec<usize> = self.clients.iter().map(|(key, _)| key).collect();
        for key in keys {
            // Each reads the clock again, or the last of thousands would look slow.
            self.drive_idle(key, self.workload.now());
        }
        for slot in self.workload.slots.all() {
            if self.workload.slots.get(slot).stage == Stage::Idle {
                self.offer(slot);
            }
        }
    }

    /// Drives a client without an event. One in the run queue has its turn there, and one that
    /// connects can do nothing else.
    fn drive_idle(&mut self, key: usize, now: Nanos) {
        let client = &self.clients[key];
        if !client.is_connecting() && !client.is_runnable() {
            self.drive(key, now);
        }
    }

    /// Open loop: drives the clients whose messages have become due. The budget leaves time for events
    /// where the rate is too high for this loop.
    pub(super) fn send_due(&mut self) {
        for _ in 0..DUE_BUDGET {
            let Some((due, slot)) = self.workload.next_due() else { break };
            let now = self.workload.now();
            if due > now {
                break;
            }
            self.workload.became_due(due, now);
            match self.workload.slots.get(slot).stage {
                Stage::InUse(key) => self.drive_idle(key, now),
                Stage::Idle => self.offer(slot),
                Stage::Queued | Stage::Retired => {}
            }
        }
    }
}
