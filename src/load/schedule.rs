//! One loop's share of the load: when each message is due, and what is counted of it.

use std::ops::Range;
use std::time::Duration;

use crate::load::client::{Flight, Load, Nanos, Next};
use crate::load::clock::Clock;
use crate::load::results::statistics::Tally;
use crate::load::{Plan, Stop};

const SECOND: u64 = 1_000_000_000;

/// More than any run has, of anything.
const ENDLESS: u64 = u64::MAX;

/// The messages of some of the run's connections.
///
/// In a closed loop a message is due when the one before it is back. In an open loop the whole run's
/// message number m is due m / rate seconds after the start, whatever the server does, and belongs to
/// connection m mod connections. If that one's pipeline is full the message waits, and its wait is
/// part of its latency: a server that stops for a second has kept all those waiting that it would have
/// served, not just the one in flight. Due times follow from the number alone, so an overloaded server
/// costs no memory here.
#[derive(Debug)]
pub struct Share {
    clock: Clock,
    /// Messages a second of the whole run; `None` is a closed loop.
    rate: Option<u64>,
    /// Connections of the whole run.
    connections: u64,
    /// Number of this loop's first connection, and the step to its next one.
    first: u64,
    step: u64,
    /// When the messages begin; not known while connections are made.
    start: Option<Nanos>,
    /// Messages that were due before are not counted.
    measured_from: Nanos,
    warm_up: Nanos,
    /// How long messages become due, and until when; endless in a closed loop with a number of them.
    duration: Nanos,
    end: Nanos,
    /// Open loop: messages of the whole run.
    messages: u64,
    /// Their number was asked for, not their time.
    numbered: bool,
    /// Closed loop: measured messages that may still be taken on by this loop; endless where their time
    /// is given.
    quota: u64,
    reconnect: bool,
    /// Open loop: a connection stays until the end, whether or not it has another message.
    stays: bool,
    /// Closed loop, on connections that stay: when a message is due at once, and is measured.
    at_once: Range<Nanos>,
    slots: Vec<Slot>,
    /// Open loop: how many of this loop's messages have become due.
    due_count: u64,
    /// What was counted.
    pub tally: Tally,
    /// Connects under way.
    pub connecting: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Open loop: messages taken on.
    taken_on: u64,
    /// With `reconnect`: since when the slot has waited for its next message.
    free_since: Nanos,
}

impl Share {
    /// The share of the loop with this number among the plan's threads.
    pub fn new(plan: &Plan, thread: usize, clock: Clock) -> Share {
        let slots = (thread..plan.connections).step_by(plan.threads).count();
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
        Share {
            clock,
            rate: plan.rate,
            connections: plan.connections as u64,
            first: thread as u64,
            step: plan.threads as u64,
            start: None,
            measured_from: Nanos::MAX,
            warm_up,
            duration,
            end: ENDLESS,
            messages,
            numbered: matches!(plan.stop, Stop::Messages(_)),
            quota,
            reconnect: plan.reconnect,
            stays: !plan.half_close && !plan.reconnect,
            at_once: 0..0,
            slots: vec![Slot::default(); slots],
            due_count: 0,
            tally: Tally::new(slots),
            connecting: 0,
        }
    }

    /// This loop's connections.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The number, in the whole run, of the connection in a slot.
    pub fn number(&self, slot: usize) -> usize {
        (self.first + slot as u64 * self.step) as usize
    }

    /// The messages begin.
    pub fn begin(&mut self, start: Nanos) {
        self.start = Some(start);
        self.measured_from = start.saturating_add(self.warm_up);
        self.end = start.saturating_add(self.duration);
        if self.rate.is_none() && !self.reconnect {
            self.at_once = self.measured_from..self.end;
        }
    }

    /// When the messages began, if they have.
    pub fn start(&self) -> Option<Nanos> {
        self.start
    }

    /// When the time that is measured begins.
    pub fn measured_from(&self) -> Nanos {
        self.measured_from
    }

    /// When no message becomes due any more, if that is a matter of time.
    pub fn end(&self) -> Option<Nanos> {
        Some(self.end).filter(|&end| end != ENDLESS)
    }

    /// Whether a number of messages was asked for, and not a time.
    pub fn is_numbered(&self) -> bool {
        self.numbered
    }

