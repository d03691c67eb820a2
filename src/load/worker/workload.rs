//! What a loop does, as its clients see it: the schedule gives out the messages, and the statistics
//! count them. Each slot has one connection, or one after the other where connections are lost, or end after
//! a number of messages.

use std::sync::Arc;
use std::time::Instant;

use crate::load::clock::{Clock, Nanos};
use crate::load::coordination::Coordination;
use crate::load::messages::{InFlight, Load, Next, Stray};
use crate::load::outage::Cost;
use crate::load::plan::Plan;
use crate::load::results::statistics::Statistics;
use crate::load::schedule::Schedule;
use crate::load::worker::slot::Slot;

/// The schedule of a loop, its slots, and its statistics.
#[derive(Debug)]
pub(crate) struct Workload {
    clock: Clock,
    pub(super) coordination: Arc<Coordination>,
    pub(crate) schedule: Schedule,
    pub(super) slots: Vec<Slot>,
    /// Number of slots that are not retired.
    pub(super) active: usize,
    /// Number of clients whose connect is not complete.
    pub(super) connecting: usize,
    /// Number of slots with an outage. Only then an echo is looked at more closely.
    pub(super) watched: usize,
    /// Number of messages that had come back then.
    pub(super) watched_returned: u64,
    /// The last outage after which a message came back on a new connection.
    pub(super) ended_outage: Option<usize>,
    /// Number of messages on a connection.
    per_connection: Option<u64>,
    /// Whether messages that were due before the first connection are dropped.
    skips: bool,
    pub(super) is_udp: bool,
    /// Slots whose connection was established in this turn.
    pub(super) established: Vec<usize>,
    pub(super) statistics: Statistics,
}

impl Workload {
    pub(super) fn new(plan: &Plan, thread: usize, coordination: Arc<Coordination>) -> Workload {
        let slots: Vec<Slot> = Schedule::positions(plan, thread).map(Slot::new).collect();
        Workload {
            clock: coordination.clock,
            coordination,
            schedule: Schedule::new(plan, thread),
            active: slots.len(),
            slots,
            connecting: 0,
            watched: 0,
            watched_returned: 0,
            ended_outage: None,
            per_connection: plan.messages_per_connection,
            skips: plan.connect_rate.is_some() && !plan.reconnects(),
            is_udp: plan.is_udp(),
            established: Vec::new(),
            statistics: Statistics::default(),
        }
    }

    /// Begins the messages.
    pub(crate) fn begin(&mut self, start: Nanos) {
        self.schedule.begin(start);
        for slot in &mut self.slots {
            self.schedule.prepare(&mut slot.position);
        }
    }

    /// Returns the most messages of a connection.
    pub(super) fn per_connection(&self) -> u64 {
        self.per_connection.unwrap_or(u64::MAX)
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

    /// Where connections come at a rate, a slot has no messages before its first connection.
    pub(super) fn skip_past(&mut self, slot: usize, now: Nanos) {
        let Slot { position, failures, echoed, outage, .. } = &mut self.slots[slot];
        if self.skips && *failures == 0 && *echoed == 0 && outage.is_none() {
            self.schedule.skip_past(position, now);
        }
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

    /// A connection that ends after a number of messages starts its next one, if it may.
    #[cold]
    fn next_on_connection(&mut self, slot: usize, now: Nanos) -> Next {
        if self.slots[slot].left == 0 {
            return Next::Never;
        }
        self.schedule.release(&mut self.slots[slot].position, now);
        let next = self.start_next(slot, now);
        self.slots[slot].left -= u64::from(matches!(next, Next::Due(_)));
        next
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
            for slot in 0..self.slots.len() {
                let left_over = self.left_over(slot, until);
                self.statistics.messages.sent += left_over;
                self.count_unsent(slot, left_over);
            }
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
        if self.per_connection.is_some() {
            return self.next_on_connection(slot, now);
        }
        self.start_next(slot, now)
    }

    fn is_over(&self, slot: usize, now: Nanos) -> bool {
        let is_used_up = self.per_connection.is_some() && self.slots[slot].left == 0;
        is_used_up || self.schedule.peek(&self.slots[slot].position, now) == Next::Never
    }

    fn connected(&mut self, slot: usize, begun: Nanos, now: Nanos) {
        self.connecting -= 1;
        self.established.push(slot);
        self.skip_past(slot, now);
        self.statistics.connections.established += 1;
        if !self.is_udp {
            self.coordination.reached();
        }
        let delayed = self.left_over(slot, now) + self.waiting_message(slot);
        let state = &mut self.slots[slot];
        let begun = state.round.take().map_or(begun, |(begun, _)| begun);
        state.message = None;
        state.was_up = true;
        self.statistics.connect.record(now.saturating_sub(begun));
        if let Some(outage) = state.outage.filter(|_| state.is_down && delayed > 0) {
            self.coordination.add_cost(outage, Cost { delayed, ..Cost::default() });
        }
        self.up(slot);
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
