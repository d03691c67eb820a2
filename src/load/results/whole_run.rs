//! What the whole run has measured.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::load::outage::Outages;
use crate::load::plan::Plan;
use crate::load::results::addresses::AddressCounts;
use crate::load::results::histogram::Histogram;
use crate::load::results::pauses::{Pauses, SHORT};
use crate::load::results::series::per_second;
use crate::load::results::statistics::{
    Connections, Corruption, Datagrams, Lag, Messages, Statistics,
};

/// A loop that used this part of a processor, or wanted to, was the limit itself.
const SATURATED: f64 = 0.95;

/// So was a loop that was this late on average, in nanoseconds.
const LATE: u64 = 1_000_000;

/// Everything that a run has measured. Every output format is a writer of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Results {
    /// The plan of the run.
    pub plan: Plan,
    /// The measured time.
    pub elapsed: Duration,
    /// Whether the run was stopped early.
    pub interrupted: bool,
    /// Numbers of messages.
    pub messages: Messages,
    /// Numbers of datagrams, if the target is UDP.
    pub datagrams: Option<Datagrams>,
    /// Numbers of connections.
    pub connections: Connections,
    /// Numbers of connections to each address of the target.
    pub addresses: Vec<AddressCounts>,
    /// When connections were lost, until the server answered again.
    pub outages: Outages,
    /// Times from when a message was due until its last byte came back.
    pub latency: Histogram,
    /// Times from when a message was sent until its last byte came back.
    pub service: Histogram,
    /// Times of the connects that succeeded.
    pub connect: Histogram,
    /// Number of messages that came back on each connection, or in each slot where every message has
    /// its own connection.
    pub by_connection: Vec<u64>,
    /// What failed, and how often.
    pub errors: BTreeMap<String, u64>,
    /// The first wrong bytes.
    pub first_corruption: Option<Corruption>,
    /// What the load tester itself used.
    pub generator: Generator,
}

/// What the load tester itself used.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Generator {
    /// Processor time of the loops, as a part of the time that they ran. `None` if that was short.
    pub cpu: Option<f64>,
    /// The most processor time that a loop used or waited for, as a part of the time that it ran. `None`
    /// if that was short.
    pub demand: Option<f64>,
    /// How late the loops were at the due times of the messages.
    pub lag: Lag,
    /// When the load tester could not run.
    pub pauses: Pauses,
}

impl Results {
    /// Returns the results of a run that has measured `statistics`. What is not in them is empty.
    pub(crate) fn new(plan: Plan, statistics: Statistics) -> Results {
        Results {
            elapsed: Duration::ZERO,
            interrupted: false,
            messages: statistics.messages,
            datagrams: Some(statistics.datagrams).filter(|_| plan.is_udp()),
            connections: statistics.connections,
            addresses: Vec::new(),
            outages: Outages::default(),
            latency: statistics.latencies.latency(),
            service: statistics.latencies.service(),
            connect: statistics.connect,
            by_connection: Vec::new(),
            errors: statistics.errors,
            first_corruption: statistics.first_corruption,
            generator: Generator { lag: statistics.lag, ..Generator::default() },
            plan,
        }
    }

    /// Returns the number of messages a second. The count and the time are of the same period: what
    /// was in flight at its beginning makes up for what is in flight at its end. `None` if there was
    /// nothing to count.
    pub fn rate(&self) -> Option<f64> {
        let Messages { sent, arrived, .. } = self.messages;
        let is_measured = !self.elapsed.is_zero() && (sent > 0 || arrived > 0);
        is_measured.then(|| per_second(arrived, self.elapsed))
    }

    /// Returns the number of bytes a second that came back in the same time.
    pub fn byte_rate(&self) -> Option<f64> {
        self.rate().map(|rate| match self.plan.shape.lengths() {
            (min, max) if min == max => rate * min as f64,
            _ => per_second(self.messages.arrived_bytes, self.elapsed),
        })
    }

    /// Returns whether the measured time tells anything about the load tester itself.
    pub fn is_long_enough(&self) -> bool {
        self.elapsed >= SHORT
    }

    /// Returns the least and the most messages that came back on a connection, if any stood.
    pub fn slowest_and_fastest(&self) -> Option<(u64, u64)> {
        let (min, max) = (self.by_connection.iter().min()?, self.by_connection.iter().max()?);
        (self.connections.established > 0).then_some((*min, *max))
    }

    /// Returns what the load tester was paused by, if that reached into the figures.
    pub fn pause(&self) -> Option<String> {
        let longest_latency = Duration::from_nanos(self.latency.max());
        self.generator.pauses.reached(self.elapsed, longest_latency)
    }

    /// Returns the number of errors.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Returns whether the load tester, and not the server, was the limit.
    pub fn is_limited(&self) -> bool {
        // Busy polling uses a whole processor by design.
        let is_saturated = self.generator.demand.is_some_and(|demand| demand >= SATURATED);
        let is_late = self.generator.lag.mean() >= LATE;
        self.is_long_enough() && (is_saturated && self.plan.busy_poll.is_none() || is_late)
            || self.pause().is_some()
    }

    /// Returns whether every message is accounted for: it came back, timed out, was lost, or could not be
    /// sent.
    pub(crate) fn is_complete(&self) -> bool {
        let Messages { sent, echoed, timed_out, lost, unsent, .. } = self.messages;
        self.interrupted || sent == echoed + timed_out + lost + unsent
    }
}
