//! Sends snapshots of a loop, one an interval.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crate::load::results::series::{At, Snapshot};
use crate::load::worker::connections::Connections;
use crate::load::worker::workload::Workload;

/// When the next snapshot is due, and where it goes.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) thread: usize,
    interval: Option<Duration>,
    /// When the last snapshot was due.
    last: At,
    receiver: SyncSender<Snapshot>,
}

impl Reporter {
    pub(crate) fn new(
        thread: usize,
        interval: Option<Duration>,
        receiver: SyncSender<Snapshot>,
    ) -> Reporter {
        Reporter { thread, interval, last: At::Connecting(0), receiver }
    }

    /// Returns when the next snapshot is due, if any.
    pub(super) fn next_at(&self, workload: &Workload) -> Option<Instant> {
        let (At::Connecting(n) | At::Interval(n)) = self.next(workload) else { return None };
        begin(workload).checked_add(self.interval?.checked_mul(n)?)
    }

    /// The intervals are counted anew when the messages begin.
    fn next(&self, workload: &Workload) -> At {
        match self.last {
            At::Connecting(n) if workload.schedule.start().is_none() => At::Connecting(n + 1),
            At::Connecting(_) => At::Interval(1),
            At::Interval(n) => At::Interval(n + 1),
            At::End => At::End,
        }
    }

    /// Sends the snapshot that is due. If the receiver is slow, it is dropped, and the load goes on.
    pub(super) fn send<C>(&mut self, connections: &Connections<C>) {
        self.last = self.next(&connections.workload);
        let now = connections.now.instant;
        let _ = self.receiver.try_send(self.snapshot(connections, self.last, now));
    }

    /// Sends the last snapshot, if there are intervals. It waits for a slow receiver, since the load has
    /// ended.
    pub(super) fn send_last<C>(&self, connections: &Connections<C>, now: Instant) {
        if self.interval.is_some() {
            // A receiver that is gone has no use for it.
            let _ = self.receiver.send(self.snapshot(connections, At::End, now));
        }
    }

    fn snapshot<C>(&self, connections: &Connections<C>, at: At, now: Instant) -> Snapshot {
        let workload = &connections.workload;
        let statistics = &workload.statistics;
        // A loop that ends before the messages begin has no part in their time.
        let is_part = at != At::End || workload.schedule.start().is_some();
        let begin = if is_part { begin(workload) } else { now };
        Snapshot {
            thread: self.thread,
            at,
            elapsed: now.saturating_duration_since(begin),
            echoed: statistics.messages.returned,
            latency: statistics.latencies.latency(),
            requested: workload.slots.len(),
            connections: connections.clients.len() - workload.connecting,
            in_progress: workload.connecting,
            failed: statistics.connections.failed,
            errors: statistics.errors.clone(),
        }
    }
}

/// Returns when the messages began, or the run, if they have not.
fn begin(workload: &Workload) -> Instant {
    workload.instant(workload.schedule.start().unwrap_or(0))
}
