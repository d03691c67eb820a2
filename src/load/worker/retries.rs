//! The slots that wait until they may try again; see `retry`.

use std::time::Instant;

use crate::load::plan::Plan;
use crate::net::deadline::Deadlines;

/// The slots that wait until they may try again.
#[derive(Debug)]
pub(crate) struct Retries {
    pub(super) due: Deadlines,
    /// Number of those that wait.
    pub(super) waiting: usize,
    /// Whether what was lost is made again, now or at all.
    pub(super) is_on: bool,
    pub(super) seed: u64,
    /// The last outage whose end made all try again.
    pub(super) hurried: Option<usize>,
    /// When a connection failed for the first time since a message came back, and the number of messages that
    /// had come back.
    pub(super) none_since: Option<(Instant, u64)>,
}

impl Retries {
    pub(super) fn new(plan: &Plan) -> Retries {
        let (seed, is_on) = (plan.seed, plan.replaces);
        Retries {
            due: Deadlines::default(),
            waiting: 0,
            is_on,
            seed,
            hurried: None,
            none_since: None,
        }
    }

    /// From now on nothing is made again.
    pub(super) fn stop(&mut self) {
        self.is_on = false;
    }
}
