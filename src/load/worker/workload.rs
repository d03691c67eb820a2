//! What a loop does, as its clients see it: the schedule gives out the messages, and the statistics
//! count them. Each slot has one connection, or one after the other where every message has its own.

use std::time::Instant;

use crate::load::clock::{Clock, Nanos};
use crate::load::messages::{InFlight, Load, Next, Stray};
use crate::load::plan::Plan;
use crate::load::results::statistics::Statistics;
use crate::load::schedule::{Position, Schedule};

/// Everything that outlives a connection in its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) stage: Stage,
    pub(super) position: Position,
    /// Number of connects that failed one after the other.
    pub(super) failed_connects: usize,
    /// When the message was due that the next connection is made for, if it is made for one message.
    pub(super) message: Option<Nanos>,
    /// Number of messages that came back on connections that have ended.
    pub(super) echoed: u64,
}

/// The stages of a slot.
///
/// ```text
///   Idle --> Queued --> InUse --> Idle
///     |        |
///     +--------+------> Retired
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits until its next message is due.
    Idle,
    /// It waits until it may connect.
    Queued,
    /// It has the client with this key.
    InUse(usize),
    /// It is not used any more.
    Retired,
}

/// The schedule of a loop, its slots, and its statistics.
#[derive(Debug)]
pub(crate) struct Workload {
    clock: Clock,
    pub(crate) schedule: Schedule,
    pub(super) slots: Vec<Slot>,
    /// Number of slots that are not retired.
    pub(super) active: usize,
    /// Number of clients whose connect is not complete.
    pub(super) connecting: usize,
    pub(super) statistics: Statistics,
}

impl Workload {
    pub(super) fn new(plan: &Plan, thread: usize, clock: Clock) -> Workload {
        let slot = |position| Slot {
            stage: Stage::Idle,
            position,
            failed_connects: 0,
            message: None,
            echoed: 0,
        };
        let slots: Vec<Slot> = Schedule::positions(plan, thread).map(slot).collect();
        Workload {
            clock,
            schedule: Schedule::new(plan, thread),
            active: slots.len(),
            slots,
            connecting: 0,
            statistics: Statistics::default(),
        }
    }

    /// Ends the use of a slot.
    pub(super) fn retire(&mut self, slot: usize) {
        debug_assert_ne!(self.slots[slot].stage, Stage::Retired);
        self.slots[slot].stage = Stage::Retired;
        self.active -= 1;
    }

    /// Begins the messages.
    pub(crate) fn begin(&mut self, start: Nanos) {
        self.schedule.begin(start);
        for slot in &mut self.slots {
            self.schedule.prepare(&mut slot.position);
        }
    }

    /// Returns a time as an instant.
    pub(super) fn instant(&self, at: Nanos) -> Instant {
        self.clock.instant(at)
    }

    /// Starts the next message of a slot, if it is due. Not inlined: the usual case of a client would
    /// pay for what only the others look at.
    #[inline(never)]
    pub(super) fn start_next(&mut self, slot: usize, now: Nanos) -> Next {
        let next = self.schedule.start_next(&mut self.slots[slot].position, now);
        if matches!(next, Next::Due(due) if self.schedule.is_measured(due)) {
            self.statistics.messages.sent += 1;
        }
        next
    }

    pub(super) fn skip_past(&mut self, slot: usize, now: Nanos) {
        self.schedule.skip_past(&mut self.slots[slot].position, now);
    }

    /// Open loop: returns when the next message of this loop is due, and for which slot. Messages that
    /// a client has started already are passed over.
    pub(super) fn next_due(&mut self) -> Option<(Nanos, usize)> {
        loop {
            let slot = self.schedule.next_slot()?;
            let position = &self.slots[slot].position;
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
        self.schedule.left_over(&self.slots[slot].position, now)
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
            Some(end)
                if is_open && (0..self.slots.len()).all(|slot| self.left_over(slot, end) == 0) =>
            {
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
            let left_over: u64 =
                (0..self.slots.len()).map(|slot| self.left_over(slot, until)).sum();
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
        self.start_next(slot, now)
    }

    fn is_over(&self, slot: usize, now: Nanos) -> bool {
        self.schedule.peek(&self.slots[slot].position, now) == Next::Never
    }

    fn connected(&mut self, slot: usize, begun: Nanos, now: Nanos) {
        self.connecting -= 1;
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

    #[cold]
    fn received(&mut self, bytes: usize, now: Nanos) {
        if self.schedule.is_measured_arrival(now) {
            self.statistics.messages.arrived_bytes += bytes as u64;
        }
    }

    fn stray(&mut self, stray: Stray) {
        let Statistics { messages, datagrams, .. } = &mut self.statistics;
        match stray {
            Stray::Reordered => datagrams.reordered += 1,
            Stray::Duplicate => datagrams.duplicate += 1,
            Stray::Late { due } if self.schedule.is_measured(due) => {
                datagrams.late += 1;
                messages.lost -= 1;
                messages.timed_out += 1;
            }
            Stray::Late { .. } => {}
        }
    }

    fn now(&self) -> Nanos {
        self.clock.now()
    }
}
