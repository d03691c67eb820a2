//! Sends snapshots of a loop, one an interval.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crate::load::results::series::{At, Snapshot};

/// When the next snapshot is due, and where it goes.
#[derive(Debug)]
pub(crate) struct Reporter {
    thread: usize,
    interval: Option<Duration>,
    /// Number of snapshots that were due.
    sent: u32,
    receiver: SyncSender<Snapshot>,
}

impl Reporter {
    pub(crate) fn new(
        thread: usize,
        interval: Option<Duration>,
        receiver: SyncSender<Snapshot>,
    ) -> Reporter {
        Reporter { thread, interval, sent: 0, receiver }
    }

    /// Returns when the next snapshot is due, if the messages began at `start`.
    pub(super) fn next_at(&self, start: Instant) -> Option<Instant> {
        start.checked_add(self.interval?.checked_mul(self.sent + 1)?)
    }

    /// Sends the snapshot that is due. If the receiver is slow, it is dropped, and the load goes on.
    pub(super) fn send(&mut self, snapshot: impl FnOnce(usize, At) -> Snapshot) {
        self.sent += 1;
        let _ = self.receiver.try_send(snapshot(self.thread, At::Interval(self.sent)));
    }

    /// Sends the last snapshot, if there are intervals. It waits for a slow receiver, since the load has
    /// ended.
    pub(super) fn send_last(&self, snapshot: impl FnOnce(usize, At) -> Snapshot) {
        if self.interval.is_some() {
            // A receiver that is gone has no use for it.
            let _ = self.receiver.send(snapshot(self.thread, At::End));
        }
    }
}
