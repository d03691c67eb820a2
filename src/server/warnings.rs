//! Warnings that cannot flood a log.

use std::fmt;
use std::time::{Duration, Instant};

use log::warn;

const INTERVAL: Duration = Duration::from_secs(10);

/// Warnings of one kind. The first is logged at once, the next ones at most every 10 seconds, each with
/// the number of those left out since.
#[derive(Debug, Default)]
pub(crate) struct RateLimitedWarning {
    last: Option<Instant>,
    left_out: u64,
}

impl RateLimitedWarning {
    pub(crate) fn warn(&mut self, now: Instant, warning: fmt::Arguments<'_>) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            self.left_out += 1;
            return;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.left_out) {
            0 => warn!(target: "echoloop", "{warning}"),
            n => warn!(target: "echoloop", "{warning} ({n} more since the last such warning)"),
        }
    }
}
