//! The one place that waits.
//!
//! Everything else in a loop is a short answer to an event, or to a deadline that has passed.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry};

use crate::net::deadline::after;

/// The poll, and the one place that waits. Used by the server's loop and by the load tester's.
#[derive(Debug)]
pub struct Wait {
    poll: Poll,
    /// How long to poll without sleeping after a wait that brought events.
    busy_poll: Option<Duration>,
    busy_until: Option<Instant>,
}

impl Wait {
    /// Returns a wait on a new poll.
    ///
    /// # Errors
    /// No file descriptors are left.
    pub fn new(busy_poll: Option<Duration>) -> io::Result<Wait> {
        Ok(Wait { poll: Poll::new()?, busy_poll, busy_until: None })
    }

    /// Returns the registry of the poll.
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Waits for events until the deadline (`None`: without limit; one that has passed: returns at
    /// once) and returns the time after the wait. A wait that a signal interrupts (`EINTR`) goes on
    /// for what is left of the time.
    ///
    /// # Errors
    /// Those of `epoll_wait(2)`, or of what stands in for it.
    pub fn wait(&mut self, events: &mut Events, until: Option<Instant>) -> io::Result<Instant> {
        loop {
            let answer = self.poll.poll(events, self.timeout(until));
            let now = Instant::now();
            match answer {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                answer => answer?,
            }
            if !events.is_empty() {
                self.busy_until = after(now, self.busy_poll);
            }
            return Ok(now);
        }
    }

    fn timeout(&self, until: Option<Instant>) -> Option<Duration> {
        if until.is_none() && self.busy_until.is_none() {
            return None;
        }
        let now = Instant::now();
        if self.busy_until.is_some_and(|busy_until| now < busy_until) {
            return Some(Duration::ZERO);
        }
        until.map(|until| until.saturating_duration_since(now))
    }
}
