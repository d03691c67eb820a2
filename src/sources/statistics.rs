//! The line of counters in the log, at an interval.

use std::io;
use std::time::{Duration, Instant};

use log::info;

use crate::net::deadline::after;
use crate::server::source::{Action, EventSource, LoopHandle, Notification};

/// Logs the line of counters at an interval. It has no events, only a time at which it is due.
#[derive(Debug)]
pub struct Statistics {
    interval: Duration,
    next: Option<Instant>,
}

impl Statistics {
    /// Makes the source. The first line comes one interval after `now`.
    pub fn every(interval: Duration, now: Instant) -> Statistics {
        Statistics { interval, next: after(now, Some(interval)) }
    }
}

impl EventSource for Statistics {
    fn register(&mut self, _: &LoopHandle<'_>) -> io::Result<()> {
        Ok(())
    }

    fn notify(&mut self, what: Notification, handle: &LoopHandle<'_>) -> io::Result<Action> {
        if let Notification::Due = what {
            info!("{handle}");
            // Intervals that passed while the process was stopped are not made up for.
            self.next = after(handle.now, Some(self.interval));
        }
        Ok(Action::Continue)
    }

    fn due(&self) -> Option<Instant> {
        self.next
    }
}
