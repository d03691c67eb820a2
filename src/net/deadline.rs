//! Who is due next.
//!
//! A socket that dies says nothing, so a server must sometimes act because nothing happened. Rather
//! than wake up now and then to look, the loop asks here how long it may sleep: exactly until the
//! next deadline. This file reads no clock; time is what it is told.
//!
//! An entry is a moment before which its connection need not be looked at. Traffic only ever moves a
//! deadline further away, so traffic need not touch the list: whoever comes up and has moved since is
//! put back with the later moment. A busy connection costs one entry a timeout, however busy it is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Deadlines of things that have small integer keys, at most one a key.
#[derive(Debug, Default)]
pub struct Deadlines {
    in_order: BTreeSet<(Instant, usize)>,
    by_key: Vec<Option<Instant>>,
}

impl Deadlines {
    /// `key` is due at `at`, in place of any moment given before; `None` is never.
    pub fn schedule(&mut self, key: usize, at: Option<Instant>) {
        if let Some(before) = self.by_key.get_mut(key).and_then(Option::take) {
            self.in_order.remove(&(before, key));
        }
        let Some(at) = at else { return };
        if self.by_key.len() <= key {
            self.by_key.resize(key + 1, None);
        }
        self.by_key[key] = Some(at);
        self.in_order.insert((at, key));
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|&(at, _)| at)
    }

    /// Takes out the earliest of those that are due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let &(at, key) = self.in_order.first()?;
        if at > now {
            return None;
        }
        self.schedule(key, None);
        Some(key)
    }
}

/// The moment `wait` after `start`; `None`, which is never, for one that the clock cannot express.
pub fn after(start: Instant, wait: Option<Duration>) -> Option<Instant> {
    start.checked_add(wait?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_comes_first_and_nobody_before_time() {
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
    fn a_key_has_one_deadline_the_last_one_told() {
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
