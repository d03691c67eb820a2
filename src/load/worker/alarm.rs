//! Waiting to the microsecond.
//!
//! The timeout of a poll is in milliseconds (`epoll_wait(2)`), but messages are due between them: at
//! 20,000 messages a second, twenty would be sent together, the first of them a millisecond late. Over
//! epoll, a timer file descriptor ends the wait in time. Elsewhere the timeout has to do: mio's
//! poll(2) would report the timer once, because mio arms a descriptor again only after a call that
//! would block, and nothing reads the timer.

#[cfg(not(all(target_os = "linux", not(mio_unsupported_force_poll_poll))))]
pub(super) use timeout::Alarm;
#[cfg(all(target_os = "linux", not(mio_unsupported_force_poll_poll)))]
pub(super) use timer::Alarm;

#[cfg(all(target_os = "linux", not(mio_unsupported_force_poll_poll)))]
mod timer {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::Instant;

    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    use crate::load::clock::{Clock, Nanos};

    /// A timer of `timerfd_create(2)`. Edge-triggered, every expiry is an event, and nothing needs to be
    /// read.
    #[derive(Debug)]
    pub(crate) struct Alarm {
        timer: OwnedFd,
        /// The time that was set last.
        armed: Option<Nanos>,
    }

    impl Alarm {
        pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Alarm> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Alarm { timer, armed: None })
        }

        /// Makes the poll return at a time, and returns the deadline that the poll itself needs for
        /// that: none.
        pub(crate) fn set(&mut self, clock: &Clock, at: Nanos) -> io::Result<Option<Instant>> {
            if self.armed != Some(at) {
                let once = Itimerspec {
                    it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                    it_value: Timespec::try_from(clock.monotonic(at)).map_err(io::Error::other)?,
                };
                timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
                self.armed = Some(at);
            }
            Ok(None)
        }
    }
}

#[cfg(not(all(target_os = "linux", not(mio_unsupported_force_poll_poll))))]
#[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "it stands in for the timer")]
mod timeout {
    use std::io;
    use std::time::Instant;

    use mio::{Registry, Token};

    use crate::load::clock::{Clock, Nanos};

    /// No timer: the poll itself needs a deadline.
    #[derive(Debug)]
    pub(crate) struct Alarm;

    impl Alarm {
        pub(crate) fn new(_: &Registry, _: Token) -> io::Result<Alarm> {
            Ok(Alarm)
        }

        pub(crate) fn set(&mut self, clock: &Clock, at: Nanos) -> io::Result<Option<Instant>> {
            Ok(Some(clock.instant(at)))
        }
    }
}
