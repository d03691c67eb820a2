//! The run in intervals.

use std::mem;
use std::time::Duration;

use crate::load::results::histogram::{Histogram, Summary, micros};

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
    /// The 99th percentile of the latency since the start, in microseconds.
    pub p99_so_far: f64,
    /// Number of connections that are established at the end of the interval.
    pub connections: usize,
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
    pub(crate) connections: usize,
    pub(crate) errors: u64,
}

/// When a snapshot was taken. The end is later than every interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// After this number of intervals.
    Interval(u32),
    /// At the end of the loop.
    End,
}

/// Combines the snapshots of the loops: once all loops have reached an interval, the latest snapshots
/// make one [`Interval`].
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
            at: At::Interval(0),
            elapsed: Duration::ZERO,
            echoed: 0,
            errors: 0,
            latency: Histogram::new(),
        }
    }

    /// Takes a snapshot, and returns the interval that it completes, if any.
    pub(crate) fn add(&mut self, snapshot: Snapshot) -> Option<Interval> {
        let thread = snapshot.thread;
        self.latest[thread] = Some(snapshot);
        let snapshots = || self.latest.iter().flatten();
        let none = At::Interval(0);
        let at = self.latest.iter().map(|s| s.as_ref().map_or(none, |s| s.at)).min()?;
        // A loop that has ended, or is ahead, does not extend the interval of the others.
        let running = snapshots().filter(|s| s.at != At::End).map(|s| s.elapsed).min();
        let elapsed = running.or_else(|| snapshots().map(|s| s.elapsed).max())?;
        let echoed = snapshots().map(|s| s.echoed).sum();
        let errors = snapshots().map(|s| s.errors).sum();
        let nothing_new = at == At::End && (echoed, errors) == (self.echoed, self.errors);
        if at <= self.at || elapsed <= self.elapsed || nothing_new {
            return None;
        }
        let connections = snapshots().map(|s| s.connections).sum();
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
            latency: (!latency.is_empty()).then(|| latency.summary()),
            p99_so_far: micros(so_far.quantile(0.99)),
            connections,
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
        Snapshot { thread, at, elapsed, echoed, latency, connections: 5, errors: 0 }
    }

    #[test]
    fn an_interval_is_complete_once_all_loops_have_reached_it_and_all_add_up() {
        let mut series = Series::new(2);
        assert_eq!(series.add(snapshot(0, At::Interval(1), 100, 10)), None);
        let first = series.add(snapshot(1, At::Interval(1), 101, 20)).expect("an interval");
        assert_eq!((first.echoed, first.connections), (30, 10));
        assert_eq!(first.length, Duration::from_millis(100));
        let max = first.latency.expect("a latency").max;
        assert!((20.0..20.1).contains(&max), "{max}");
        assert_eq!(series.add(snapshot(1, At::End, 150, 25)), None);
        let last = series.add(snapshot(0, At::End, 170, 17)).expect("an interval");
        assert_eq!(last.echoed, 12);
        assert_eq!(last.elapsed, Duration::from_millis(170));
        assert_eq!(first.echoed + last.echoed, 42);
        assert_eq!(first.length + last.length, last.elapsed);
    }

    #[test]
    fn an_interval_without_messages_has_no_latency() {
        let mut series = Series::new(1);
        let interval = series.add(snapshot(0, At::Interval(1), 100, 0)).expect("an interval");
        assert_eq!((interval.latency, interval.rate()), (None, 0.0));
        // Nothing has happened since: the end is no interval of its own.
        assert_eq!(series.add(snapshot(0, At::End, 130, 0)), None);
    }
}
