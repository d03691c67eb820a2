//! What a loop itself uses, to tell whether the load tester was the limit.

use std::fs;
use std::ops::{Add, Sub};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::load::clock::monotonic;

/// Times of one thread, or sums of several.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Time in which the thread was runnable but had no processor.
    pub(crate) waited: Duration,
    /// Time that passed.
    pub(crate) wall: Duration,
}

impl Usage {
    /// Returns what this thread has used so far. Only a difference of two values means anything.
    pub(crate) fn of_this_thread() -> Usage {
        #[cfg(target_os = "linux")]
        let who = UsageWho::RUSAGE_THREAD;
        #[cfg(not(target_os = "linux"))]
        let who = UsageWho::RUSAGE_SELF;
        let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
        let cpu = getrusage(who)
            .map_or(0, |usage| micros(usage.user_time()) + micros(usage.system_time()));
        // Time on the processor, time waiting for it (in nanoseconds), and turns; only on Linux.
        let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited = schedstat.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        Usage {
            cpu: Duration::from_micros(cpu),
            waited: Duration::from_nanos(waited),
            wall: Duration::from_nanos(monotonic()),
        }
    }

    /// Returns the part of the time in which the thread used a processor.
    pub(crate) fn used(&self) -> f64 {
        self.part(self.cpu)
    }

    /// Returns the part of the time in which the thread used a processor or waited for one.
    pub(crate) fn demand(&self) -> f64 {
        self.part(self.cpu + self.waited)
    }

    /// The clocks of the system are not all as fine: a part is never more than the whole.
    fn part(&self, time: Duration) -> f64 {
        (time.as_secs_f64() / self.wall.as_secs_f64().max(f64::MIN_POSITIVE)).min(1.0)
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
