//! The run in intervals.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use crate::load::results::histogram::{Histogram, Summary, micros};

/// What a run tells while it goes on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Update {
    /// The connections are made, and no message is due yet.
    Connecting(Connecting),
    /// An interval of the messages is over.
    Interval(Interval),
}

/// How far the connections are, before the messages begin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connecting {
    /// The time since the run began.
    pub elapsed: Duration,
    /// Number of connections that are to be made.
    pub requested: usize,
    /// Number of connections that are established.
    pub established: usize,
    /// Number of connects that have no answer yet. There may be more connections to make.
    pub in_progress: usize,
    /// Number of connections that failed.
    pub failed: u64,
    /// What failed, and how often.
    pub errors: BTreeMap<String, u64>,
}

/// What was measured in one interval by all loops, the warm-up included. It has a summary of the
/// latency and not its histogram, so that a run of many intervals takes little memory.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Interval {
    /// The time from the start of the messages to the end of the interval.
    pub elapsed: Duration,
    /// The length of the interval.
    pub length: Duration,
    /// Number of messages that came back in the interval.
    pub echoed: u64,
    /// The latency in the interval. `None` if no measured message came back.
    pub latency: Option<Summary>,
    /// The 99th percentile of the latency since the start, in microseconds, if a measured message came
    /// back.
    pub p99_so_far: Option<f64>,
    /// Number of connections that are established at the end of the interval.
    pub connections: usize,
    /// Number of connects that have no answer at the end of the interval.
    pub connecting: usize,
    /// Number of errors since the start.
    pub errors: u64,
}

impl Interval {
    /// Returns the number of messages a second.
    pub fn rate(&self) -> f64 {
        per_second(self.echoed, self.length)
    }
}

/// What one loop has measured since the start.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) thread: usize,
    pub(crate) at: At,
    pub(crate) elapsed: Duration,
    pub(crate) echoed: u64,
    pub(crate) latency: Histogram,
    /// Number of connections that are to be made.
    pub(crate) requested: usize,
    pub(crate) connections: usize,
    pub(crate) in_progress: usize,
    pub(crate) failed: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// When a snapshot was taken, in the order of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// After this number of intervals, before the messages began.
    Connecting(u32),
    /// After this number of intervals.
    Interval(u32),
    /// At the end of the loop.
    End,
}

/// Combines the snapshots of the loops: once all loops have reached an interval, the latest snapshots
/// make one [`Update`].
#[derive(Debug)]
pub(crate) struct Series {
    latest: Vec<Option<Snapshot>>,
    /// The state at the end of the interval before.
    at: At,
    elapsed: Duration,
    echoed: u64,
    errors: u64,
    latency: Histogram,
}

impl Series {
    pub(crate) fn new(threads: usize) -> Series {
        Series {
            latest: (0..threads).map(|_| None).collect(),
            at: At::Connecting(0),
            elapsed: Duration::ZERO,
            echoed: 0,
            errors: 0,
            latency: Histogram::new(),
        }
    }

    /// Takes a snapshot, and returns what it completes, if anything.
    pub(crate) fn add(&mut self, snapshot: Snapshot) -> Option<Update> {
        let thread = snapshot.thread;
        self.latest[thread] = Some(snapshot);
        let none = At::Connecting(0);
        let at = self.latest.iter().map(|s| s.as_ref().map_or(none, |s| s.at)).min()?;
        match at {
            At::Connecting(_) if at > self.at => {
                self.at = at;
                self.connecting().map(Update::Connecting)
            }
            At::Connecting(_) => None,
            At::Interval(_) | At::End => self.interval(at).map(Update::Interval),
        }
    }

    fn connecting(&self) -> Option<Connecting> {
        let snapshots = || self.latest.iter().flatten();
        let mut errors = BTreeMap::new();
        for (what, n) in snapshots().flat_map(|s| &s.errors) {
            *errors.entry(what.clone()).or_default() += n;
        }
        Some(Connecting {
            elapsed: snapshots().map(|s| s.elapsed).max()?,
            requested: snapshots().map(|s| s.requested).sum(),
            established: snapshots().map(|s| s.connections).sum(),
            in_progress: snapshots().map(|s| s.in_progress).sum(),
            failed: snapshots().map(|s| s.failed).sum(),
            errors,
        })
    }

