//! Waking a poll from another thread.
//!
//! This is the self-pipe trick: one end of a socket pair is registered with the poll, and any thread can
//! write a byte to the other end. Mio has a waker of its own, but over poll(2) it loses a wake-up that
//! comes while a socket is being registered or closed, and a poll may have only one.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use crate::net::failure::cannot;
use crate::net::nonblocking::{Received, recv, send};

/// The end for other threads. All clones wake the same poll.
#[derive(Debug, Clone)]
pub struct Waker(Arc<UnixStream>);

/// The end for the loop. It is registered with the poll.
#[derive(Debug)]
pub struct Wakeups(UnixStream);

/// Makes a waker. The poll reports its wake-ups with this token.
///
/// # Errors
/// Those of socketpair(2) and of the registry, for example no more files. They say what could not be made.
pub fn waker(registry: &Registry, token: Token) -> io::Result<(Waker, Wakeups)> {
    let pair = UnixStream::pair().and_then(|(ours, mut theirs)| {
        registry.register(&mut theirs, token, Interest::READABLE)?;
        Ok((Waker(Arc::new(ours)), Wakeups(theirs)))
    });
    pair.map_err(|e| cannot("make a socket pair to wake the loop", &e))
}

impl Waker {
    /// Wakes the poll. It does nothing if the loop has ended.
    ///
    /// # Errors
    /// Those of send(2), except those that only say that the loop has ended.
    pub fn wake(&self) -> io::Result<()> {
        match send(&mut &*self.0, &[1]) {
            // If the pair is full, there are wake-ups that the loop has not seen yet.
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

impl Wakeups {
    /// Takes all wake-ups, so that the next one is an edge again.
    pub fn take(&mut self) {
        let mut bytes = [0; 64];
        while let Ok(Received::Bytes(_)) = recv(&mut self.0, &mut bytes) {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn a_wake_up_is_an_event_however_often_it_was_asked_for() {
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(4));
        let (waker, mut wakeups) = waker(poll.registry(), Token(7)).unwrap();
        for _ in 0..3 {
            // More than the pair can hold.
            (0..10_000).for_each(|_| waker.wake().unwrap());
            poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            assert!(events.iter().any(|event| event.token() == Token(7)));
            wakeups.take();
        }
    }

    #[test]
    fn a_wake_up_after_the_loop_has_ended_is_no_error() {
        let poll = Poll::new().unwrap();
        let (waker, wakeups) = waker(poll.registry(), Token(7)).unwrap();
        drop((poll, wakeups));
        waker.wake().unwrap();
        waker.clone().wake().unwrap();
    }
}
