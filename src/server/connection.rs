//! One client socket's state machine.
//!
//! What a blocking program would keep on its stack while it waits inside a call (what is owed, how
//! much of it was sent, whether the peer is still sending) stands here as data, so that the loop can
//! leave at any call and come back at any event.
//!
//! ```text
//!            recv answers 0
//!    Open ---------------------------------------> done
//!    |  |                                           ^
//!    |  | finish()                                  |
//!    |  v          nothing owed                     |
//!    | Flushing -----------------> Lingering -------+
//!    |                              ^    recv answers 0, too much
//!    +------------------------------+    was discarded, or 1 s is over
//!      linger(), as Flushing may too
//! ```
//!
//! There is no state for a peer that has half-closed. Its end stands behind its last byte, and while
//! anything is owed we do not receive: so by the time that we meet the end, all has been given back,
//! and to close is the right answer.

use std::io;
use std::time::{Duration, Instant};

use log::trace;

use crate::net::buffer::{Buffer, Pool};
use crate::net::nonblocking::{Received, Sent, Stream};
use crate::net::ready::{Latched, Progress, Readiness};
use crate::server::counters::Counters;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes come and go.
    Open,
    /// We end first: receive no more, send what is owed.
    Flushing,
    /// We have sent our end, and discard what still comes. To close a socket with unread input makes
    /// the kernel send a reset, which destroys what the peer has not read yet (RFC 1122, 4.2.2.13).
    Lingering { discard: usize, why: Ending },
}

/// Why we end a connection before its peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing moved on it for too long; what was owed is dropped.
    Idle,
    /// The server ends, and has given back all that it took.
    Drain,
}

/// What all connections of a loop share.
#[derive(Debug)]
pub struct Tools {
    /// Where their pages come from.
    pub pool: Pool,
    /// What they have moved.
    pub counters: Counters,
    /// The clock, read once a turn.
    pub now: Instant,
}

impl Tools {
    /// Those of a loop whose connections hold at most `max_buffer` bytes each.
    pub fn new(max_buffer: usize, now: Instant) -> Tools {
        Tools { pool: Pool::new(max_buffer), counters: Counters::default(), now }
    }
}

/// One client socket, driven by readiness. Generic over its stream, so that it can be driven without
/// a socket, and knows nothing of the loop above it.
#[derive(Debug)]
pub struct Connection<S> {
    socket: Latched<S>,
    /// Received by the call under way; [`echo`](Connection::echo) hands it over.
    read_buf: Buffer,
    /// Owed to the peer.
    write_buf: Buffer,
    state: State,
    /// When a byte last came or went, or the lingering began.
    moved: Instant,
}

impl<S: Stream> Connection<S> {
    /// A connection that was accepted at `now`.
    pub fn new(stream: S, now: Instant) -> Connection<S> {
        Connection {
            socket: Latched::new(stream),
            read_buf: Buffer::default(),
            write_buf: Buffer::default(),
            state: State::Open,
            moved: now,
        }
    }

    /// Latches what an event said; see [`Latched::latch`].
    pub fn latch(&mut self, said: Readiness) {
        self.socket.latch(said);
    }

    /// Whether a wanted call may be ready. Such a connection must be driven without waiting for an
    /// event; every other one must not, or the loop would spin.
    pub fn is_runnable(&self) -> bool {
        self.wants_write() && self.socket.is_writable()
            || self.wants_read() && self.socket.is_readable()
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
    /// | it left room, where that means empty, and not `to_the_end` | `readable` off as well |
    /// | recv got 0 | they are done sending, and have got back all that they sent: done |
    /// | recv would block | `readable` and `to_the_end` off |
    /// | bytes owed | no recv; `readable` stays on |
    /// | nothing owed, `Flushing` | shutdown(write): `Lingering` |
    /// | `Lingering`, recv got n | discarded; done when it was too much |
    ///
    /// # Errors
    /// Any other answer ends this connection, and no other.
    pub fn drive(&mut self, tools: &mut Tools) -> io::Result<Progress> {
        let mut spent = 0;
        loop {
            if self.wants_write() {
                // Without waiting to be told that we may: nearly always we may.
                if self.socket.is_writable() {
                    self.send(tools)?;
                    continue;
                }
                self.write_buf.settle(&mut tools.pool);
                return Ok(Progress::Blocked);
            }
            match self.state {
                State::Flushing => self.linger(Ending::Drain, tools)?,
                State::Lingering { discard: 0, .. } => return Ok(Progress::Done),
                State::Open | State::Lingering { .. } => {}
            }
            if !self.socket.is_readable() {
                return Ok(Progress::Blocked);
            }
            if spent >= BUDGET {
                return Ok(Progress::Again);
            }
            match self.recv(tools)? {
                Received::Bytes(n) => spent += n.max(CALL),
                Received::WouldBlock => {}
                Received::End => return Ok(Progress::Done),
            }
        }
    }

    fn send(&mut self, tools: &mut Tools) -> io::Result<()> {
        let sent = self.socket.send(self.write_buf.waiting());
        trace!("  send answers {sent:?}");
        if let Sent::Bytes(n) = sent? {
            self.write_buf.consume(n, &mut tools.pool);
            tools.counters.bytes_out += n as u64;
            self.moved = tools.now;
        }
        Ok(())
    }

    fn recv(&mut self, tools: &mut Tools) -> io::Result<Received> {
        let received = self.socket.recv(self.read_buf.room(&mut tools.pool)?);
        trace!("  recv answers {received:?}");
        let received = received?;
        if let Received::Bytes(n) = received {
            if let State::Lingering { discard, .. } = &mut self.state {
                *discard = discard.saturating_sub(n);
                tools.counters.bytes_discarded += n as u64;
            } else {
                self.read_buf.filled(n);
                tools.counters.bytes_in += n as u64;
                self.moved = tools.now;
                self.echo();
            }
        }
        self.read_buf.give_back(&mut tools.pool);
        Ok(received)
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
    pub fn linger(&mut self, why: Ending, tools: &mut Tools) -> io::Result<()> {
        self.forget(tools);
        trace!("  shutdown(write)");
        self.socket.stream().shutdown_write()?;
        self.moved = tools.now;
        self.state = State::Lingering { discard: DISCARD, why };
        Ok(())
    }

    /// We have sent our end, for this reason, and the peer may still send.
    pub fn lingers(&self) -> Option<Ending> {
        match self.state {
            State::Lingering { why, .. } => Some(why),
            State::Open | State::Flushing => None,
        }
    }

    /// Whether it [`lingers`](Connection::lingers).
    pub fn is_lingering(&self) -> bool {
        self.lingers().is_some()
    }

    /// All that was received has been given back, and nothing is known to wait.
    pub fn is_settled(&self) -> bool {
        !self.wants_write() && !self.socket.is_readable()
    }

    /// When a byte last came or went, or the lingering began.
    pub fn last_moved(&self) -> Instant {
        self.moved
    }

    /// Gives the pages back; the stream closes with the drop.
    pub fn close(mut self, tools: &mut Tools) {
        self.forget(tools);
        self.read_buf.give_back(&mut tools.pool);
    }

    /// What is still owed will not be sent.
    fn forget(&mut self, tools: &mut Tools) {
        tools.counters.bytes_unsent += self.write_buf.waiting().len() as u64;
        self.write_buf.give_back(&mut tools.pool);
    }
}
