//! Keepalives to the service manager, which restarts a service whose loop hangs.

use std::io;
use std::time::{Duration, Instant};

use crate::net::deadline::after;
use crate::process::systemd::ServiceManager;
use crate::server::source::{Action, EventSource, LoopHandle, Notification};
use crate::server::warnings::RateLimitedWarning;

/// Sends `WATCHDOG=1` from the loop, so that it stops when the loop does. See `sd_watchdog_enabled(3)`.
#[derive(Debug)]
pub struct Watchdog {
    manager: ServiceManager,
    /// The manager waits for twice as long.
    interval: Duration,
    next: Option<Instant>,
    warning: RateLimitedWarning,
}

impl Watchdog {
    /// Makes the source. The manager gives the service up after `time` without a keepalive; the first one
    /// comes at `now`.
    pub fn new(manager: ServiceManager, time: Duration, now: Instant) -> Watchdog {
        let warning = RateLimitedWarning::default();
        Watchdog { manager, interval: time / 2, next: Some(now), warning }
    }
}

impl EventSource for Watchdog {
    fn register(&mut self, _: &LoopHandle<'_>) -> io::Result<()> {
        Ok(())
    }

    fn notify(&mut self, what: Notification, handle: &LoopHandle<'_>) -> io::Result<Action> {
        if let Notification::Due = what {
            let interval = match self.manager.keepalive() {
                Ok(()) => self.interval,
                Err(e) => {
                    let warning =
                        format_args!("cannot send a keepalive to the service manager: {e}");
                    self.warning.warn(handle.now, warning);
                    // It is tried again while there is time.
                    self.interval / 8
                }
            };
            self.next = after(handle.now, Some(interval));
        }
        Ok(Action::Continue)
    }

    fn due(&self) -> Option<Instant> {
        self.next
    }
}
