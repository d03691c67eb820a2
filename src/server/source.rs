//! Event sources: what else may live on the server's poll. Signals, timers, an HTTP server, UDP.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use crate::net::address::Address;
use crate::net::ready::Readiness;
use crate::net::waker::Waker;
use crate::server::counters::Counters;

/// Number of tokens that each event source owns.
pub const TOKENS: usize = 1 << 16;

/// Anything else that can happen on the server's poll, for example a signal that a pipe has turned into an
/// event. It needs no thread and no second loop.
///
/// The rules are those of a connection. No call may wait. Events are edges: a source takes all there is, or
/// asks to be called again. A source keeps the errors of its own clients to itself, because an error that
/// it returns ends the run.
///
/// It is `Send`, so that a server can be made on one thread and run on another.
pub trait EventSource: Send {
    /// Registers what the source has, with [`LoopHandle::register`]. Called once.
    ///
    /// # Errors
    /// Those of the registry; [`Server::add_source`](crate::Server::add_source) returns them.
    fn register(&mut self, handle: &LoopHandle<'_>) -> io::Result<()>;

    /// Is called when something has happened.
    ///
    /// # Errors
    /// An error ends the run.
    fn notify(&mut self, notification: Notification, handle: &LoopHandle<'_>)
    -> io::Result<Action>;

    /// Returns when the source wants to be notified although nothing has happened. It is notified once in a
    /// millisecond at most, even if the time stays in the past: for work that need not wait there is
    /// [`Action::Again`].
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Returns the addresses that the source serves; [`Server::local_addrs`](crate::Server::local_addrs)
    /// lists them.
    fn addresses(&self) -> Vec<Address> {
        Vec::new()
    }

    /// Returns the counters of the source. They appear wherever the server's own counters do, also after the
    /// source has left.
    fn counters(&self) -> Vec<SourceCounter> {
        Vec::new()
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Notification {
    /// An event has come for what was registered with this number.
    Ready {
        /// Number that was given to [`LoopHandle::register`].
        number: usize,
        /// Readiness that the event reports.
        readiness: Readiness,
    },
    /// Another thread has called [`SourceWaker::wake`], once or several times.
    Woken,
    /// The time of [`EventSource::due`] has come.
    Due,
    /// The source has asked for it with [`Action::Again`].
    Again,
    /// The drain begins. The run may end in this same turn, so answer now what has arrived. A source may go
    /// on serving until then.
    Drain,
}

/// What an event source wants from the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Go on.
    Continue,
    /// Notify the source again, in this turn but after all events of the turn; if it asks then, in the next
    /// turn, without waiting.
    Again,
    /// Remove the source. It has deregistered what it registered.
    Leave,
    /// Drain the server, then end the run, as [`Stopper::stop`](crate::Stopper::stop) does.
    Drain,
    /// End the run at once. The status is part of the [`RunSummary`](crate::RunSummary).
    Stop(u8),
}

impl Action {
    /// Returns the one of two actions that ends more: a stop before a drain before anything else.
    #[must_use]
    pub fn stronger(self, other: Action) -> Action {
        let rank = |action| match action {
            Action::Continue | Action::Leave => 0,
            Action::Again => 1,
            Action::Drain => 2,
            Action::Stop(_) => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

/// A counter of an event source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceCounter {
    /// Name, as in `datagrams_received`. The line of counters uses it as it is; Prometheus's name is
    /// `echod_` before it and `_total` behind it.
    pub name: &'static str,
    /// Cause, for one of several counters that stand one after the other, with the same name and the same
    /// help. In the line of counters it follows the name, as in `datagrams_dropped_rate`; for Prometheus it
    /// is a label.
    pub cause: Option<&'static str>,
    /// One sentence for the metrics.
    pub help: &'static str,
    /// Value since the start.
    pub value: u64,
}

/// `name=value`, for logs.
impl fmt::Display for SourceCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(cause) = self.cause {
            write!(f, "_{cause}")?;
        }
        write!(f, "={}", self.value)
    }
}

/// What the loop lends an event source for one call.
pub struct LoopHandle<'a> {
    /// Counters of the server.
    pub counters: &'a Counters,
    /// The loop's time, read once a turn.
    pub now: Instant,
    pub(crate) registry: &'a Registry,
    pub(crate) first_token: usize,
    pub(crate) other_counters: &'a dyn Fn() -> Vec<SourceCounter>,
}

impl LoopHandle<'_> {
    /// Returns the counters of the other event sources.
    pub fn source_counters(&self) -> Vec<SourceCounter> {
        (self.other_counters)()
    }

    /// Registers something with the loop's poll, under a number of the source's own, below [`TOKENS`].
    /// Events report that number.
    ///
    /// # Errors
    /// Those of the registry, and `InvalidInput` for a number that is too large.
    pub fn register(
        &self,
        source: &mut dyn Source,
        number: usize,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry.register(source, self.token(number)?, interest)
    }

    /// Registers something again. On poll(2) this arms it, even if the loop has seen no would-block.
    ///
    /// # Errors
    /// As those of [`register`](LoopHandle::register).
    pub fn reregister(
        &self,
        source: &mut dyn Source,
        number: usize,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry.reregister(source, self.token(number)?, interest)
    }

    /// Removes something from the loop's poll.
    ///
    /// # Errors
    /// Those of the registry.
    pub fn deregister(&self, source: &mut dyn Source) -> io::Result<()> {
        self.registry.deregister(source)
    }

    fn token(&self, number: usize) -> io::Result<Token> {
        if number >= TOKENS {
            let reason = format!("an event source has numbers below {TOKENS}, not {number}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(Token(self.first_token + number))
    }
}

/// Line of all counters, for logs: the server's, then those of the other event sources.
impl fmt::Display for LoopHandle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.counters)?;
        self.source_counters().iter().try_for_each(|counter| write!(f, " {counter}"))
    }
}

impl fmt::Debug for LoopHandle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").field("now", &self.now).finish_non_exhaustive()
    }
}

/// Wakes one event source from any thread.
#[derive(Debug, Clone)]
pub struct SourceWaker {
    pub(crate) waker: Waker,
    pub(crate) woken: Arc<AtomicBool>,
}

impl SourceWaker {
    /// Has the loop notify the source with [`Notification::Woken`]. Several calls before that are one.
    ///
    /// # Errors
    /// Those of [`Waker::wake`].
    pub fn wake(&self) -> io::Result<()> {
        self.woken.store(true, Ordering::Release);
        self.waker.wake()
    }
}
