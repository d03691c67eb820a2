//! The slots that wait to connect, and when the next one may.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::load::clock::Nanos;
use crate::load::plan::Plan;
use crate::net::deadline::after;

/// How long to wait before another connect to a full backlog.
const BACKLOG_PAUSE: Duration = Duration::from_millis(2);

/// Slots in the order in which they connect, at a rate if the plan gives one.
#[derive(Debug)]
pub(super) struct ConnectQueue {
    slots: VecDeque<usize>,
    /// Number of connects that were begun.
    begun: u64,
    /// Number of this loop, and number of loops. They take turns.
    thread: u64,
    threads: u64,
    /// The time between two connects of the whole run.
    interval: Option<Duration>,
    backlog: Option<FullBacklog>,
}

/// A full backlog of a Unix socket. No event tells when it has room again.
#[derive(Debug, Clone, Copy)]
struct FullBacklog {
    since: Instant,
    retry_at: Instant,
}

impl ConnectQueue {
    pub(super) fn new(plan: &Plan, thread: usize) -> ConnectQueue {
        let interval = |rate: u64| Duration::from_secs(1).div_f64(rate as f64);
        ConnectQueue {
            slots: VecDeque::new(),
            begun: 0,
            thread: thread as u64,
            threads: plan.threads as u64,
            interval: plan.connect_rate.map(interval),
            backlog: None,
        }
    }

    pub(super) fn has_rate(&self) -> bool {
        self.interval.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn push(&mut self, slot: usize) {
        self.slots.push_back(slot);
    }

    pub(super) fn pop(&mut self) -> Option<usize> {
        self.slots.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
    }

    /// Returns the number, in the whole run, of the next connect.
    pub(super) fn next_number(&self) -> u64 {
        self.begun * self.threads + self.thread
    }

    /// Returns how long after the start the next connect is due, if connects come at a rate.
    pub(super) fn next_offset(&self) -> Option<Nanos> {
        let offset = self.interval?.as_nanos().saturating_mul(self.next_number().into());
        Some(Nanos::try_from(offset).unwrap_or(Nanos::MAX))
    }

    /// Returns when to try again to connect, if the backlog was full.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.backlog.map(|backlog| backlog.retry_at)
    }

    /// Reports that a connect was begun, or failed for good.
    pub(super) fn begun(&mut self, backlog_was_full: bool) {
        self.begun += 1;
        if !backlog_was_full {
            self.backlog = None;
        }
    }

    /// Puts a slot back after it found the backlog full. Returns false if the backlog has been full for
    /// longer than the timeout.
    pub(super) fn wait_for_backlog(
        &mut self,
        slot: usize,
        now: Instant,
        timeout: Option<Duration>,
    ) -> bool {
        let since = self.backlog.map_or(now, |backlog| backlog.since);
        let waits = after(since, timeout).is_none_or(|end| end > now);
        let retry_at = if waits { now + BACKLOG_PAUSE } else { now };
        self.backlog = Some(FullBacklog { since, retry_at });
        if waits {
            self.slots.push_front(slot);
        }
        waits
    }
}
