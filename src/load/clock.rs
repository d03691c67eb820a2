//! The time of a run, in whole nanoseconds.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the start of the run's [`Clock`].
pub type Nanos = u64;

/// How often the two clocks are read at most to find one moment in both forms.
const READINGS: usize = 10;

/// One reading of the clock, as a time of a message and as a deadline.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time in nanoseconds since the start of the clock.
    pub nanos: Nanos,
    /// The same time as an instant.
    pub instant: Instant,
}

/// Monotonic time since the start of the clock. The time of a message is read, kept and subtracted as
/// one integer: with [`Instant`], time was a tenth of what the load tester does for a message.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: Instant,
    epoch_nanos: Nanos,
}

impl Clock {
    /// Returns a clock that starts now.
    pub fn start() -> Clock {
        // A thread can lose the processor between two readings. The closest pair is the best one.
        let reading = || {
            let (before, epoch, after) = (monotonic(), Instant::now(), monotonic());
            (after - before, Clock { epoch, epoch_nanos: before })
        };
        let mut best = reading();
        for _ in 1..READINGS {
            let other = reading();
            if other.0 < best.0 {
                best = other;
            }
        }
        best.1
    }

    /// Returns the time in nanoseconds since the start.
    pub fn now(&self) -> Nanos {
        monotonic().saturating_sub(self.epoch_nanos)
    }

    /// Returns an instant in both forms.
    pub fn moment(&self, instant: Instant) -> Moment {
        let nanos = instant.saturating_duration_since(self.epoch).as_nanos();
        Moment { nanos: Nanos::try_from(nanos).unwrap_or(Nanos::MAX), instant }
    }

    /// Returns a time as an instant.
    pub fn instant(&self, at: Nanos) -> Instant {
        self.epoch + at_most_a_century(at)
    }

    /// Returns a time as the kernel counts it, by `CLOCK_MONOTONIC`.
    pub fn monotonic(&self, at: Nanos) -> Duration {
        Duration::from_nanos(self.epoch_nanos) + at_most_a_century(at)
    }
}

/// A time beyond the range of an instant becomes one that no run reaches.
fn at_most_a_century(at: Nanos) -> Duration {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Duration::from_nanos(at).min(CENTURY)
}

/// Returns the time of `CLOCK_MONOTONIC`.
pub(crate) fn monotonic() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_moment_agree() {
        let clock = Clock::start();
        let before = clock.now();
        let moment = clock.moment(Instant::now());
        let after = clock.now();
        // The two forms were read some nanoseconds apart when the clock started.
        assert!((before.saturating_sub(1000)..=after + 1000).contains(&moment.nanos));
        assert_eq!(clock.instant(moment.nanos), moment.instant);
    }
}
