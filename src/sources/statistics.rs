//! The counters in the log, now and then.

use std::io;
use std::time::{Duration, Instant};

use log::info;
use mio::event::Event;
use mio::{Registry, Token};

use crate::net::deadline::after;
use crate::server::source::{Guest, Host, Wish};

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

    fn ready(&mut self, _: &Host<'_>, _: &Event) -> io::Result<Wish> {
        Ok(Wish::Nothing)
    }

    fn due(&self) -> Option<Instant> {
        self.next
    }

    fn on_due(&mut self, host: &Host<'_>) -> Wish {
        info!("{}", host.counters);
        // Intervals that went by unseen, while the process was stopped, are not made up for.
        self.next = after(host.now, Some(self.interval));
        Wish::Nothing
    }
}
