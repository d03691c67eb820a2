//! What the loops of a run share: the start of the messages, and an early end.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::load::clock::{Clock, Nanos};
use crate::net::waker::Waker;

/// The state that the loops share. They only meet at the start and at an early end.
#[derive(Debug)]
pub(crate) struct Coordination {
    pub(crate) clock: Clock,
    /// Number of loops that are not ready to start.
    not_ready: AtomicUsize,
    start: OnceLock<Nanos>,
    stopped: AtomicBool,
    /// One waker a loop.
    wakers: Vec<Waker>,
}

impl Coordination {
    pub(crate) fn new(wakers: Vec<Waker>) -> Coordination {
        Coordination {
            clock: Clock::start(),
            not_ready: AtomicUsize::new(wakers.len()),
            start: OnceLock::new(),
            stopped: AtomicBool::new(false),
            wakers,
        }
    }

    /// Reports that a loop is ready to start. The last loop starts the messages of all.
    pub(crate) fn ready(&self) {
        let before = self.not_ready.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a loop was ready twice");
        if before == 1 {
            self.start.get_or_init(|| self.clock.now());
            self.wake_all();
        }
    }

    /// Returns when the messages begin, once all loops are ready.
    pub(crate) fn start(&self) -> Option<Nanos> {
        self.start.get().copied()
    }

    /// Ends all loops early.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn wake_all(&self) {
        for waker in &self.wakers {
            // This fails only if the poll is closed. Its loop has then ended.
            let _ = waker.wake();
        }
    }
}
