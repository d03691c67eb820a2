//! One nonblocking call, and every answer it can give.
//!
//! A blocking `recv` has two good answers, some bytes or the end of the stream, and waits until it has
//! one of them. A nonblocking `recv` has a third answer, *would block*: there is nothing now, call
//! again when an event says so. `EINTR` is not an answer: the call is repeated here. (A poll can be
//! interrupted too; see [`Wait::wait`](crate::net::wait::Wait::wait).)
//!
//! Sources: recv(2), send(2), and "Non-blocking Sockets" in the Socket Programming HOWTO.

use std::io::{self, ErrorKind, Read, Write};

/// A connected stream whose calls never wait.
pub trait Stream: Read + Write {
    /// Returns whether a recv that does not fill its buffer may stand for "empty now". The next recv,
    /// which could only answer "would block", is then left out. A stream that returns `true` where this
    /// is not certain loses data: its connection waits for an event that never comes.
    fn short_recv_means_empty(&self) -> bool;

    /// Receives, and leaves the bytes where they are: recv(2) with `MSG_PEEK`. A stream that cannot do so
    /// answers as if there were bytes.
    ///
    /// # Errors
    /// Those of recv(2), and at once an error that a recv would report only behind the bytes, such as a reset.
    fn peek(&self, room: &mut [u8]) -> io::Result<usize> {
        Ok(room.len())
    }

    /// Ends our direction of the stream: shutdown(2) with `SHUT_WR`. The peer receives what was sent
    /// before, then the end.
    ///
    /// # Errors
    /// Those of shutdown(2), for example `ENOTCONN` after the peer has reset the connection.
    fn shutdown_write(&self) -> io::Result<()>;
}

/// Answer of a nonblocking recv.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Number of bytes received, at least 1.
    Bytes(usize),
    /// Zero bytes: the peer has finished sending. It may still be receiving.
    EndOfStream,
    /// No bytes are there now.
    WouldBlock,
}

/// Answer of a nonblocking send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Number of bytes that the kernel took, at least 1. It may be less than was offered.
    Bytes(usize),
    /// The kernel's send buffer is full.
    WouldBlock,
}

/// Receives into `room`, which must not be empty: a recv into no room answers 0, which would look like
/// the end of the stream.
///
/// # Errors
/// Those of recv(2), except `EAGAIN`, which is an answer, and `EINTR`.
#[inline]
pub fn recv(stream: &mut impl Read, room: &mut [u8]) -> io::Result<Received> {
    debug_assert!(!room.is_empty());
    Ok(match answer(|| stream.read(room))? {
        Some(0) => Received::EndOfStream,
        Some(n) => Received::Bytes(n),
        None => Received::WouldBlock,
    })
}

/// Sends as many of `bytes`, which must not be empty, as the kernel takes.
///
/// # Errors
/// Those of send(2), except `EAGAIN`, which is an answer, and `EINTR`. `WriteZero` if the stream takes
/// nothing and gives no reason.
#[inline]
pub fn send(stream: &mut impl Write, bytes: &[u8]) -> io::Result<Sent> {
    debug_assert!(!bytes.is_empty());
    match answer(|| stream.write(bytes))? {
        Some(0) => Err(ErrorKind::WriteZero.into()),
        Some(n) => Ok(Sent::Bytes(n)),
        None => Ok(Sent::WouldBlock),
    }
}

/// Makes the call until it is not interrupted. `None` stands for "would block".
///
/// # Errors
/// Those of the call, except `EAGAIN` and `EINTR`.
#[inline]
pub fn answer<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match call() {
            Ok(n) => return Ok(Some(n)),
            Err(e) => {
                if would_block(e)? {
                    return Ok(None);
                }
            }
        }
    }
}

/// Returns `true` for "would block" and `false` for an interrupted call. Not inlined: nearly all calls
/// succeed, and inlined error handling was a fifth of an echo's instructions.
#[cold]
fn would_block(e: io::Error) -> io::Result<bool> {
    match e.kind() {
        ErrorKind::WouldBlock => Ok(true),
        ErrorKind::Interrupted => Ok(false),
        _ => Err(e),
    }
}
