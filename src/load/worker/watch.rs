//! What becomes of a slot without a connection: what it costs, and when the outage is over.

use std::mem;

use crate::load::clock::Nanos;
use crate::load::messages::Load;
use crate::load::outage::Cost;
use crate::load::worker::slot::Stage;
use crate::load::worker::workload::Workload;

impl Workload {
    /// Ends the use of a slot.
    pub(super) fn retire(&mut self, slot: usize) {
        debug_assert_ne!(self.slots[slot].stage, Stage::Retired);
        self.slots[slot].stage = Stage::Retired;
        self.active -= 1;
        self.note_failure(slot);
        let unsent = self.waiting_message(slot);
        self.slots[slot].message = None;
        self.count_unsent(slot, unsent);
        self.up(slot);
    }

    /// Takes note of a slot whose first connect has failed, or will not be made.
    pub(super) fn note_failure(&mut self, slot: usize) {
        let state = &mut self.slots[slot];
        if !state.was_up && !mem::replace(&mut state.has_failed, true) {
            self.coordination.first_connect_failed();
        }
    }

    /// Counts messages of a slot that could not be sent.
    pub(super) fn count_unsent(&mut self, slot: usize, unsent: u64) {
        self.statistics.messages.unsent += unsent;
        if let Some(outage) = self.slots[slot].outage.filter(|_| unsent > 0) {
            self.coordination.add_cost(outage, Cost { unsent, ..Cost::default() });
        }
    }

    /// Returns 1 for a slot without a connection that has started a measured message.
    pub(super) fn waiting_message(&self, slot: usize) -> u64 {
        let message = self.slots[slot].message;
        message.is_some_and(|due| self.schedule.is_measured(due)).into()
    }

    /// The connection of a slot was lost, with this number of messages in flight, and had said nothing since
    /// `since`. It is an outage only for who was served before: not where a server has never room for all.
    pub(super) fn lost(&mut self, slot: usize, since: Nanos, messages: u64) {
        if self.slots[slot].echoed == 0 || self.slots[slot].is_down {
            return;
        }
        let outage = self.coordination.lost(since, messages);
        self.watched_returned = self.statistics.messages.returned;
        let state = &mut self.slots[slot];
        state.is_down = true;
        self.watched += usize::from(state.outage.replace(outage).is_none());
    }

    /// A slot that was down has a connection, or is given up.
    pub(super) fn up(&mut self, slot: usize) {
        if mem::take(&mut self.slots[slot].is_down) {
            self.coordination.replaced();
        }
    }

    /// The connection of a slot had a turn. An echo may have ended the outage: one on a connection that
    /// replaces another one, or any after all were replaced.
    #[cold]
    pub(super) fn watch(&mut self, slot: usize, is_served: bool) {
        let returned = self.statistics.messages.returned;
        if mem::replace(&mut self.watched_returned, returned) == returned {
            return;
        }
        if let Some(outage) = self.slots[slot].outage.filter(|_| is_served) {
            self.slots[slot].outage = None;
            self.watched -= 1;
            self.ended_outage = Some(outage);
            self.coordination.echoed(Some(outage), self.now());
        } else if self.coordination.are_all_up() {
            self.coordination.echoed(None, self.now());
        }
    }
}
