//! When each message of a loop is due.

use std::ops::Range;

use crate::load::clock::Nanos;
use crate::load::due_times::{ENDLESS, OpenLoop, due, due_before, nanos};
use crate::load::messages::Next;
use crate::load::plan::{Plan, Stop};

/// The schedule of the messages of one loop.
///
/// In a closed loop a message is due when the one before it has come back. In an open loop message
/// number m of the whole run is due m / rate seconds after the start, whatever the server does, and
/// belongs to connection m mod connections. If the pipeline of that connection is full, the message
/// waits, and the wait is part of its latency. So a server that stops for a second delays all messages
/// of that second, not only those in flight: there is no coordinated omission. A due time follows from
/// the number of the message alone, so messages that wait take no memory.
#[derive(Debug)]
pub struct Schedule {
    period: Period,
    closed: ClosedLoop,
    /// `None` in a closed loop.
    open: Option<OpenLoop>,
    /// Whether the plan gives a number of messages, and no time.
    is_numbered: bool,
    reconnect: bool,
}

/// The times of the run. Most of them are not known before the messages begin.
#[derive(Debug)]
struct Period {
    start: Option<Nanos>,
    warm_up: Nanos,
    /// How long messages become due; endless in a closed loop with a number of messages.
    duration: Nanos,
    /// Messages that are due from here on are measured.
    measured_from: Nanos,
    /// No message is due from here on.
    end: Nanos,
    /// Messages that arrive after this time do not count for the rate.
    arrivals_until: Nanos,
}

#[derive(Debug)]
struct ClosedLoop {
    /// Number of measured messages that this loop may still start; endless where a time is given.
    quota: u64,
    /// When a message can start at once and is measured; empty where that needs a closer look.
    immediate: Range<Nanos>,
}

/// What the schedule keeps of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// Number of the connection in the whole run.
    number: u64,
    /// Open loop: number of messages that were started.
    started: u64,
    /// When its next message is due. Unused in a closed loop on connections that stay.
    next_due: Nanos,
}

impl Position {
    /// Returns the number of the connection in the whole run.
    pub fn connection(&self) -> usize {
        self.number as usize
    }
}

impl Schedule {
    /// Returns the schedule of the loop with this number.
    pub fn new(plan: &Plan, thread: usize) -> Schedule {
        let warm_up = nanos(plan.warm_up);
        let (mut duration, mut messages, mut quota) = (ENDLESS, ENDLESS, ENDLESS);
        match (plan.stop, plan.rate) {
            (Stop::After(time), rate) => {
                duration = nanos(plan.warm_up.saturating_add(time));
                messages = rate.map_or(ENDLESS, |rate| due_before(duration, rate));
            }
            (Stop::Messages(n), Some(rate)) => {
                messages = n.saturating_add(due_before(warm_up, rate));
                duration = due(messages, rate);
            }
            (Stop::Messages(n), None) => {
                let (threads, thread) = (plan.threads as u64, thread as u64);
                quota = n / threads + u64::from(thread < n % threads);
            }
        }
        let open = plan.rate.map(|rate| OpenLoop {
            rate,
            messages,
            connections: plan.connections as u64,
            stays: !plan.half_close && !plan.reconnects(),
            slots: Schedule::positions(plan, thread).count(),
            round: 0,
            slot: 0,
        });
        Schedule {
            period: Period {
                start: None,
                warm_up,
                duration,
                measured_from: Nanos::MAX,
                end: ENDLESS,
                arrivals_until: 0,
            },
            closed: ClosedLoop { quota, immediate: 0..0 },
            open,
            is_numbered: matches!(plan.stop, Stop::Messages(_)),
            reconnect: plan.reconnects(),
        }
    }

    /// Returns the positions of the connections of the loop with this number, in the order of the
    /// slots.
    pub fn positions(plan: &Plan, thread: usize) -> impl Iterator<Item = Position> {
        let numbers = (thread..plan.connections).step_by(plan.threads);
        numbers.map(|number| Position { number: number as u64, started: 0, next_due: 0 })
    }

    /// Begins the messages. Every position must be [prepared](Schedule::prepare) after this.
    pub fn begin(&mut self, start: Nanos) {
        let period = &mut self.period;
        period.start = Some(start);
        period.measured_from = start.saturating_add(period.warm_up);
        period.end = start.saturating_add(period.duration);
        period.arrivals_until = if self.is_numbered { ENDLESS } else { period.end };
        if self.open.is_none() && !self.reconnect {
            self.closed.immediate = period.measured_from..period.end;
        }
    }

