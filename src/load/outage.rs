//! Outages: from the first loss to the first echo behind it.
//!
//! An outage begins when a connection that was served is lost while there is no outage. Connections that are
//! lost later, while it lasts, belong to it. It ends with the first echo on a connection that was made to
//! replace one of them. Where nothing is due on those, it ends with the first echo of any message
//! after all of them were replaced. So it is the time in which nobody who was cut off was served, and a
//! replacement that a server's backlog holds, and that nobody answers, does not end it.

use std::time::Duration;

use serde::Serialize;

use crate::load::clock::Nanos;

/// Most outages that are listed. The others are only counted.
const LISTED: usize = 64;

/// One outage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// When it began, as a time since the messages began.
    pub from: Duration,
    /// How long it lasted: until the first echo, or until the end of the run.
    pub length: Duration,
    /// Whether it lasted until the end of the run.
    pub is_open: bool,
    /// What it cost.
    pub cost: Cost,
}

/// What an outage cost. Messages are counted if they were due in the measured time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// Number of connections that were lost, or could not be made where each has a number of messages.
    pub connections: u64,
    /// Number of messages that were in flight on them.
    pub lost: u64,
    /// Number of messages that waited for a new connection and were then sent.
    pub delayed: u64,
    /// Number of messages that could not be sent before the end.
    pub unsent: u64,
}

/// The outages of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outages {
    /// Number of outages.
    pub count: u64,
    /// The time of all of them together.
    pub total: Duration,
    /// The longest one.
    pub longest: Duration,
    /// The first of them, in order.
    pub list: Vec<Outage>,
}

/// Follows the outages while the loops run. Times are those of the run's clock.
#[derive(Debug, Default)]
pub(crate) struct OutageTracker {
    listed: Vec<(Nanos, Outage)>,
    /// Those that have ended.
    count: usize,
    total: Nanos,
    longest: Nanos,
    /// Since when there is an outage.
    open: Option<Nanos>,
    /// Number of connections that were lost and are not replaced yet.
    down: u64,
}

impl OutageTracker {
    /// An established connection was lost, and nothing had come from it since `since`. Returns the number of
    /// the outage.
    pub(crate) fn lost(&mut self, since: Nanos, messages: u64) -> usize {
        if self.open.is_none() {
            self.open = Some(since);
            if self.listed.len() < LISTED {
                self.listed.push((since, Outage::default()));
            }
        }
        self.open = self.open.map(|begun| begun.min(since));
        if let (Some(begun), Some(listed)) = (self.open, self.listed.get_mut(self.count)) {
            listed.0 = begun;
        }
        self.down += 1;
        self.add(self.count, Cost { connections: 1, lost: messages, ..Cost::default() });
        self.count
    }

    /// A lost connection was replaced, or is given up.
    pub(crate) fn replaced(&mut self) {
        self.down -= 1;
    }

    /// Returns whether there is an outage, and all connections that were lost are replaced.
    pub(crate) fn are_all_up(&self) -> bool {
        self.open.is_some() && self.down == 0
    }

    /// A message came back on a connection that replaces one of the outage with this number; `None`: on
    /// another one, after all were replaced.
    pub(crate) fn echoed(&mut self, number: Option<usize>, now: Nanos) {
        if number.map_or(self.are_all_up(), |number| number == self.count) {
            self.close(now, false);
        }
    }

    /// Adds to what an outage cost.
    pub(crate) fn add(&mut self, number: usize, more: Cost) {
        let Some((_, Outage { cost, .. })) = self.listed.get_mut(number) else { return };
        cost.connections += more.connections;
        cost.lost += more.lost;
        cost.delayed += more.delayed;
        cost.unsent += more.unsent;
    }

    /// Ends the open outage, if there is one.
    pub(crate) fn close(&mut self, now: Nanos, is_end_of_run: bool) {
        let Some(begun) = self.open.take() else { return };
        let length = now.saturating_sub(begun);
        if let Some((_, outage)) = self.listed.get_mut(self.count) {
            outage.length = Duration::from_nanos(length);
            outage.is_open = is_end_of_run;
        }
        self.count += 1;
        self.total += length;
        self.longest = self.longest.max(length);
    }

    /// Returns what a report has. `start` is when the messages began.
    pub(crate) fn outages(&self, start: Nanos) -> Outages {
        let listed = |&(begun, outage): &(Nanos, Outage)| {
            let from = Duration::from_nanos(begun.saturating_sub(start));
            Outage { from, ..outage }
        };
        Outages {
            count: self.count as u64,
            total: Duration::from_nanos(self.total),
            longest: Duration::from_nanos(self.longest),
            list: self.listed.iter().map(listed).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn an_outage_lasts_from_the_first_loss_to_the_first_echo_on_a_replacement() {
        let mut tracker = OutageTracker::default();
        let first = tracker.lost(100 * MS, 2);
        // One that timed out had said nothing for longer.
        assert_eq!(tracker.lost(90 * MS, 1), first);
        tracker.replaced();
        tracker.echoed(None, 505 * MS);
        tracker.echoed(Some(first), 510 * MS);
        tracker.add(first, Cost { delayed: 40, ..Cost::default() });
        // What comes back later on the other one is no news.
        tracker.replaced();
        tracker.echoed(Some(first), 610 * MS);
        let second = tracker.lost(700 * MS, 0);
        tracker.close(1000 * MS, true);

        assert_ne!(first, second);
        let outages = tracker.outages(10 * MS);
        let cost = Cost { connections: 2, lost: 3, delayed: 40, unsent: 0 };
        let millis = Duration::from_millis;
        let expected = [
            Outage { from: millis(80), length: millis(420), is_open: false, cost },
            Outage {
                from: millis(690),
                length: millis(300),
                is_open: true,
                cost: Cost { connections: 1, ..Cost::default() },
            },
        ];
        assert_eq!(outages.list, expected);
        assert_eq!((outages.count, outages.total), (2, millis(720)));
        assert_eq!(outages.longest, millis(420));
    }

    #[test]
    fn all_are_up_again_once_the_last_one_is_replaced_and_none_is_lost_since() {
        let mut tracker = OutageTracker::default();
        tracker.lost(1, 0);
        tracker.lost(2, 0);
        tracker.replaced();
        assert!(!tracker.are_all_up());
        tracker.replaced();
        assert!(tracker.are_all_up());
        tracker.lost(5, 0);
        assert!(!tracker.are_all_up());
        tracker.replaced();
        tracker.echoed(None, 9);
        assert!(!tracker.are_all_up());
        assert_eq!(tracker.outages(0).longest, Duration::from_nanos(8));
    }

    #[test]
    fn outages_without_end_take_bounded_memory_and_are_all_counted() {
        let mut tracker = OutageTracker::default();
        for n in 0..1000 {
            let number = tracker.lost(n * MS, 1);
            tracker.replaced();
            tracker.echoed(Some(number).filter(|_| n % 2 == 0), n * MS + n);
        }
        let outages = tracker.outages(0);
        assert_eq!((outages.count, outages.list.len()), (1000, LISTED));
        assert_eq!(outages.longest, Duration::from_nanos(999));
        assert_eq!(outages.total, Duration::from_nanos(499_500));
    }
}
