//! The one place that waits.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry, Token};

use crate::net::deadline::after;
use crate::net::failure::cannot;
use crate::net::waker::{Waker, Wakeups, waker};

/// A poll, and how to wait in it. The server's loop and the load tester's loops each have one.
#[derive(Debug)]
pub struct Wait {
    poll: Poll,
    wakeups: Wakeups,
    busy_poll: Option<Duration>,
    /// Until this time the poll does not sleep.
    busy_until: Option<Instant>,
    /// Time after the last wait.
    now: Instant,
}

impl Wait {
    /// Makes the poll, and a waker whose wake-ups are events with the given token. After an event the poll is
    /// asked again without sleeping for the duration `busy_poll`: going to sleep and waking up is most of the
    /// latency of a lone connection.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` or its equivalent and of the waker, for example no more files. They say
    /// what could not be made.
    pub fn new(busy_poll: Option<Duration>, token: Token) -> io::Result<(Wait, Waker)> {
        let poll = Poll::new().map_err(|e| cannot("make a poll to wait for events", &e))?;
        let (waker, wakeups) = waker(poll.registry(), token)?;
        let (busy_until, now) = (None, Instant::now());
        Ok((Wait { poll, wakeups, busy_poll, busy_until, now }, waker))
    }

    /// Takes the wake-ups that an event has reported.
    pub fn take_wakeups(&mut self) {
        self.wakeups.take();
    }

    /// Returns the registry of the poll.
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Waits for events, and returns the time after the wait. It waits until the deadline at the
    /// latest. `None` is no deadline; a deadline that has passed makes it return at once.
    ///
    /// The HOWTO recommends "a nice long timeout" for select. Here the timeout is exact: it ends when
    /// there is something to do that no event will announce.
    ///
    /// # Errors
    /// Those of the poll, except `EINTR` (a signal handler ran, or a debugger was attached), after which
    /// it waits for the rest of the time.
    pub fn wait(&mut self, events: &mut Events, until: Option<Instant>) -> io::Result<Instant> {
        loop {
            let result = self.poll.poll(events, self.timeout(until));
            self.now = Instant::now();
            match result {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            if !events.is_empty() {
                self.busy_until = after(self.now, self.busy_poll);
            }
            return Ok(self.now);
        }
    }

    fn timeout(&self, until: Option<Instant>) -> Option<Duration> {
        let is_busy = self.busy_until.is_some_and(|busy_until| self.now < busy_until);
        match until {
            _ if is_busy => Some(Duration::ZERO),
            // Known without reading the clock again.
            Some(until) if until <= self.now => Some(Duration::ZERO),
            Some(until) => Some(until.saturating_duration_since(Instant::now())),
            None => None,
        }
    }
}
