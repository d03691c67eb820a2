//! One nonblocking call, and every answer it can give.
//!
//! A blocking `recv` has two good answers: some bytes, or the end. It waits inside the call until it
//! has one of them. A nonblocking `recv` has a third, *would block*: nothing now, ask again when told
//! to. `EINTR` is no answer at all: the call is made again, here, and nobody else hears of it.
//!
//! Sources: recv(2), send(2), and "Non-blocking Sockets" in the Socket Programming HOWTO.

use std::io::{self, ErrorKind, Read, Write};

/// A connected stream whose calls never wait.
pub trait Stream: Read + Write {
    /// Whether a recv that fills less than the room it was given may stand for "empty now", so that
    /// the next recv, which would only say "would block", need not be made. Where that is not sure, a
    /// stream that claims it hangs.
    fn short_recv_means_empty(&self) -> bool;

    /// Ends our direction, shutdown(2) with `SHUT_WR`: the peer gets what is under way, then the end.
    ///
    /// # Errors
    /// What shutdown(2) says, such as `ENOTCONN` when the peer has reset the connection.
    fn shutdown_write(&self) -> io::Result<()>;
}

/// What a nonblocking recv answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Zero bytes: the peer has finished sending. It may well still be receiving.
    End,
    /// Nothing now.
    WouldBlock,
}

/// What a nonblocking send answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The kernel took this many bytes, perhaps fewer than were offered.
    Bytes(usize),
    /// The kernel's send buffer is full.
    WouldBlock,
}

/// Receives into `room`, which must not be empty: a recv into nothing answers 0, and 0 means the end.
///
/// # Errors
/// Any error of recv(2) but `EAGAIN`, which is an answer, and `EINTR`.
#[inline]
pub fn recv(stream: &mut impl Read, room: &mut [u8]) -> io::Result<Received> {
    debug_assert!(!room.is_empty());
    Ok(match answer(|| stream.read(room))? {
        Some(0) => Received::End,
        Some(n) => Received::Bytes(n),
        None => Received::WouldBlock,
    })
}

/// Sends what the kernel will take of `bytes`, which must not be empty.
///
/// # Errors
/// Any error of send(2) but `EAGAIN`, which is an answer, and `EINTR`; `WriteZero` for a stream that
/// takes nothing and does not say why.
#[inline]
pub fn send(stream: &mut impl Write, bytes: &[u8]) -> io::Result<Sent> {
    debug_assert!(!bytes.is_empty());
    match answer(|| stream.write(bytes))? {
        Some(0) => Err(ErrorKind::WriteZero.into()),
        Some(n) => Ok(Sent::Bytes(n)),
        None => Ok(Sent::WouldBlock),
    }
}

/// What the call says in the end, however often it was interrupted; `None` is "would block".
fn answer(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
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

/// Whether an error is the answer "would block"; if not, the call was interrupted. Kept out of the line
/// of the calls that succeed, which are nearly all: inlined, it was a fifth of an echo's instructions.
#[cold]
fn would_block(e: io::Error) -> io::Result<bool> {
    match e.kind() {
        ErrorKind::WouldBlock => Ok(true),
        ErrorKind::Interrupted => Ok(false),
        _ => Err(e),
    }
}
