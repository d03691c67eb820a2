//! Writing to stdout and stderr, which are shared with other processes.
//!
//! Either may be a pipe that nobody reads, and either may be nonblocking, because another process has made
//! it so. That flag belongs to all of them and is left as it is.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::io::write;

/// Number of bytes for which a pipe has room if poll(2) says that it has any: the least `PIPE_BUF` of POSIX.
const PIECE: usize = 512;

/// Writes all bytes, and waits for room as long as it takes.
///
/// # Errors
/// Those of write(2), except `EAGAIN` and `EINTR`.
pub fn write_all(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    write_until(file, bytes, None)
}

/// Writes all bytes, and waits for room as long as `timeout`.
///
/// # Errors
/// Those of [`write_all`], and `TimedOut`; then a part may be written.
pub fn write_within(file: BorrowedFd<'_>, bytes: &[u8], timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    bytes.chunks(PIECE).try_for_each(|piece| {
        // A blocking file says no would-block.
        wait_for_room(file, Some(deadline))?;
        write_until(file, piece, Some(deadline))
    })
}

fn write_until(
    file: BorrowedFd<'_>,
    mut bytes: &[u8],
    deadline: Option<Instant>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(file, bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => wait_for_room(file, deadline)?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn wait_for_room(file: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::OUT)], timeout.as_ref()) {
            Ok(0) => return Err(ErrorKind::TimedOut.into()),
            Err(Errno::INTR) => {}
            // An error of the file is the answer of the write that follows.
            result => return result.map(|_| ()).map_err(io::Error::from),
        }
    }
}
