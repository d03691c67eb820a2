//! The counters in the log, now and then.

use std::io;
use std::time::{Duration, Instant};

use log::info;
use mio::event::Event;
use mio::{Registry, Token};

use crate::counters::Counters;
use crate::deadline::after;
use crate::guest::{Guest, Wish};

/// Logs a line of counters each interval. A guest that no event comes for.
pub struct Stats {
    interval: Duration,
    next: Option<Instant>,
}

impl Stats {
    /// The first line comes one interval after `now`.
    pub fn every(interval: Duration, now: Instant) -> Stats {
        Stats { interval, next: after(now, Some(interval)) }
    }
}

impl Guest for Stats {
    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn ready(&mut self, _: &Registry, _: &Event) -> io::Result<Wish> {
        Ok(Wish::Nothing)
    }

    fn due(&self) -> Option<Instant> {
        self.next
    }

    fn on_due(&mut self, now: Instant) -> Wish {
        // Intervals that went by unseen, while the process was stopped, are not made up for.
        self.next = after(now, Some(self.interval));
        Wish::Report
    }

    fn report(&mut self, counters: &Counters) {
        info!("{counters}");
    }
}
