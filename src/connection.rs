//! One client socket's state machine.
//!
//! What a blocking program would keep on its stack while it waits inside a call (what is owed, how
//! much of it was sent, whether the peer is still sending) stands here as data, so that the loop can
//! leave at any call and come back at any event.
//!
//! ```text
//!           recv answers 0                nothing owed
//!   Open ------------------> HalfClosed ----------------> gone
//!    | \                          ^                         ^
//!    |  \ finish()                | recv answers 0          | too much discarded,
//!    |   v        nothing owed    |                         | or 1 s gone by
//!    |   Flushing -----------> Lingering -------------------+
//!    |                            ^
//!    +----------------------------+
//!               linger()
//! ```

use std::io;
use std::time::{Duration, Instant};

use crate::buffer::{Buffer, Pool};
use crate::nonblocking::{self, Received, Sent, Stream};

/// Bytes that one [`drive`](Connection::drive) may receive before the others have their turn. A
/// megabyte takes the loop a fraction of a millisecond; a quarter of it would cost a lone bulk
/// transfer a tenth of its speed.
const BUDGET: usize = 1024 * 1024;

/// What a recv takes from the budget at least, so that a peer that sends crumbs cannot buy a million
/// system calls with one budget.
const CALL: usize = 4096;

/// Bytes discarded at most while lingering: about what two kernels hold for a peer that sends and
/// does not read. One that still sends behind them is not going to stop.
const DISCARD: usize = 16 * 1024 * 1024;

/// How long a connection lingers at most.
pub const LINGER: Duration = Duration::from_secs(1);

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes come and go.
    Open,
    /// The peer has finished sending; what it is owed is still to go.
    HalfClosed,
    /// We end first: receive no more, send what is owed.
    Flushing,
    /// We have sent our end, and discard what still comes. To close a socket with unread input makes
    /// the kernel send a reset, which destroys what the peer has not read yet (RFC 1122, 4.2.2.13).
    Lingering { discard: usize },
}

/// What is left of a connection after it was driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing can be done before the next event.
    Blocked,
    /// The budget is spent and there is more to do. No event will say so.
    Again,
    /// All is said: drop it.
    Done,
}

/// One client socket, driven by readiness. Generic over its stream, so that it can be driven without
/// a socket, and knows nothing of the loop above it.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    /// Received, and not yet given back.
    read_buf: Buffer,
    /// Owed to the peer.
    write_buf: Buffer,
    /// Readiness is a latched hint: an event sets a bit, and only that call's would-block clears it.
    /// After back-pressure no event comes for bytes that are already there; the bit remembers them.
    ready: Readiness,
    state: State,
    /// When a byte last came or went, or the lingering began.
    progress: Instant,
}

impl<S: Stream> Connection<S> {
    /// A connection that was accepted at `now`. What it is ready for, its first event says: to
    /// register a socket makes the kernel report what is ready already.
    pub fn new(stream: S, now: Instant) -> Connection<S> {
        Connection {
            stream,
            read_buf: Buffer::default(),
            write_buf: Buffer::default(),
            ready: Readiness::default(),
            state: State::Open,
            progress: now,
        }
    }

    /// Latches what an event said. It decides nothing: never end a connection because a flag says
    /// error, hang-up or end, for bytes can stand in front of it. The calls tell.
    pub fn latch(&mut self, said: Readiness) {
        self.ready.readable |= said.readable;
        self.ready.writable |= said.writable;
        self.ready.to_the_end |= said.to_the_end;
    }

    /// Whether a wanted call may be ready. Such a connection must be driven without waiting for an
    /// event; every other one must not, or the loop would spin.
    pub fn is_runnable(&self) -> bool {
        self.wants_write() && self.ready.writable || self.wants_read() && self.ready.readable
    }

    /// Bytes are owed.
    fn wants_write(&self) -> bool {
        !self.write_buf.is_empty()
    }

    /// Back-pressure: while bytes are owed we do not receive, the kernel's buffer fills, its window
    /// closes, and TCP slows the sender down to the speed at which it reads.
    fn wants_read(&self) -> bool {
        !self.wants_write() && matches!(self.state, State::Open | State::Lingering { .. })
    }

