//! Deadlines: which connection is due next.
//!
//! A socket whose peer vanished says nothing, so a server must sometimes act because nothing happened.
//! The loop does not wake up now and then to look. It asks here how long it may sleep: exactly until
//! the earliest deadline. This file reads no clock; the caller passes the time.
//!
//! An entry is a time before which its connection need not be looked at. Traffic only moves a deadline
//! further away, so traffic does not touch the queue: a connection that comes up and has moved since is
//! put back with its later time. A busy connection is put back once per timeout, however busy it is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Deadlines of things that have small integer keys, at most one deadline a key.
#[derive(Debug, Default)]
pub struct Deadlines {
    in_order: BTreeSet<(Instant, usize)>,
    by_key: Vec<Option<Instant>>,
}

impl Deadlines {
    /// Sets the deadline of `key`, in place of its previous one. `None` is never.
    pub fn schedule(&mut self, key: usize, at: Option<Instant>) {
        if let Some(previous) = self.by_key.get_mut(key).and_then(Option::take) {
            self.in_order.remove(&(previous, key));
        }
        let Some(at) = at else { return };
        if self.by_key.len() <= key {
            self.by_key.resize(key + 1, None);
        }
        self.by_key[key] = Some(at);
        self.in_order.insert((at, key));
    }

    /// Returns the earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|&(at, _)| at)
    }

    /// Removes the earliest deadline if it is due at `now`, and returns its key.
    pub fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let &(at, key) = self.in_order.first()?;
        if at > now {
            return None;
        }
        self.schedule(key, None);
        Some(key)
    }
}

/// Returns the time `wait` after `start`. `None` is never, also for a time that the clock cannot
/// express.
pub fn after(start: Instant, wait: Option<Duration>) -> Option<Instant> {
    start.checked_add(wait?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_comes_first_and_none_before_its_time() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        for (key, seconds) in [(0, 3), (7, 1), (4, 2)] {
            deadlines.schedule(key, after(start, Some(SECOND * seconds)));
        }
        assert_eq!(deadlines.next(), Some(start + SECOND));
        assert_eq!(deadlines.pop_due(start), None);
        let order: Vec<_> = std::iter::from_fn(|| deadlines.pop_due(start + 2 * SECOND)).collect();
        assert_eq!(order, [7, 4]);
        assert_eq!(deadlines.next(), Some(start + 3 * SECOND));
    }

    #[test]
    fn a_key_has_one_deadline_the_last_one_set() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.schedule(1, Some(start));
        deadlines.schedule(1, Some(start + SECOND));
        assert_eq!(deadlines.pop_due(start), None);
        assert_eq!(deadlines.pop_due(start + SECOND), Some(1));
        deadlines.schedule(1, Some(start));
        deadlines.schedule(1, None);
        assert_eq!((deadlines.next(), deadlines.pop_due(start + SECOND)), (None, None));
    }

    #[test]
    fn a_wait_beyond_the_clock_is_never_not_a_panic() {
        assert_eq!(after(Instant::now(), Some(Duration::MAX)), None);
        assert_eq!(after(Instant::now(), None), None);
    }
}