    /// Sets the due time of the first message, at the beginning.
    pub fn prepare(&self, position: &mut Position) {
        let Some(start) = self.period.start else { return };
        position.next_due = match &self.open {
            Some(open) => start.saturating_add(open.due(position.number, position.started)),
            None => start,
        };
    }

    /// Closed loop whose connections end after a number of messages: the slot is free for its next message.
    pub fn release(&self, position: &mut Position, now: Nanos) {
        if self.open.is_none() {
            position.next_due = now;
        }
    }

    /// Drops the messages that were due before the connection could be established, where connections
    /// come at a rate and the plan does not give the number of messages.
    pub fn skip_past(&self, position: &mut Position, now: Nanos) {
        if !self.reconnect && !self.is_numbered {
            position.started = self.rounds(position.number, now);
            self.prepare(position);
        }
    }

    /// Returns when the messages began.
    pub fn start(&self) -> Option<Nanos> {
        self.period.start
    }

    /// Returns when the measured time begins.
    pub fn measured_from(&self) -> Nanos {
        self.period.measured_from
    }

    /// Returns when messages stop to become due, if the run ends at a time.
    pub fn end(&self) -> Option<Nanos> {
        Some(self.period.end).filter(|&end| end != ENDLESS)
    }

    /// Returns whether the plan gives a number of messages, and no time.
    pub fn is_numbered(&self) -> bool {
        self.is_numbered
    }

    /// Returns whether a message that was due at this time is measured.
    pub fn is_measured(&self, due: Nanos) -> bool {
        due >= self.period.measured_from
    }

    /// Returns whether a message that arrives now counts for the rate.
    pub fn is_measured_arrival(&self, now: Nanos) -> bool {
        now >= self.period.measured_from && now <= self.period.arrivals_until
    }

    /// Returns whether all messages of a closed loop with a number of messages were started.
    pub fn is_spent(&self) -> bool {
        self.closed.quota == 0
    }

    /// Starts a measured message if one can start at once: the usual case of a closed loop, which
    /// needs no position.
    #[inline]
    pub fn start_immediate(&mut self, now: Nanos) -> bool {
        let can_start = self.closed.quota > 0 && self.closed.immediate.contains(&now);
        self.closed.quota -= u64::from(can_start);
        can_start
    }

    /// Starts the next message of a connection, if it is due.
    pub fn start_next(&mut self, position: &mut Position, now: Nanos) -> Next {
        let next = self.peek(position, now);
        if let Next::Due(due) = next {
            if self.open.is_some() {
                position.started += 1;
                self.prepare(position);
            }
            if self.is_measured(due) {
                self.closed.quota -= u64::from(self.closed.quota > 0);
            }
        }
        next
    }

    /// Returns what [`start_next`](Schedule::start_next) would return.
    pub fn peek(&self, position: &Position, now: Nanos) -> Next {
        let Period { start: Some(_), end, .. } = self.period else { return Next::NotYet };
        let (is_over, due) = match &self.open {
            None => {
                let is_over = now >= end || self.is_spent() && self.is_measured(now);
                (is_over, if self.reconnect { position.next_due } else { now })
            }
            Some(open) => {
                let is_last = open.message(position.number, position.started) >= open.messages;
                (is_last && !(open.stays && now < end), position.next_due)
            }
        };
        match due {
            _ if is_over => Next::Never,
            due if due <= now => Next::Due(due),
            _ => Next::NotYet,
        }
    }

    /// Open loop: returns the slot of the next message of this loop. The messages go through the slots
    /// in order, again and again.
    pub fn next_slot(&self) -> Option<usize> {
        self.open.as_ref().map(|open| open.slot)
    }

    /// Open loop: returns whether the next message of this loop was started already, right after
    /// another one of its connection. `position` is that of [`next_slot`](Schedule::next_slot).
    pub fn is_next_started(&self, position: &Position) -> bool {
        self.open.as_ref().is_some_and(|open| position.started > open.round)
    }

    /// Open loop: returns when the next message of this loop is due, if there is one.
    pub fn next_due(&self, position: &Position) -> Option<Nanos> {
        let (start, open) = (self.period.start?, self.open.as_ref()?);
        if open.message(position.number, open.round) >= open.messages {
            return None;
        }
        if position.started == open.round {
            return Some(position.next_due);
        }
        // The connection is behind: an earlier message of it still waits.
        Some(start.saturating_add(open.due(position.number, open.round)))
    }