    /// Does what can be done without waiting, within the budget.
    ///
    /// | answer | effect |
    /// |---|---|
    /// | send took n | the cursor moves; go on, since only a would-block stops |
    /// | send would block | `writable` off |
    /// | recv got n | n bytes more are owed; go on |
    /// | recv got 0 | `HalfClosed`: they are done sending, and still receive |
    /// | recv would block | `readable` and `to_the_end` off |
    /// | bytes owed | no recv; `readable` stays on |
    /// | nothing owed, `HalfClosed` | the half-close is answered: done |
    /// | nothing owed, `Flushing` | shutdown(write): `Lingering` |
    /// | `Lingering`, recv got n | discarded; done when it was too much |
    ///
    /// # Errors
    /// Any other answer ends this connection, and no other.
    pub fn drive(&mut self, pool: &mut Pool, now: Instant) -> io::Result<Progress> {
        let mut spent = 0;
        loop {
            match self.state {
                State::HalfClosed if !self.wants_write() => return Ok(Progress::Done),
                State::Flushing if !self.wants_write() => self.linger(pool, now)?,
                State::Lingering { discard: 0 } => return Ok(Progress::Done),
                _ => {}
            }
            if !self.is_runnable() {
                self.write_buf.settle(pool);
                return Ok(Progress::Blocked);
            }
            if spent >= BUDGET {
                return Ok(Progress::Again);
            }
            // Send first, without waiting to be told that we may: nearly always we may.
            if self.wants_write() {
                self.send(pool, now)?;
            } else {
                spent += self.recv(pool, now)?.max(CALL);
            }
        }
    }

    fn send(&mut self, pool: &mut Pool, now: Instant) -> io::Result<()> {
        match nonblocking::send(&mut self.stream, self.write_buf.waiting())? {
            Sent::Bytes(n) => {
                self.write_buf.consume(n, pool);
                self.progress = now;
            }
            Sent::WouldBlock => self.ready.writable = false,
        }
        Ok(())
    }

    /// One recv, and how many bytes it got.
    fn recv(&mut self, pool: &mut Pool, now: Instant) -> io::Result<usize> {
        let room = self.read_buf.room(pool);
        let size = room.len();
        let n = match nonblocking::recv(&mut self.stream, room)? {
            Received::Bytes(n) => n,
            Received::End => {
                self.state = State::HalfClosed;
                0
            }
            Received::WouldBlock => {
                self.ready.readable = false;
                self.ready.to_the_end = false;
                0
            }
        };
        if S::SHORT_RECV_MEANS_EMPTY && n < size && !self.ready.to_the_end {
            self.ready.readable = false;
        }
        if let State::Lingering { discard } = &mut self.state {
            *discard = discard.saturating_sub(n);
        } else if n > 0 {
            self.read_buf.filled(n);
            self.progress = now;
            self.echo();
        }
        self.read_buf.give_back(pool);
        Ok(n)
    }

    /// All that this server does with what it receives. Nothing is owed when it is called, so the
    /// buffers change places and no byte is copied.
    fn echo(&mut self) {
        std::mem::swap(&mut self.read_buf, &mut self.write_buf);
    }

    /// Ends the connection once what is owed has been sent: from now on nothing is received. Takes
    /// effect when it is driven next.
    pub fn finish(&mut self) {
        if self.state == State::Open {
            self.state = State::Flushing;
        }
    }

    /// Ends our direction now, whatever is owed, and lets the peer have what the kernel still holds
    /// for it. Takes effect when it is driven next.
    ///
    /// # Errors
    /// Those of [`Stream::shutdown_write`].
    pub fn linger(&mut self, pool: &mut Pool, now: Instant) -> io::Result<()> {
        self.write_buf.give_back(pool);
        self.stream.shutdown_write()?;
        self.progress = now;
        if self.state != State::HalfClosed {
            self.state = State::Lingering { discard: DISCARD };
        }
        Ok(())
    }

    /// We have sent our end, and the peer may still send.
    pub fn is_lingering(&self) -> bool {
        matches!(self.state, State::Lingering { .. })
    }

    /// All that came has been given back: nothing is owed, and the last recv left nothing behind.
    pub fn is_settled(&self) -> bool {
        !self.wants_write() && !self.ready.readable
    }

    /// When a byte last came or went, or the lingering began.
    pub fn last_progress(&self) -> Instant {
        self.progress
    }

    /// Gives the pages back; the stream closes with the drop.
    pub fn close(mut self, pool: &mut Pool) {
        self.read_buf.give_back(pool);
        self.write_buf.give_back(pool);
    }
}
