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

    /// Returns when the next snapshot is due, if the messages have begun.
    pub(super) fn next_at(&self, workload: &Workload) -> Option<Instant> {
        let start = workload.instant(workload.schedule.start()?);
        start.checked_add(self.interval?.checked_mul(self.sent + 1)?)
    }

    /// Sends the snapshot that is due. If the receiver is slow, it is dropped, and the load goes on.
    pub(super) fn send<C>(&mut self, connections: &Connections<C>) {
        self.sent += 1;
        let at = At::Interval(self.sent);
        let _ = self.receiver.try_send(self.snapshot(connections, at, connections.now.instant));
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
        let Workload { schedule, statistics, .. } = &connections.workload;
        let start = schedule.start().map_or(now, |start| connections.workload.instant(start));
        Snapshot {
            thread: self.thread,
            at,
            elapsed: now.saturating_duration_since(start),
            echoed: statistics.messages.returned,
            latency: statistics.latencies.latency(),
            connections: connections.clients.len() - connections.workload.connecting,
            errors: statistics.error_count(),
        }
    }
}
