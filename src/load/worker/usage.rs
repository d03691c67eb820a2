//! What a loop itself costs, so that it can be told when the generator was the limit.

use std::fs;
use std::ops::{Add, Sub};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// Times of one thread, or sums of several.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Time in which it could have run, but had no processor.
    pub(crate) waited: Duration,
    /// The time that went by.
    pub(crate) wall: Duration,
}

impl Usage {
    /// What this thread has used so far; only the difference of two means anything.
    pub(crate) fn of_this_thread() -> Usage {
        #[cfg(target_os = "linux")]
        let who = UsageWho::RUSAGE_THREAD;
        #[cfg(not(target_os = "linux"))]
        let who = UsageWho::RUSAGE_SELF;
        let cpu = getrusage(who).map_or(0, |usage| {
            usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
        });
        // Nanoseconds on the processor, nanoseconds waiting for one, turns; only Linux tells.
        let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited = schedstat.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        Usage {
            cpu: Duration::from_micros(u64::try_from(cpu).unwrap_or(0)),
            waited: Duration::from_nanos(waited),
            wall: clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from),
        }
    }
}

impl Usage {
    /// The part of the time that it used a processor, or wanted one.
    pub(crate) fn demand(&self) -> f64 {
        (self.cpu + self.waited).as_secs_f64() / self.wall.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            waited: self.waited.saturating_sub(earlier.waited),
            wall: self.wall.saturating_sub(earlier.wall),
        }
    }
}

impl Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage {
            cpu: self.cpu + other.cpu,
            waited: self.waited + other.waited,
            wall: self.wall + other.wall,
        }
    }
}
