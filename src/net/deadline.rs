//! Deadlines: which connection is due next.
//!
//! A socket whose peer vanished says nothing, so a server must sometimes act because nothing happened.
//! The loop does not wake up now and then to look. It asks here how long it may sleep: exactly until
//! the earliest deadline. This file reads no clock; the caller passes the time.
//!
//! An entry is a time before which its connection need not be looked at. Traffic only moves a deadline
//! further away, so traffic does not touch the queue: a connection that comes up and has moved since is
//! put back with its later time. A busy connection is put back once per timeout, however busy it is.

use std::time::{Duration, Instant};

use crate::net::memory;

/// Position of a key without a deadline.
const NONE: usize = usize::MAX;

/// Deadlines of things that have small integer keys, at most one deadline a key.
///
/// They are a binary heap that knows where each key is, so that a deadline can be moved. It is two vectors,
/// for which [`reserve`](Deadlines::reserve) can make room beforehand: where memory is short, to schedule
/// must not fail.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: Vec<(Instant, usize)>,
    /// Position in the heap, by key.
    position: Vec<usize>,
}

impl Deadlines {
    /// Number of bytes that a key may take.
    pub(crate) const BYTES_PER_KEY: usize = size_of::<(Instant, usize)>() + size_of::<usize>();

    /// Makes room for keys below `keys`.
    pub fn reserve(&mut self, keys: usize) {
        memory::reserve(&mut self.heap, keys);
        memory::reserve(&mut self.position, keys);
    }

    /// Sets the deadline of `key`, in place of its previous one. `None` is never.
    pub fn schedule(&mut self, key: usize, at: Option<Instant>) {
        let position = self.position.get(key).copied().unwrap_or(NONE);
        match at {
            None if position == NONE => {}
            None => self.remove(position),
            Some(at) if position == NONE => self.insert(key, at),
            Some(at) => {
                self.heap[position].0 = at;
                self.settle(position);
            }
        }
    }

    /// Returns the earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// Removes the earliest deadline if it is due at `now`, and returns its key.
    pub fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let &(at, key) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(0);
        Some(key)
    }

    fn insert(&mut self, key: usize, at: Instant) {
        if self.position.len() <= key {
            self.position.resize(key + 1, NONE);
        }
        self.position[key] = self.heap.len();
        self.heap.push((at, key));
        self.settle(self.heap.len() - 1);
    }

    fn remove(&mut self, position: usize) {
        let (_, key) = self.heap.swap_remove(position);
        self.position[key] = NONE;
        if position < self.heap.len() {
            self.settle(position);
        }
    }

    /// Moves an entry to where it belongs: no entry is earlier than the one above it, which is at half of
    /// its position.
    fn settle(&mut self, mut position: usize) {
        while position > 0 && self.heap[position] < self.heap[(position - 1) / 2] {
            self.swap(position, (position - 1) / 2);
            position = (position - 1) / 2;
        }
        loop {
            let below = (2 * position + 1)..(2 * position + 3).min(self.heap.len());
            let Some(earliest) = below.min_by_key(|&i| self.heap[i]) else { break };
            if self.heap[position] <= self.heap[earliest] {
                break;
            }
            self.swap(position, earliest);
            position = earliest;
        }
        self.position[self.heap[position].1] = position;
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.position[self.heap[one].1] = one;
        self.position[self.heap[other].1] = other;
    }
}

/// Returns the time `wait` after `start`. `None` is never, also for a time that the clock cannot
/// express.
pub fn after(start: Instant, wait: Option<Duration>) -> Option<Instant> {
    start.checked_add(wait?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
    fn whatever_is_scheduled_comes_in_its_order_and_none_is_lost() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.reserve(1000);
        let mut expected = BTreeSet::new();
        // A fixed sequence of numbers without order (a linear congruence).
        let mut number = 1_usize;
        for _ in 0..20_000 {
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (key, seconds) = ((number >> 33) % 1000, (number >> 50) % 500);
            expected.retain(|&(_, other)| other != key);
            let at = (number >> 60 != 0).then(|| start + Duration::from_secs(seconds as u64));
            expected.extend(at.map(|at| (at, key)));
            deadlines.schedule(key, at);
            assert_eq!(deadlines.next(), expected.first().map(|&(at, _)| at));
        }
        while let Some((at, key)) = expected.pop_first() {
            assert_eq!(deadlines.pop_due(at), Some(key));
        }
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn a_wait_beyond_the_clock_is_never_not_a_panic() {
        assert_eq!(after(Instant::now(), Some(Duration::MAX)), None);
        assert_eq!(after(Instant::now(), None), None);
    }
}
