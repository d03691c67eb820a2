//! What a loop does, as its clients see it: the schedule gives out the messages, and the statistics
//! count them.

use std::time::Instant;

use crate::load::clock::{Clock, Nanos};
use crate::load::messages::{InFlight, Load, Next};
use crate::load::plan::Plan;
use crate::load::results::statistics::Statistics;
use crate::load::schedule::Schedule;
use crate::load::worker::slots::Slots;

/// The schedule of a loop, its slots, and its statistics.
#[derive(Debug)]
pub(crate) struct Workload {
    clock: Clock,
    pub(super) schedule: Schedule,
    pub(super) slots: Slots,
    pub(super) statistics: Statistics,
}

impl Workload {
    pub(super) fn new(plan: &Plan, thread: usize, clock: Clock) -> Workload {
        Workload {
            clock,
            schedule: Schedule::new(plan, thread),
            slots: Slots::new(Schedule::positions(plan, thread)),
            statistics: Statistics::default(),
        }
    }

    /// Begins the messages.
    pub(crate) fn begin(&mut self, start: Nanos) {
        self.schedule.begin(start);
        for slot in self.slots.all() {
            self.schedule.prepare(&mut self.slots.get_mut(slot).position);
        }
    }

    /// Returns a time as an instant.
    pub(super) fn instant(&self, at: Nanos) -> Instant {
        self.clock.instant(at)
    }

    /// Returns when the measured time begins.
    pub(crate) fn measured_from(&self) -> Nanos {
        self.schedule.measured_from()
    }

    /// Starts the next message of a slot, if it is due.
    pub(super) fn start_next(&mut self, slot: usize, now: Nanos) -> Next {
        let next = self.schedule.start_next(&mut self.slots.get_mut(slot).position, now);
        if matches!(next, Next::Due(due) if self.schedule.is_measured(due)) {
            self.statistics.messages.sent += 1;
        }
        next
    }

    /// The same, for a client in a case that is not the usual one. Not inlined: the usual case would
    /// pay for what only the others look at.
    #[inline(never)]
    fn start_any(&mut self, slot: usize, now: Nanos) -> Next {
        self.start_next(slot, now)
    }

    pub(super) fn skip_past(&mut self, slot: usize, now: Nanos) {
        self.schedule.skip_past(&mut self.slots.get_mut(slot).position, now);
    }

    /// With a connection for each message: the slot is free for its next message.
    pub(super) fn release(&mut self, slot: usize, now: Nanos) {
        self.schedule.release(&mut self.slots.get_mut(slot).position, now);
    }

    /// Open loop: returns when the next message of this loop is due, and for which slot. Messages that
    /// a client has started already are passed over.
    pub(super) fn next_due(&mut self) -> Option<(Nanos, usize)> {
        loop {
            let slot = self.schedule.next_slot()?;
            let position = &self.slots.get(slot).position;
            if !self.schedule.is_next_started(position) {
                return Some((self.schedule.next_due(position)?, slot));
            }
            self.schedule.advance();
        }
    }

    /// Open loop: the message that [`next_due`](Workload::next_due) returned has become due.
    pub(super) fn became_due(&mut self, due: Nanos, now: Nanos) {
        self.schedule.advance();
        if self.schedule.is_measured(due) {
            self.statistics.lag.record(now.saturating_sub(due));
        }
    }

    pub(super) fn left_over(&self, slot: usize, now: Nanos) -> u64 {
        self.schedule.left_over(&self.slots.get(slot).position, now)
    }

    /// Returns the end of the measured time, if the run ends `now`.
    ///
    /// The last message of an open loop stands for the time until the next one would be due, so that
    /// the rate is not too high by one message. Where the plan gives a number of messages, the
    /// measured time lasts until the last one comes back.
    pub(super) fn measured_until(&self, now: Nanos, stopped: bool) -> Nanos {
        let is_numbered = self.schedule.is_numbered();
        let end = self.schedule.end();
        let so_far = end.map_or(now, |end| end.min(now));
        if stopped {
            return if is_numbered { now } else { so_far };
        }
        let last_arrival = self.statistics.messages.last_arrival;
        if self.schedule.is_spent() {
            return last_arrival;
        }
        let is_open = self.schedule.next_slot().is_some();
        let until = match end {
            Some(end) if is_open && self.slots.all().all(|slot| self.left_over(slot, end) == 0) => {
                end
            }
            _ => so_far,
        };
        if is_numbered { until.max(last_arrival) } else { until }
    }

    /// Returns the statistics, and the number of messages that came back in each slot. If the run was
    /// not stopped early, the messages that were due before `until` and were not started are counted.
    pub(crate) fn finish(mut self, until: Nanos, stopped: bool) -> (Statistics, Vec<u64>) {
        if !stopped {
            let left_over: u64 = self.slots.all().map(|slot| self.left_over(slot, until)).sum();
            self.statistics.messages.sent += left_over;
            self.statistics.messages.timed_out += left_over;
        }
        (self.statistics, self.slots.iter().map(|slot| slot.echoed).collect())
    }
}

impl Load for Workload {
    fn next(&mut self, slot: usize, now: Nanos) -> Next {
        if self.schedule.start_immediate(now) {
            self.statistics.messages.sent += 1;
            return Next::Due(now);
        }
        self.start_any(slot, now)
    }

    fn is_over(&self, slot: usize, now: Nanos) -> bool {
        self.schedule.peek(&self.slots.get(slot).position, now) == Next::Never
    }

    fn connected(&mut self, slot: usize, begun: Nanos, now: Nanos) {
        self.slots.connecting -= 1;
        self.statistics.connections.established += 1;
        self.statistics.connect.record(now.saturating_sub(begun));
        self.skip_past(slot, now);
    }

    fn echoed(&mut self, message: InFlight, now: Nanos) {
        let messages = &mut self.statistics.messages;
        messages.returned += 1;
        if self.schedule.is_measured_arrival(now) {
            messages.arrived += 1;
            messages.last_arrival = now;
        }
        if self.schedule.is_measured(message.due) {
            messages.echoed += 1;
            self.statistics.latencies.record(message, now);
        }
    }

    fn now(&self) -> Nanos {
        self.clock.now()
    }
}
