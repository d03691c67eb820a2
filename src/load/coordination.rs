//! What the loops of a run share: the start of the messages, an early end, and the outages of the server.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::load::clock::{Clock, Nanos};
use crate::load::lookup::Lookup;
use crate::load::outage::{Cost, OutageTracker};
use crate::load::plan::Plan;
use crate::net::waker::Waker;

/// The state that the loops share. They only meet at the start, at an early end, and where a connection is
/// lost.
#[derive(Debug)]
pub(crate) struct Coordination {
    pub(crate) clock: Clock,
    pub(crate) lookup: Lookup,
    /// Number of loops that are not ready to start.
    not_ready: AtomicUsize,
    start: OnceLock<Nanos>,
    stopped: AtomicBool,
    /// Number of connections whose first connect has not failed.
    not_failed: AtomicUsize,
    /// Whether the server has ever been there.
    reached: AtomicBool,
    outages: Mutex<OutageTracker>,
    /// Whether there is an outage, and all connections that were lost in it are replaced.
    are_all_up: AtomicBool,
    /// One waker a loop.
    wakers: Vec<Waker>,
}

impl Coordination {
    pub(crate) fn new(plan: &Plan, wakers: Vec<Waker>) -> Coordination {
        Coordination {
            clock: Clock::start(),
            lookup: Lookup::new(plan.name.clone()),
            not_ready: AtomicUsize::new(wakers.len()),
            start: OnceLock::new(),
            stopped: AtomicBool::new(false),
            not_failed: AtomicUsize::new(plan.connections),
            reached: AtomicBool::new(false),
            outages: Mutex::default(),
            are_all_up: AtomicBool::new(false),
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

    /// Reports that the server is there.
    pub(crate) fn reached(&self) {
        if !self.reached.swap(true, Ordering::AcqRel) {
            self.wake_all();
        }
    }

    /// Returns whether the server has ever been there.
    pub(crate) fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Acquire)
    }

    /// Reports that a connection could not be made, for the first time.
    pub(crate) fn first_connect_failed(&self) {
        if self.not_failed.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_all();
        }
    }

    /// Returns whether every connection has failed and the server was never there.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.not_failed.load(Ordering::Acquire) == 0 && !self.is_reached()
    }

    /// An established connection was lost; see [`OutageTracker::lost`].
    pub(crate) fn lost(&self, since: Nanos, messages: u64) -> usize {
        let mut outages = self.outages();
        let number = outages.lost(since, messages);
        self.publish(&outages);
        number
    }

    /// A lost connection was replaced; see [`OutageTracker::replaced`].
    pub(crate) fn replaced(&self) {
        let mut outages = self.outages();
        outages.replaced();
        self.publish(&outages);
    }

    /// A message came back that ends an outage; see [`OutageTracker::echoed`].
    pub(crate) fn echoed(&self, outage: Option<usize>, now: Nanos) {
        let mut outages = self.outages();
        outages.echoed(outage, now);
        self.publish(&outages);
    }

    /// Returns whether there is an outage, and all connections that were lost in it are replaced.
    pub(crate) fn are_all_up(&self) -> bool {
        self.are_all_up.load(Ordering::Acquire)
    }

    /// Adds to what an outage cost.
    pub(crate) fn add_cost(&self, outage: usize, cost: Cost) {
        self.outages().add(outage, cost);
    }

    pub(crate) fn outages(&self) -> MutexGuard<'_, OutageTracker> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, outages: &OutageTracker) {
        self.are_all_up.store(outages.are_all_up(), Ordering::Release);
    }

    fn wake_all(&self) {
        for waker in &self.wakers {
            // This fails only if the poll is closed. Its loop has then ended.
            let _ = waker.wake();
        }
    }
}
