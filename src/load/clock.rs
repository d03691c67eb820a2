//! The time of a run, as plain nanoseconds.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::load::client::Nanos;

/// Monotonic time since the run's epoch. A message's time is read, kept and subtracted as one integer:
/// the same through [`Instant`] is a tenth of all that the load tester does for a message.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: Instant,
    epoch_nanos: Nanos,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Clock {
        Clock { epoch: Instant::now(), epoch_nanos: monotonic() }
    }

    /// Nanoseconds since the epoch.
    pub fn now(&self) -> Nanos {
        monotonic().saturating_sub(self.epoch_nanos)
    }

    /// The same moment as a deadline has it.
    pub fn instant(&self, at: Nanos) -> Instant {
        self.epoch + within_a_century(at)
    }

    /// The same moment as the kernel has it, by `CLOCK_MONOTONIC`.
    pub fn monotonic(&self, at: Nanos) -> Duration {
        Duration::from_nanos(self.epoch_nanos) + within_a_century(at)
    }
}

/// Beyond the clock is as late as it gets; nothing is ever due then.
fn within_a_century(at: Nanos) -> Duration {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Duration::from_nanos(at).min(CENTURY)
}

fn monotonic() -> Nanos {
    // It fails only for a clock that the system does not have.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned()
    })
}
