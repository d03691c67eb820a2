//! How a run is ended, and what it leaves.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::Waker;

use crate::server::counters::Counters;
use crate::server::source::SourceCounter;

/// Ends a server's run from any thread, after a drain.
#[derive(Debug, Clone)]
pub struct Stopper {
    waker: Arc<Waker>,
    wanted: Arc<AtomicBool>,
}

impl Stopper {
    pub(crate) fn new(waker: &Arc<Waker>) -> Stopper {
        Stopper { waker: Arc::clone(waker), wanted: Arc::default() }
    }

    /// Asks for the drain, and returns at once. It may be called before the run and after it, and more than
    /// once.
    ///
    /// # Errors
    /// Those of mio's waker.
    pub fn stop(&self) -> io::Result<()> {
        self.wanted.store(true, Ordering::Release);
        self.waker.wake()
    }

    pub(crate) fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }
}

/// Reason why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The drain is over: every connection was given its answers, or the time was over.
    Drained {
        /// Number of connections that were still owed something at the deadline of the drain.
        cut_off: usize,
    },
    /// An event source ended the run at once.
    Stopped {
        /// Status that it gave.
        status: u8,
    },
}

/// What a run did. All its connections are closed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunSummary {
    /// Reason why the run ended.
    pub stop_reason: StopReason,
    /// Counters of the server.
    pub counters: Counters,
    /// Counters of its event sources.
    pub source_counters: Vec<SourceCounter>,
}

/// Line of all counters, for logs.
impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.counters)?;
        self.source_counters.iter().try_for_each(|counter| write!(f, " {counter}"))
    }
}

/// A run that failed: its poll did, or an event source.
#[derive(Debug)]
#[non_exhaustive]
pub struct RunError {
    /// What failed.
    pub error: io::Error,
    /// Counters of the server until then. Boxed, since every caller of a run passes this value on.
    pub counters: Box<Counters>,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the loop failed: {}", self.error)
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl From<RunError> for io::Error {
    fn from(e: RunError) -> io::Error {
        e.error
    }
}
