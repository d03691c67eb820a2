//! What the whole run has measured.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::load::outage::Outages;
use crate::load::plan::Plan;
use crate::load::results::addresses::AddressCounts;
use crate::load::results::histogram::Histogram;
use crate::load::results::pauses::Pauses;
use crate::load::results::series::{Interval, per_second};
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
    /// The intervals, if the plan asks for them.
    pub intervals: Vec<Interval>,
}

/// What the load tester itself used.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Generator {
    /// Processor time of the loops, as a part of the time that they ran.
    pub cpu: f64,
    /// The most processor time that a loop used or waited for, as a part of the time that it ran.
    pub demand: f64,
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
            intervals: Vec::new(),
            plan,
        }
    }

    /// Returns the number of messages a second. The count and the time are of the same period: what
    /// was in flight at its beginning makes up for what is in flight at its end.
    pub fn rate(&self) -> f64 {
        per_second(self.messages.arrived, self.elapsed)
    }

    /// Returns the number of bytes a second that came back in the same time.
    pub fn byte_rate(&self) -> f64 {
        match self.plan.shape.lengths() {
            (min, max) if min == max => self.rate() * min as f64,
            _ => per_second(self.messages.arrived_bytes, self.elapsed),
        }
    }

    /// Returns the number of errors.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Returns whether the load tester, and not the server, was the limit.
    pub fn is_limited(&self) -> bool {
        // Busy polling uses a whole processor by design.
        let is_saturated = self.plan.busy_poll.is_none() && self.generator.demand >= SATURATED;
        is_saturated
            || self.generator.lag.mean() >= LATE
            || self.generator.pauses.reached(self).is_some()
    }

    /// Returns whether every message is accounted for: it came back, timed out, was lost, or could not be
    /// sent.
    pub(crate) fn is_complete(&self) -> bool {
        let Messages { sent, echoed, timed_out, lost, unsent, .. } = self.messages;
        self.interrupted || sent == echoed + timed_out + lost + unsent
    }
}