    fn interval(&mut self, at: At) -> Option<Interval> {
        let snapshots = || self.latest.iter().flatten();
        // A loop that has ended, or is ahead, does not extend the interval of the others.
        let running = snapshots().filter(|s| s.at != At::End).map(|s| s.elapsed).min();
        let elapsed = running.or_else(|| snapshots().map(|s| s.elapsed).max())?;
        let echoed = snapshots().map(|s| s.echoed).sum();
        let errors = snapshots().flat_map(|s| s.errors.values()).sum();
        let nothing_new = at == At::End && (echoed, errors) == (self.echoed, self.errors);
        if at <= self.at || elapsed <= self.elapsed || nothing_new {
            return None;
        }
        let connections = snapshots().map(|s| s.connections).sum();
        let connecting = snapshots().map(|s| s.in_progress).sum();
        let mut so_far = Histogram::new();
        snapshots().for_each(|s| so_far.add(&s.latency));
        let mut latency = so_far.clone();
        latency.subtract(&self.latency);
        self.at = at;
        self.errors = errors;
        let interval = Interval {
            elapsed,
            length: elapsed.saturating_sub(mem::replace(&mut self.elapsed, elapsed)),
            echoed: echoed - mem::replace(&mut self.echoed, echoed),
            latency: latency.summary(),
            p99_so_far: (!so_far.is_empty()).then(|| micros(so_far.quantile(0.99))),
            connections,
            connecting,
            errors,
        };
        self.latency = so_far;
        Some(interval)
    }
}

/// Returns a count as a rate. In no time there is none.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(thread: usize, at: At, millis: u64, echoed: u64) -> Snapshot {
        let mut latency = Histogram::new();
        (0..echoed).for_each(|n| latency.record(1000 * (n + 1)));
        let elapsed = Duration::from_millis(millis);
        Snapshot {
            thread,
            at,
            elapsed,
            echoed,
            latency,
            requested: 8,
            connections: 5,
            in_progress: 2,
            failed: 1,
            errors: [("refused".to_owned(), 1)].into(),
        }
    }

    #[track_caller]
    fn interval(update: Option<Update>) -> Interval {
        match update {
            Some(Update::Interval(interval)) => interval,
            other => panic!("no interval: {other:?}"),
        }
    }

    #[test]
    fn an_interval_is_complete_once_all_loops_have_reached_it_and_all_add_up() {
        let mut series = Series::new(2);
        assert_eq!(series.add(snapshot(0, At::Interval(1), 100, 10)), None);
        let first = interval(series.add(snapshot(1, At::Interval(1), 101, 20)));
        assert_eq!((first.echoed, first.connections, first.connecting), (30, 10, 4));
        assert_eq!(first.length, Duration::from_millis(100));
        let max = first.latency.expect("a latency").max;
        assert!((20.0..20.1).contains(&max), "{max}");
        assert_eq!(series.add(snapshot(1, At::End, 150, 25)), None);
        let last = interval(series.add(snapshot(0, At::End, 170, 17)));
        assert_eq!(last.echoed, 12);
        assert_eq!(last.elapsed, Duration::from_millis(170));
        assert_eq!(first.echoed + last.echoed, 42);
        assert_eq!(first.length + last.length, last.elapsed);
    }

    #[test]
    fn what_comes_before_the_messages_is_told_apart_and_is_no_part_of_their_intervals() {
        let mut series = Series::new(2);
        assert_eq!(series.add(snapshot(0, At::Connecting(1), 100, 0)), None);
        let update = series.add(snapshot(1, At::Connecting(1), 101, 0));
        let Some(Update::Connecting(connecting)) = update else { panic!("{update:?}") };
        assert_eq!((connecting.requested, connecting.established), (16, 10));
        assert_eq!((connecting.in_progress, connecting.failed), (4, 2));
        assert_eq!(connecting.errors, [("refused".to_owned(), 2)].into());
        assert_eq!(series.add(snapshot(0, At::Interval(1), 50, 10)), None);
        let first = interval(series.add(snapshot(1, At::Interval(1), 50, 10)));
        assert_eq!((first.elapsed, first.length), (first.length, Duration::from_millis(50)));
        assert_eq!(first.echoed, 20);
    }

    #[test]
    fn an_interval_without_messages_has_no_latency() {
        let mut series = Series::new(1);
        let interval = interval(series.add(snapshot(0, At::Interval(1), 100, 0)));
        assert_eq!((interval.latency, interval.p99_so_far, interval.rate()), (None, None, 0.0));
        // Nothing has happened since: the end is no interval of its own.
        assert_eq!(series.add(snapshot(0, At::End, 130, 0)), None);
    }
}
