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

    /// `timerfd_create(2)`. Edge-triggered, each expiry is an event, and nothing need be read.
    pub(crate) struct Alarm(TimerFd);

    impl Alarm {
        pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Alarm> {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            let fd = timer.as_fd().as_raw_fd();
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            Ok(Alarm(timer))
        }

        /// Wakes the poll `wait` from now. What is left for the poll's own timeout: nothing.
        pub(crate) fn set(&self, wait: Duration) -> io::Result<Option<Duration>> {
            // Zero would disarm it.
            let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
            self.0.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())?;
            Ok(None)
        }
    }
}

#[cfg(not(all(target_os = "linux", not(mio_unsupported_force_poll_poll))))]
mod timeout {
    use std::io;
    use std::time::Duration;

    use mio::{Registry, Token};

    pub(crate) struct Alarm;

    impl Alarm {
        pub(crate) fn new(_: &Registry, _: Token) -> io::Result<Alarm> {
            Ok(Alarm)
        }

        pub(crate) fn set(&self, wait: Duration) -> io::Result<Option<Duration>> {
            Ok(Some(wait))
        }
    }
}