    /// The end of the time that is measured, if it is `now` that all is over, or was stopped. An open
    /// loop's last message stands for the interval up to where the next one would be, so that the rate
    /// is not overstated by one; where messages are numbered, it takes as long as it takes until the
    /// last of them is back.
    pub fn measured_until(&self, now: Nanos, stopped: bool) -> Nanos {
        let so_far = self.end.min(now);
        if stopped {
            return if self.numbered { now } else { so_far };
        }
        if self.is_spent() {
            return self.tally.last_arrival;
        }
        let mut slots = 0..self.slots.len();
        let is_open = self.rate.is_some() && self.start.is_some();
        let taken_on = is_open && slots.all(|slot| self.left_over(slot, self.end) == 0);
        let until = if taken_on { self.end } else { so_far };
        if self.numbered { until.max(self.tally.last_arrival) } else { until }
    }

    /// Closed loop: all messages that were asked for have been taken on.
    pub fn is_spent(&self) -> bool {
        self.quota == 0
    }

    /// With `reconnect`: the slot has become free for its next message.
    pub fn free(&mut self, slot: usize, now: Nanos) {
        self.slots[slot].free_since = now;
    }

    /// The slot's next message, which stays untouched.
    pub fn peek(&self, slot: usize, now: Nanos) -> Next {
        let Some(start) = self.start else { return Next::NotYet };
        let (over, due) = match self.rate {
            None => {
                let over = now >= self.end || self.quota == 0 && self.is_measured(now);
                (over, if self.reconnect { self.slots[slot].free_since } else { now })
            }
            Some(rate) => {
                let number = self.message(slot, self.slots[slot].taken_on);
                let over = number >= self.messages && !(self.stays && now < self.end);
                (over, start.saturating_add(due(number, rate)))
            }
        };
        match due {
            _ if over => Next::Never,
            due if due <= now => Next::Due(due),
            _ => Next::NotYet,
        }
    }

    /// Open loop: when this loop's next message becomes due, and for which slot. They come in the
    /// order of the slots, round and round.
    pub fn next_due(&self) -> Option<(Nanos, usize)> {
        let (start, rate) = (self.start?, self.rate?);
        let (round, slot) = self.turn();
        let number = self.message(slot, round);
        (number < self.messages).then(|| (start.saturating_add(due(number, rate)), slot))
    }

    /// Open loop: the round, and the slot in it, of this loop's next message.
    fn turn(&self) -> (u64, usize) {
        let slots = self.slots.len() as u64;
        (self.due_count / slots, (self.due_count % slots) as usize)
    }

    /// Open loop: measured messages of a slot that were due before `now`, and were not taken on.
    pub fn left_over(&self, slot: usize, now: Nanos) -> u64 {
        let before = self.slots[slot].taken_on.max(self.rounds(slot, self.measured_from));
        self.rounds(slot, now).saturating_sub(before)
    }

    /// The run is over. What its connections left over is counted, whether they fell behind or were gone.
    pub fn finish(&mut self, now: Nanos) {
        let left_over: u64 = (0..self.slots.len()).map(|slot| self.left_over(slot, now)).sum();
        self.tally.sent += left_over;
        self.tally.timed_out += left_over;
    }

    /// Where connections come at a rate, and the messages are not numbered, none of a connection's is due
    /// before it can be there.
    pub fn skip_past(&mut self, slot: usize, now: Nanos) {
        if !self.reconnect && !self.numbered {
            self.slots[slot].taken_on = self.rounds(slot, now);
        }
    }

    /// Open loop: how many messages of a slot are due before then.
    fn rounds(&self, slot: usize, at: Nanos) -> u64 {
        let (Some(start), Some(rate)) = (self.start, self.rate) else { return 0 };
        let due = due_before(at.saturating_sub(start), rate).min(self.messages);
        due.saturating_sub(self.number(slot) as u64).div_ceil(self.connections)
    }

    /// Open loop: the number, in the whole run, of a slot's message in that round.
    fn message(&self, slot: usize, round: u64) -> u64 {
        round * self.connections + self.number(slot) as u64
    }

    /// That message has become due; how late is this loop? Not late at all for one that its client has
    /// taken on already, behind another.
    pub fn became_due(&mut self, due: Nanos, now: Nanos) {
        let (round, slot) = self.turn();
        self.due_count += 1;
        if self.is_measured(due) && self.slots[slot].taken_on <= round {
            let lag = now.saturating_sub(due);
            self.tally.lag_max = self.tally.lag_max.max(lag);
            self.tally.lag_sum += lag;
            self.tally.lag_count += 1;
        }
    }

