//! Readiness, kept as a latched hint.
//!
//! Mio is edge-triggered: an event is reported once, when something changes. So the readiness that it
//! reported is kept (latched) until a call proves it wrong: an event sets a bit, and only an answer of
//! that call clears it. After back-pressure no new event comes for bytes that were there all the time;
//! the latched bit remembers them.

use std::fmt;
use std::io;

use mio::Interest;
use mio::event::Event;

use crate::net::nonblocking::{self, Received, Sent, Stream};

/// What an event says about a socket: which calls may be worth making.
#[derive(Debug, Clone, Copy, Default)]
pub struct Readiness {
    /// A recv may have another answer than would-block.
    pub readable: bool,
    /// A send may have another answer than would-block.
    pub writable: bool,
    /// Recv must be repeated until it would block: a short recv proves nothing. The end of the stream
    /// or an urgent mark stands behind the bytes, and it was announced together with them, not again.
    pub until_would_block: bool,
}

impl Readiness {
    /// Everything may be ready: only the calls can tell.
    pub const ALL: Readiness =
        Readiness { readable: true, writable: true, until_would_block: true };
}

/// The set bits by name, for the trace.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = [
            (self.readable, "readable"),
            (self.writable, "writable"),
            (self.until_would_block, "until would-block"),
        ];
        let set = bits.iter().filter(|(set, _)| *set).map(|(_, name)| *name);
        f.write_str(&set.collect::<Vec<_>>().join(", "))
    }
}

/// An end of stream, an error or a hang-up can come with any other bits or with none. The event does
/// not say which call will report it, so both are marked ready.
impl From<&Event> for Readiness {
    #[inline]
    fn from(event: &Event) -> Readiness {
        if event.is_error() || event.is_read_closed() || event.is_write_closed() {
            return Readiness::ALL;
        }
        Readiness {
            readable: event.is_readable(),
            writable: event.is_writable(),
            until_would_block: event.is_priority(),
        }
    }
}

/// Interest with which a client socket is registered, once, and never changed.
///
/// Edge-triggered, the kernel reports writable only when it changes, so asking for it costs nothing. A
/// level-triggered loop that always asks for writable spins, because a socket is nearly always
/// writable: a program that uses select(2) must ask only while it has bytes to send.
pub fn interest() -> Interest {
    let both = Interest::READABLE | Interest::WRITABLE;
    // A recv stops at an urgent mark, so the mark must be announced.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return both | Interest::PRIORITY;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return both;
}

/// A stream together with its latched readiness.
#[derive(Debug)]
pub struct Latched<S> {
    stream: S,
    ready: Readiness,
}

impl<S: Stream> Latched<S> {
    /// Wraps a stream of which nothing is known yet. Its first event tells: the kernel reports what is
    /// ready when a socket is registered.
    pub fn new(stream: S) -> Latched<S> {
        Latched { stream, ready: Readiness::default() }
    }

    /// Latches the readiness of an event. Latching decides nothing: a connection must not end because a
    /// flag says error, hang-up or end of stream, because unread bytes may precede it. The calls tell.
    pub fn latch(&mut self, event: Readiness) {
        self.ready.readable |= event.readable;
        self.ready.writable |= event.writable;
        self.ready.until_would_block |= event.until_would_block;
    }

    /// Returns whether a recv may be worth making.
    pub fn is_readable(&self) -> bool {
        self.ready.readable
    }

    /// Returns whether a send may be worth making.
    pub fn is_writable(&self) -> bool {
        self.ready.writable
    }

    /// Returns the stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Receives, and clears the bits that the answer proves wrong. A short recv may stand for the
    /// would-block of the next one; see [`Stream::short_recv_means_empty`].
    ///
    /// # Errors
    /// Those of [`nonblocking::recv`].
    #[inline]
    pub fn recv(&mut self, room: &mut [u8]) -> io::Result<Received> {
        let received = nonblocking::recv(&mut self.stream, room)?;
        match received {
            Received::Bytes(n) => {
                let short = n < room.len() && self.stream.short_recv_means_empty();
                if short && !self.ready.until_would_block {
                    self.ready.readable = false;
                }
            }
            Received::EndOfStream => self.ready.readable = false,
            Received::WouldBlock => {
                self.ready.readable = false;
                self.ready.until_would_block = false;
            }
        }
        Ok(received)
    }

    /// Returns what the next recv will answer, at most one byte of it, and clears the bits that the answer
    /// proves wrong.
    ///
    /// # Errors
    /// Those of [`nonblocking::recv`].
    pub fn peek(&mut self) -> io::Result<Received> {
        let answer = match nonblocking::answer(|| self.stream.peek(&mut [0]))? {
            Some(0) => Received::EndOfStream,
            Some(n) => return Ok(Received::Bytes(n)),
            None => Received::WouldBlock,
        };
        self.ready.readable = false;
        self.ready.until_would_block &= answer == Received::EndOfStream;
        Ok(answer)
    }

    /// Sends, and clears the bit that a would-block proves wrong. A short send proves nothing.
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
