//! Warnings that cannot flood a log.

use std::fmt;
use std::time::{Duration, Instant};

use log::warn;

const INTERVAL: Duration = Duration::from_secs(10);

/// One kind of trouble. It is warned of at once, then at most every 10 seconds, with a count of what
/// was held back in between.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    pub(crate) fn warn(&mut self, now: Instant, trouble: fmt::Arguments<'_>) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            self.held_back += 1;
            return;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.held_back) {
            0 => warn!(target: "echoloop", "{trouble}"),
            n => warn!(target: "echoloop", "{trouble} ({n} more since the last such warning)"),
        }
    }
}
