//! Readiness as a latched hint.
//!
//! An edge says once that something has changed. So what it said is kept until an answer proves it
//! wrong: an event sets a bit, and a call that would block clears it, or a recv that met the end, or,
//! where [`Stream::short_recv_means_empty`], one that left room. After back-pressure no event comes for
//! bytes that have been there all along; the bit remembers them.

use std::fmt;
use std::io;

use mio::Interest;
use mio::event::Event;

use crate::net::nonblocking::{self, Received, Sent, Stream};

/// What an event says of a socket: a call in that direction may be worth making.
#[derive(Debug, Clone, Copy, Default)]
pub struct Readiness {
    /// A recv may answer something else than would-block.
    pub readable: bool,
    /// So may a send.
    pub writable: bool,
    /// A short recv now proves nothing: an end or an urgent mark is behind the bytes, and it was
    /// announced with them, not again.
    pub to_the_end: bool,
}

impl Readiness {
    /// Everything may be ready: ask the calls.
    pub const ALL: Readiness = Readiness { readable: true, writable: true, to_the_end: true };
}

/// For the trace.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [
            (self.readable, "readable"),
            (self.writable, "writable"),
            (self.to_the_end, "to the end"),
        ];
        let said = said.iter().filter(|(said, _)| *said).map(|(_, word)| *word);
        f.write_str(&said.collect::<Vec<_>>().join(", "))
    }
}

/// An end, an error or a hang-up may come with any bits or with none: ask both calls.
impl From<&Event> for Readiness {
    fn from(event: &Event) -> Readiness {
        if event.is_error() || event.is_read_closed() || event.is_write_closed() {
            return Readiness::ALL;
        }
        Readiness {
            readable: event.is_readable(),
            writable: event.is_writable(),
            to_the_end: event.is_priority(),
        }
    }
}

/// What a client socket is registered for, once and never again.
///
/// Edge-triggered, the kernel is silent until something changes, so to ask for writable costs nothing.
/// A level-triggered loop that always does so spins, since a socket is nearly always writable:
/// select's callers must ask only while something is owed.
pub fn interest() -> Interest {
    let both = Interest::READABLE | Interest::WRITABLE;
    // An urgent mark cuts a recv short, so we must hear of it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return both | Interest::PRIORITY;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return both;
}

/// What is left of a connection, on either side, after it was driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing can be done before the next event.
    Blocked,
    /// Its turn is over and there is more to do. No event will say so.
    Again,
    /// All is said: drop it.
    Done,
}

/// A stream with what is known of its readiness.
#[derive(Debug)]
pub struct Latched<S> {
    stream: S,
    ready: Readiness,
}

impl<S: Stream> Latched<S> {
    /// A stream of which nothing is known yet: its first event says what it is ready for, since to
    /// register a socket makes the kernel report what is ready already.
    pub fn new(stream: S) -> Latched<S> {
        Latched { stream, ready: Readiness::default() }
    }

    /// Latches what an event said. It decides nothing: never end a connection because a flag says
    /// error, hang-up or end, for bytes can stand in front of it. The calls tell.
    pub fn latch(&mut self, said: Readiness) {
        self.ready.readable |= said.readable;
        self.ready.writable |= said.writable;
        self.ready.to_the_end |= said.to_the_end;
    }

    /// A recv may be worth making.
    pub fn is_readable(&self) -> bool {
        self.ready.readable
    }

    /// A send may be worth making.
    pub fn is_writable(&self) -> bool {
        self.ready.writable
    }

    /// The stream itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Receives, and takes note of the answer. A short recv may stand for the would-block that the
    /// next one would answer; see [`Stream::short_recv_means_empty`].
    ///
    /// # Errors
    /// Those of [`nonblocking::recv`].
    #[inline]
    pub fn recv(&mut self, room: &mut [u8]) -> io::Result<Received> {
        let received = nonblocking::recv(&mut self.stream, room)?;
        match received {
            Received::Bytes(n) => {
                let proven = n < room.len() && self.stream.short_recv_means_empty();
                if proven && !self.ready.to_the_end {
                    self.ready.readable = false;
                }
            }
            Received::End => self.ready.readable = false,
            Received::WouldBlock => {
                self.ready.readable = false;
                self.ready.to_the_end = false;
            }
        }
        Ok(received)
    }

    /// Sends, and takes note of the answer. A short send proves nothing: only a would-block does.
    ///
    /// # Errors
    /// Those of [`nonblocking::send`].
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<Sent> {
        let sent = nonblocking::send(&mut self.stream, bytes)?;
        if sent == Sent::WouldBlock {
            self.ready.writable = false;
        }
        Ok(sent)
    }
}