    /// Open loop: moves on to the message after the next one.
    pub fn advance(&mut self) {
        if let Some(open) = &mut self.open {
            open.advance();
        }
    }

    /// Returns the number of measured messages of a connection that were due before `now` and were not
    /// started.
    pub fn left_over(&self, position: &Position, now: Nanos) -> u64 {
        let unmeasured = self.rounds(position.number, self.period.measured_from);
        self.rounds(position.number, now).saturating_sub(position.started.max(unmeasured))
    }

    /// Returns the number of messages of a connection that are due before a time.
    fn rounds(&self, number: u64, at: Nanos) -> u64 {
        let (Some(start), Some(open)) = (self.period.start, &self.open) else { return 0 };
        open.rounds(number, at.saturating_sub(start))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::rate::Rate;
    use crate::net::address::Address;

    fn plan(rate: u64, warm_up: u64, stop: Stop) -> Plan {
        let target = Address::Tcp(([127, 0, 0, 1], 7).into());
        let plan =
            Plan::builder(vec![target]).connections(7).threads(2).rate(Rate::from(rate)).stop(stop);
        plan.warm_up(Duration::from_secs(warm_up)).build().unwrap()
    }

    /// Returns the number of messages that all loops start, and of those that are measured.
    fn count(plan: &Plan) -> (u64, u64) {
        const START: Nanos = 12_345;
        let (mut started, mut measured) = (0, 0);
        for thread in 0..plan.threads {
            let mut schedule = Schedule::new(plan, thread);
            schedule.begin(START);
            let end = schedule.end().unwrap();
            for mut position in Schedule::positions(plan, thread) {
                schedule.prepare(&mut position);
                assert_ne!(schedule.start_next(&mut position, START - 1), Next::Never);
                while let Next::Due(due) = schedule.start_next(&mut position, end) {
                    assert!((START..end).contains(&due));
                    started += 1;
                    measured += u64::from(schedule.is_measured(due));
                }
                assert_eq!(schedule.peek(&position, end - 1), Next::NotYet);
                assert_eq!(schedule.peek(&position, end), Next::Never);
                assert_eq!(schedule.left_over(&position, Nanos::MAX), 0);
            }
        }
        (started, measured)
    }

    #[test]
    fn a_second_has_as_many_messages_as_were_asked_for_whatever_their_rate() {
        const SECOND: Stop = Stop::After(Duration::from_secs(1));
        for rate in [1, 3, 7, 1800, 44_100, 65_537, 999_999] {
            assert_eq!(count(&plan(rate, 0, SECOND)), (rate, rate));
            assert_eq!(count(&plan(rate, 2, SECOND)), (3 * rate, rate));
        }
    }

    #[test]
    fn a_number_of_messages_is_measured_to_the_last_one_whatever_the_warm_up() {
        for rate in [1, 3, 7, 1800, 44_100, 65_537] {
            for n in [1, 2, 99, 1801] {
                assert_eq!(count(&plan(rate, 0, Stop::Messages(n))), (n, n));
                assert_eq!(count(&plan(rate, 1, Stop::Messages(n))), (n + rate, n));
            }
        }
    }

    #[test]
    fn the_messages_of_a_loop_come_in_the_order_of_their_due_times_whoever_starts_them() {
        let plan = plan(1800, 0, Stop::Messages(700));
        let mut schedule = Schedule::new(&plan, 1);
        let mut positions: Vec<_> = Schedule::positions(&plan, 1).collect();
        schedule.begin(0);
        for position in &mut positions {
            schedule.prepare(position);
        }
        let mut dues = Vec::new();
        while let Some(due) = schedule.next_due(&positions[schedule.next_slot().unwrap()]) {
            let slot = schedule.next_slot().unwrap();
            // The first connection never starts one, the second one starts each in time.
            if slot == 1 {
                assert_eq!(schedule.start_next(&mut positions[slot], due), Next::Due(due));
                assert!(schedule.is_next_started(&positions[slot]));
            }
            schedule.advance();
            dues.push(due);
        }
        assert_eq!(dues.len(), 300);
        assert!(dues.is_sorted());
        assert_eq!(dues[..4], [1, 3, 5, 8].map(|number| due(number, Rate::from(1800))));
    }
}
