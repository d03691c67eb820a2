//! Timeouts of a connection: idle, lingering, quiet in a drain.

use std::time::{Duration, Instant};

use crate::net::deadline::after;
use crate::net::nonblocking::Stream;
use crate::protocol::Protocol;
use crate::server::connection::{Connection, LINGER};
use crate::server::counters::CloseReason;

/// In a drain, how long nothing must have moved on a connection that owes nothing before it ends. It covers
/// what was on its way when the drain began.
pub(crate) const QUIET: Duration = Duration::from_millis(100);

/// The timeouts of all connections of a server.
#[derive(Debug)]
pub(crate) struct Timeouts {
    idle: Option<Duration>,
    draining_since: Option<Instant>,
}

impl Timeouts {
    pub(crate) fn new(idle: Option<Duration>) -> Timeouts {
        Timeouts { idle, draining_since: None }
    }

    pub(crate) fn begin_drain(&mut self, now: Instant) {
        self.draining_since = Some(now);
    }

    /// Returns when the connection ends if nothing moves on it until then.
    fn end<S: Stream, P: Protocol>(&self, connection: &Connection<S, P>) -> Option<Instant> {
        let moved = connection.last_moved();
        match self.draining_since {
            _ if connection.is_lingering() => after(moved, Some(LINGER)),
            Some(since) if connection.is_settled() => after(moved.max(since), Some(QUIET)),
            Some(since) => after(moved.max(since), self.idle),
            None => after(moved, self.idle),
        }
    }

    /// Returns whether the connection is to end.
    pub(crate) fn is_over<S: Stream, P: Protocol>(
        &self,
        connection: &Connection<S, P>,
        now: Instant,
    ) -> bool {
        self.end(connection).is_some_and(|end| end <= now)
    }

    /// Returns why it ends.
    pub(crate) fn reason<S: Stream, P: Protocol>(
        &self,
        connection: &Connection<S, P>,
    ) -> CloseReason {
        let drained = self.draining_since.is_some() && connection.is_settled();
        if drained { CloseReason::Drain } else { CloseReason::Idle }
    }

    /// Returns when to look at the connection next. In a drain that is every 100 ms: whether a connection
    /// is settled does not depend on time alone.
    pub(crate) fn next_look<S: Stream, P: Protocol>(
        &self,
        connection: &Connection<S, P>,
        now: Instant,
    ) -> Option<Instant> {
        match self.draining_since {
            Some(_) => after(now, Some(QUIET)),
            None => self.end(connection),
        }
    }
}