    /// What [`next`](Load::next) says in any other case. Were it inlined, the usual case would pay for
    /// what only the others look at.
    #[inline(never)]
    fn decide(&mut self, slot: usize, now: Nanos) -> Next {
        let next = self.peek(slot, now);
        if let Next::Due(due) = next {
            if self.rate.is_some() {
                self.slots[slot].taken_on += 1;
            }
            if self.is_measured(due) {
                self.quota -= u64::from(self.quota > 0);
                self.tally.sent += 1;
            }
        }
        next
    }

    /// Whether a message that was due then counts.
    pub fn is_measured(&self, due: Nanos) -> bool {
        due >= self.measured_from
    }
}

impl Load for Share {
    fn next(&mut self, slot: usize, now: Nanos) -> Next {
        if self.quota > 0 && self.at_once.contains(&now) {
            self.quota -= 1;
            self.tally.sent += 1;
            return Next::Due(now);
        }
        self.decide(slot, now)
    }

    fn is_over(&self, slot: usize, now: Nanos) -> bool {
        self.peek(slot, now) == Next::Never
    }

    fn connected(&mut self, slot: usize, dialed: Nanos, now: Nanos) {
        self.connecting -= 1;
        self.tally.established += 1;
        self.tally.connect.saturating_record(now.saturating_sub(dialed));
        self.skip_past(slot, now);
    }

    fn echoed(&mut self, flight: Flight, now: Nanos) {
        let tally = &mut self.tally;
        tally.returned += 1;
        if now >= self.measured_from && (now <= self.end || self.numbered) {
            tally.arrived += 1;
            tally.last_arrival = now;
        }
        if flight.due >= self.measured_from {
            tally.echoed += 1;
            tally.times.record(flight, now);
        }
    }

    fn now(&self) -> Nanos {
        self.clock.now()
    }
}

/// When the whole run's message with this number is due, after the start. In integers, so that a second
/// has exactly as many messages as were asked for, whatever their rate.
fn due(number: u64, rate: u64) -> Nanos {
    let part = (number % rate).saturating_mul(SECOND) / rate;
    (number / rate).saturating_mul(SECOND).saturating_add(part)
}

/// How many messages of the whole run are due before then.
fn due_before(after_start: Nanos, rate: u64) -> u64 {
    let messages = (u128::from(after_start) * u128::from(rate)).div_ceil(SECOND.into());
    messages.try_into().unwrap_or(ENDLESS)
}

/// A duration in nanoseconds; one of centuries is as good as endless.
fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: u64, warm_up: u64, stop: Stop) -> Plan {
        Plan {
            targets: Vec::new(),
            connections: 7,
            threads: 2,
            length: 64,
            pipeline: 1,
            rate: Some(rate),
            connect_rate: None,
            reconnect: false,
            half_close: false,
            sources: Vec::new(),
            warm_up: Duration::from_secs(warm_up),
            stop,
            timeout: None,
            interval: None,
            busy_poll: None,
            seed: 0,
        }
    }

    /// Messages that all loops take on, and those of them that are measured.
    fn count(plan: &Plan) -> (u64, u64) {
        const START: Nanos = 12_345;
        let (mut taken_on, mut measured) = (0, 0);
        for thread in 0..plan.threads {
            let mut share = Share::new(plan, thread, Clock::start());
            share.begin(START);
            let end = share.end().unwrap();
            for slot in 0..share.slots() {
                assert_ne!(share.next(slot, START - 1), Next::Never);
                while let Next::Due(due) = share.next(slot, end) {
                    assert!((START..end).contains(&due));
                    taken_on += 1;
                }
                assert_eq!(share.peek(slot, end - 1), Next::NotYet);
                assert_eq!(share.peek(slot, end), Next::Never);
                assert_eq!(share.left_over(slot, Nanos::MAX), 0);
            }
            measured += share.tally.sent;
        }
        (taken_on, measured)
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
    fn a_message_that_is_due_was_not_due_before() {
        for rate in [1, 3, 1800, 65_537, 999_999_937] {
            for number in [0, 1, 2, 999, 1_000_003, 7_777_777_777] {
                let due = due(number, rate);
                assert_eq!(due_before(due, rate), number, "message {number} of {rate}/s");
                assert_eq!(due_before(due + 1, rate), number + 1, "message {number} of {rate}/s");
            }
        }
    }
}
