//! One loop's share of the load: when each message is due, and what is counted of it.

use std::ops::Range;
use std::time::Duration;

use crate::load::client::{Flight, Load, Nanos, Next};
use crate::load::clock::Clock;
use crate::load::tally::Tally;
use crate::load::{Plan, Stop};

const SECOND: f64 = 1e9;

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
    /// Nanoseconds between two messages of the whole run; `None` is a closed loop.
    interval: Option<f64>,
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
    /// How long messages become due, and until when; endless where their number is given.
    duration: Nanos,
    end: Nanos,
    /// Open loop: messages of the whole run; endless where their time is given.
    messages: u64,
    /// Closed loop: measured messages that may still be taken on by this loop; likewise.
    quota: u64,
    reconnect: bool,
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
        let duration = match plan.stop {
            Stop::After(duration) => nanos(plan.warm_up.saturating_add(duration)),
            Stop::Messages(_) => ENDLESS,
        };
        let (mut messages, mut quota) = (ENDLESS, ENDLESS);
        if let Stop::Messages(n) = plan.stop {
            let (threads, thread) = (plan.threads as u64, thread as u64);
            match plan.rate {
                Some(rate) => {
                    let warm_up = (plan.warm_up.as_secs_f64() * rate as f64).ceil() as u64;
                    messages = n.saturating_add(warm_up);
                }
                None => quota = n / threads + u64::from(thread < n % threads),
            }
        }
        Share {
            clock,
            interval: plan.rate.map(|rate| SECOND / rate as f64),
            connections: plan.connections as u64,
            first: thread as u64,
            step: plan.threads as u64,
            start: None,
            measured_from: Nanos::MAX,
            warm_up: nanos(plan.warm_up),
            duration,
            end: ENDLESS,
            messages,
            quota,
            reconnect: plan.reconnect,
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
        if self.interval.is_none() && !self.reconnect {
            self.at_once = self.measured_from..self.end;
        }
    }

    /// When the messages began, if they have.
    pub fn start(&self) -> Option<Nanos> {
        self.start
    }

    /// When the time that is measured begins.
    pub fn measured_from(&self) -> Option<Nanos> {
        self.start.map(|_| self.measured_from)
    }

    /// When the last message is due, if that is a matter of time.
    pub fn end(&self) -> Option<Nanos> {
        Some(self.end).filter(|&end| end != ENDLESS)
    }

    /// The end of the time that is measured, if it is `now` that all is over. An open loop's last message
    /// stands for the interval up to where the next one would be, so that the rate is not overstated
    /// by one; where messages are counted in a closed loop, nothing but the last of them marks an end.
    pub fn measured_until(&self, now: Nanos) -> Nanos {
        if self.interval.is_some() && self.start.is_some() && self.next_due().is_none() {
            return self.end().unwrap_or(now);
        }
        if self.is_spent() { self.tally.last_arrival } else { self.end.min(now) }
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
        let (over, due) = match self.interval {
            None => {
                let over = now >= self.end || self.quota == 0 && self.is_measured(now);
                (over, if self.reconnect { self.slots[slot].free_since } else { now })
            }
            Some(interval) => {
                let round = self.slots[slot].taken_on;
                let number = round * self.connections + self.number(slot) as u64;
                let due = due(start, interval, number);
                (number >= self.messages || due >= self.end, due)
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
        let (start, interval) = (self.start?, self.interval?);
        let slots = self.slots.len() as u64;
        let (round, slot) = (self.due_count / slots, (self.due_count % slots) as usize);
        let number = round * self.connections + self.number(slot) as u64;
        let due = due(start, interval, number);
        (number < self.messages && due < self.end).then_some((due, slot))
    }

    /// Open loop: messages of a slot that are due by now, or were due before the end, and were not taken
    /// on.
    pub fn left_over(&self, slot: usize, now: Nanos) -> u64 {
        let mut left_over = 0;
        if let (Some(start), Some(interval)) = (self.start, self.interval) {
            let first = self.slots[slot].taken_on * self.connections + self.number(slot) as u64;
            let over = now.min(self.end).saturating_sub(start) as f64 / interval;
            let over = (over.ceil() as u64).min(self.messages);
            left_over = over.saturating_sub(first).div_ceil(self.connections);
        }
        left_over
    }

    /// That message has become due; how late is this loop?
    pub fn became_due(&mut self, due: Nanos, now: Nanos) {
        self.due_count += 1;
        let lag = now.saturating_sub(due);
        self.tally.lag_max = self.tally.lag_max.max(lag);
        self.tally.lag_sum += lag;
        self.tally.lag_count += 1;
    }

    /// What [`next`](Load::next) says in any other case. Were it inlined, the usual case would pay for
    /// what only the others look at.
    #[inline(never)]
    fn decide(&mut self, slot: usize, now: Nanos) -> Next {
        let next = self.peek(slot, now);
        if let Next::Due(due) = next {
            if self.interval.is_some() {
                self.slots[slot].taken_on += 1;
            }
            if self.is_measured(due) {
                self.quota -= u64::from(self.quota > 0);
                self.tally.sent += 1;
            }
        }
        next
    }

    fn is_measured(&self, due: Nanos) -> bool {
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
        // Where connections come at a rate, and the messages are not counted, none is due before its
        // connection can be there.
        if !self.reconnect
            && self.messages == ENDLESS
            && let (Some(start), Some(interval)) = (self.start, self.interval)
        {
            let past = (now.saturating_sub(start) as f64 / interval) as u64;
            self.slots[slot].taken_on = past.div_ceil(self.connections);
        }
    }

    fn echoed(&mut self, flight: Flight, now: Nanos) {
        let tally = &mut self.tally;
        tally.returned += 1;
        if (self.measured_from..=self.end).contains(&now) {
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

/// When the whole run's message with this number is due.
fn due(start: Nanos, interval: f64, number: u64) -> Nanos {
    start.saturating_add((number as f64 * interval) as Nanos)
}

/// A duration in nanoseconds; one of centuries is as good as endless.
fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX / 4)
}
