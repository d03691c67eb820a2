//! Sleeping to the microsecond.
//!
//! A poll's timeout is in milliseconds (`epoll_wait(2)`), a message's due time is not: at 20,000
//! messages a second twenty would leave at once, the first of them a millisecond late. Over epoll a
//! timer that is a file wakes the poll in time; elsewhere the timeout has to do. (Mio's poll(2) would
//! announce the timer once: it arms a file again only after a would-block, and we never read it.)

#[cfg(not(all(target_os = "linux", not(mio_unsupported_force_poll_poll))))]
pub(crate) use timeout::Alarm;
#[cfg(all(target_os = "linux", not(mio_unsupported_force_poll_poll)))]
pub(crate) use timer::Alarm;

#[cfg(all(target_os = "linux", not(mio_unsupported_force_poll_poll)))]
mod timer {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::Duration;

    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

    use crate::load::client::Nanos;
    use crate::load::clock::Clock;

    /// `timerfd_create(2)`. Edge-triggered, each expiry is an event, and nothing need be read.
    pub(crate) struct Alarm {
        timer: TimerFd,
        /// For when it was set last. Past that time it does no harm.
        armed: Option<Nanos>,
    }

    impl Alarm {
        pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Alarm> {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            let fd = timer.as_fd().as_raw_fd();
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            Ok(Alarm { timer, armed: None })
        }

        /// Wakes the poll at a time to come. What is left for the poll's own timeout: nothing.
        pub(crate) fn set(&mut self, clock: &Clock, at: Nanos) -> io::Result<Option<Duration>> {
            if self.armed != Some(at) {
                let time = Expiration::OneShot(TimeSpec::from_duration(clock.monotonic(at)));
                self.timer.set(time, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
                self.armed = Some(at);
            }
            Ok(None)
        }
    }
}

#[cfg(not(all(target_os = "linux", not(mio_unsupported_force_poll_poll))))]
mod timeout {
    use std::io;
    use std::time::Duration;

    use mio::{Registry, Token};

    use crate::load::client::Nanos;
    use crate::load::clock::Clock;

    pub(crate) struct Alarm;

    impl Alarm {
        pub(crate) fn new(_: &Registry, _: Token) -> io::Result<Alarm> {
            Ok(Alarm)
        }

        pub(crate) fn set(&mut self, clock: &Clock, at: Nanos) -> io::Result<Option<Duration>> {
            Ok(Some(Duration::from_nanos(at.saturating_sub(clock.now()))))
        }
    }
}
