//! The pauses of the load tester itself: while its loop is stopped or has no processor, no message is sent or
//! received, and the server is not to blame.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use crate::load::clock::Nanos;

/// The longest wait that a loop asks for. A wait that is longer than it was asked for is a gap, and one that
/// could have lasted for ever would never be too long.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The shortest gap that counts.
const SHORTEST: Duration = Duration::from_millis(10);

/// Number of gaps that are remembered for messages in flight.
const REMEMBERED: usize = 64;

/// The gaps between the turns of one loop.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// The longest one in the measured time.
    pub(crate) longest: Duration,
    /// The sum of those in the measured time.
    pub(crate) sum: Duration,
    /// The latest ones, with their ends.
    latest: VecDeque<(Instant, Duration)>,
}

impl Gaps {
    /// Takes a turn that began at `now`, and should have begun at `latest`, or a tick after `previous`, the
    /// turn before it. A loop that had work to do at once has a tick for it. Returns the gap, if it counts. `measured_from` is when the measured time begins.
    pub(super) fn turn(
        &mut self,
        (previous, now): (Instant, Instant),
        latest: Option<Instant>,
        measured_from: Option<Instant>,
    ) -> Option<Duration> {
        let tick = previous + TICK;
        let expected = latest.filter(|&latest| latest > previous).map_or(tick, |at| at.min(tick));
        let gap = now.saturating_duration_since(expected);
        if gap < SHORTEST {
            return None;
        }
        if self.latest.len() == REMEMBERED {
            self.latest.pop_front();
        }
        self.latest.push_back((now, gap));
        if let Some(from) = measured_from {
            let measured = gap.min(now.saturating_duration_since(from));
            self.longest = self.longest.max(measured);
            self.sum += measured;
        }
        Some(gap)
    }

    /// Returns how much of the time since `since` were gaps.
    pub(super) fn since(&self, since: Instant) -> Duration {
        let later = self.latest.iter().rev().take_while(|(end, _)| *end > since);
        later.map(|&(end, gap)| gap.min(end.saturating_duration_since(since))).sum()
    }
}

/// What else can take a machine's time away, as far as its clocks show it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Time in which the machine was suspended.
    suspended: Nanos,
    /// Processor time that a hypervisor gave to others, and all of it, in ticks.
    stolen: Option<(u64, u64)>,
}

impl Machine {
    /// Returns the state now. Only a difference of two means anything.
    pub(crate) fn now() -> Machine {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Machine { suspended: suspended(), stolen: stolen(&stat) }
    }

    /// Returns how long the machine was suspended since an earlier state.
    pub(crate) fn suspended_since(&self, earlier: &Machine) -> Duration {
        let suspended = Duration::from_nanos(self.suspended.saturating_sub(earlier.suspended));
        if suspended < READING { Duration::ZERO } else { suspended }
    }

    /// Returns the part of the machine's processor time that was stolen since an earlier state.
    pub(crate) fn stolen_since(&self, earlier: &Machine) -> Option<f64> {
        let ((stolen, all), (stolen_before, all_before)) = (self.stolen?, earlier.stolen?);
        let (stolen, all) = (stolen.saturating_sub(stolen_before), all.saturating_sub(all_before));
        (all > 0).then(|| stolen as f64 / all as f64)
    }
}

/// The two clocks are read one after the other. What is shorter than this is no suspension.
const READING: Duration = Duration::from_millis(10);

/// The clock that goes on while the machine is suspended, less the one that does not.
#[cfg(target_os = "linux")]
fn suspended() -> Nanos {
    use rustix::time::{ClockId, clock_gettime};

    let time = clock_gettime(ClockId::Boottime);
    let boot = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
    boot.saturating_sub(crate::load::clock::monotonic())
}

#[cfg(not(target_os = "linux"))]
fn suspended() -> Nanos {
    0
}

/// The first line of `/proc/stat` (see `proc_stat(5)`): `cpu`, then ticks of user, nice, system, idle, iowait, irq,
/// softirq and steal. The times of guests behind them are part of user and nice.
fn stolen(stat: &str) -> Option<(u64, u64)> {
    let ticks = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = ticks.split_whitespace().map_while(|n| n.parse().ok()).take(8).collect();
    Some((*ticks.get(7)?, ticks.iter().fold(0, |sum: u64, n| sum.saturating_add(*n))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_turn_that_comes_later_than_it_was_asked_for_is_a_gap() {
        let start = Instant::now();
        for (until, now, gap) in [
            // The loop asked for less than a tick, for more, and for no end.
            (Some(5), 2005, Some(2000)),
            (Some(500), 2020, Some(2000)),
            (None, 2020, Some(2000)),
            // It has work: a tick is for that.
            (Some(0), 29, None),
            (Some(0), 520, Some(500)),
            // In time, or late by less than what counts.
            (None, 20, None),
            (Some(5), 14, None),
            (Some(5), 5, None),
        ] {
            let mut gaps = Gaps::default();
            let until = until.map(|until| start + until * MS);
            let found = gaps.turn((start, start + now * MS), until, Some(start));
            assert_eq!(found, gap.map(|gap| gap * MS), "{until:?} {now}");
            assert_eq!(gaps.longest, found.unwrap_or_default());
        }
    }

    #[test]
    fn what_was_in_flight_is_spared_the_gaps_since_it_was_sent() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        let mut turn = |from: u32, to: u32| {
            gaps.turn((start + from * MS, start + to * MS), None, Some(start + 50 * MS));
        };
        turn(0, 120);
        turn(120, 130);
        turn(130, 350);
        assert_eq!((gaps.longest, gaps.sum), (200 * MS, 270 * MS));
        assert_eq!(gaps.since(start), 300 * MS);
        assert_eq!(gaps.since(start + 125 * MS), 200 * MS);
        assert_eq!(gaps.since(start + 300 * MS), 50 * MS);
        assert_eq!(gaps.since(start + 350 * MS), Duration::ZERO);
    }

    #[test]
    fn stolen_time_is_a_part_of_all_processor_time() {
        let at = |text: &str| Machine { suspended: 0, stolen: stolen(text) };
        let before = at("cpu  100 0 50 800 10 5 5 30 7 0\ncpu0 1 2 3\n");
        let after = at("cpu  150 0 50 820 10 5 5 60 9 0\ncpu0 1 2 3\n");
        assert_eq!(after.stolen_since(&before), Some(0.3));
        for text in ["", "cpu", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8"] {
            assert_eq!(at(text).stolen_since(&before), None, "{text}");
        }
    }

    #[test]
    fn a_suspended_machine_shows_in_the_difference_of_two_clocks() {
        let at = |suspended| Machine { suspended, stolen: None };
        let hour = Duration::from_secs(3600);
        let after = at(5 + 3_600_000_000_000);
        assert_eq!(after.suspended_since(&at(5)), hour);
        assert_eq!(at(900).suspended_since(&at(5)), Duration::ZERO);
        assert!(Machine::now().suspended_since(&Machine::now()).is_zero());
    }
}
