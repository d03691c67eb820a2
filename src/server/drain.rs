//! The drain: how a server ends without losing a byte.
//!
//! Every byte that had arrived when the drain began is answered, and so is what keeps arriving behind it:
//!
//! 1. Connections that wait in a backlog are accepted and served. A listener closes when its backlog is
//!    empty, or when accept fails in a way that lets nobody come any more: the drain ends when nobody is owed
//!    anything and nobody can come.
//! 2. Each connection is driven once with all readiness bits set, so that a would-block, and not an older
//!    hint, says that nothing is left.
//! 3. A connection that owes nothing and was quiet for 100 ms gets our end of the stream. One that is owed
//!    bytes waits for its reader.
//! 4. At half of the time all listeners close, and no connection receives any more; what is owed is still
//!    sent.
//! 5. At the end of the time every connection is closed.

use std::time::{Duration, Instant};

use crate::net::deadline::after;

/// The deadlines of a drain that has begun.
#[derive(Debug)]
pub(crate) struct Drain {
    stop_receiving: Option<Instant>,
    end: Option<Instant>,
}

impl Drain {
    pub(crate) fn begin(now: Instant, timeout: Duration) -> Drain {
        Drain { stop_receiving: after(now, Some(timeout / 2)), end: after(now, Some(timeout)) }
    }

    /// Returns the next deadline.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.stop_receiving.or(self.end)
    }

    /// Returns true once, when half of the time is over.
    pub(crate) fn stops_receiving(&mut self, now: Instant) -> bool {
        self.stop_receiving.take_if(|half| *half <= now).is_some()
    }

    /// Returns whether all of the time is over.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| end <= now)
    }
}
