//! The state machine of one client socket.
//!
//! What a blocking program would keep on its stack while it waits inside a call (what is owed, how much
//! of it was sent, whether the peer is still sending) is kept here as data. So the loop can leave at any
//! call and come back at any event.
//!
//! ```text
//!            recv answers 0, the protocol has answered
//!    Open --------------------------------------------> HalfClosed
//!    |  |                                                  |
//!    |  | finish(), malformed input,                       | nothing owed
//!    |  | or the protocol closes                           v
//!    |  v             nothing owed                        done
//!    | Flushing --------------------> Lingering            ^
//!    |                                ^   |                |
//!    +--------------------------------+   +----------------+
//!      linger(), as Flushing may too        recv answers 0, too much was
//!                                           discarded, or 1 s is over
//! ```
//!
//! Two more states belong to `Open`: in `Answering` and in `EndOfInput` the protocol is called before
//! anything is received.

use std::io;
use std::time::{Duration, Instant};

use log::{debug, trace};

use crate::net::buffer::{Buffer, Pool};
use crate::net::nonblocking::{Received, Sent, Stream};
use crate::net::ready::{Latched, Progress, Readiness};
use crate::protocol::{Exchange, Malformed, Next, Protocol};
use crate::server::context::Context;
use crate::server::counters::{CloseReason, Traffic};

/// Number of bytes that one [`drive`](Connection::drive) may receive before the other connections have
/// their turn. A megabyte takes the loop a fraction of a millisecond; with a quarter of it a lone bulk
/// transfer loses a tenth of its speed.
const BUDGET: usize = 1024 * 1024;

/// Number of bytes that a call takes from the budget at least. Without it a peer that sends single bytes
/// would get a million system calls for one budget.
const CALL: usize = 4096;

/// Number of bytes discarded at most while lingering: about what two kernels hold for a peer that sends and
/// does not read. A peer that sends more is not going to stop.
const DISCARD: u32 = 16 * 1024 * 1024;

/// How long a connection lingers at most.
pub const LINGER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes come and go.
    Open,
    /// The answers had no room for all. The protocol is called again when nothing is owed.
    Answering,
    /// The peer has finished sending. The protocol is to be told, when nothing is owed.
    EndOfInput,
    /// The peer has finished sending, and the protocol has finished answering. What is owed is sent.
    HalfClosed,
    /// We end first: nothing more is received, what is owed is sent.
    Flushing,
    /// We have sent our end, and discard what still arrives. Closing a socket with unread input makes the
    /// kernel send a reset, which destroys what the peer has not read yet (RFC 1122, 4.2.2.13).
    Lingering,
}

/// One client socket, driven by readiness. It knows nothing of the loop above it. Its stream is a type
/// parameter, so that a test can drive it without a socket.
#[derive(Debug)]
pub struct Connection<S, P: Protocol> {
    socket: Latched<S>,
    /// Received, and not consumed by the protocol: half a message that waits for its rest.
    input: Buffer,
    /// Owed to the peer.
    output: Buffer,
    state: State,
    /// Why the connection ends, from `HalfClosed`, `Flushing` or `Lingering` on.
    reason: CloseReason,
    /// Number of bytes that it may still discard while lingering. At 0 it is done.
    discard: u32,
    protocol_state: P::State,
    /// When a byte last came or went, or the lingering began.
    last_moved: Instant,
}

impl<S: Stream, P: Protocol> Connection<S, P> {
    /// Makes a connection that was accepted at `now`.
    pub fn new(stream: S, now: Instant) -> Connection<S, P> {
        Connection {
            socket: Latched::new(stream),
            input: Buffer::default(),
            output: Buffer::default(),
            state: State::Open,
            reason: CloseReason::CutOff,
            discard: DISCARD,
            protocol_state: P::State::default(),
            last_moved: now,
        }
    }

    /// Latches the readiness of an event; see [`Latched::latch`].
    pub fn latch(&mut self, event: Readiness) {
        self.socket.latch(event);
    }

    /// Returns whether the next step may be possible without an event. Such a connection must be in the
    /// run queue. Any other one must not, or the loop would spin.
    pub fn is_runnable(&self) -> bool {
        if self.wants_write() {
            return self.socket.is_writable();
        }
        if self.state == State::Open {
            return self.socket.is_readable();
        }
        match self.state {
            State::Open | State::Lingering => self.socket.is_readable(),
            State::Answering | State::EndOfInput => true,
            State::HalfClosed | State::Flushing => false,
        }
    }

    /// Bytes are owed. That means back-pressure: we do not receive meanwhile. The kernel's receive buffer
    /// fills, its window closes, and TCP slows the sender down to the speed at which it reads.
    fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Does what can be done without waiting, within the budget. [`Context::traffic`] says what it moved.
    ///
    /// | answer | effect |
    /// |---|---|
    /// | send took n | the cursor moves; go on, since only a would-block stops |
    /// | send would block | `writable` off |
    /// | bytes owed | no recv; `readable` stays on |
    /// | recv got n | to the protocol; go on |
    /// | recv left room, where that means empty, and not `until_would_block` | `readable` off as well |
    /// | recv got 0 | the protocol is told; what is owed is sent: done |
    /// | recv would block | `readable` and `until_would_block` off |
    /// | malformed input | `Flushing` |
    /// | nothing owed, `Flushing` | shutdown(write): `Lingering` |
    /// | `Lingering`, recv got n | discarded; done when it was too much |
    ///
    /// # Errors
    /// Any other answer ends this connection, and no other one.
    pub fn drive(&mut self, context: &mut Context<P>) -> io::Result<Progress> {
        context.traffic = Traffic::default();
        let mut spent = 0;
        loop {
            if self.wants_write() {
                // Try before an event says that we may: nearly always there is room.
                if self.socket.is_writable() {
                    self.send(context)?;
                    continue;
                }
                self.input.shrink(&mut context.pool);
                self.output.shrink(&mut context.pool);
                return Ok(Progress::Blocked);
            }
            if self.state != State::Open {
                if let Some(progress) = self.advance(spent, context)? {
                    return Ok(progress);
                }
                if self.state != State::Lingering {
                    spent += self.output.len().max(CALL);
                    continue;
                }
            }
            if !self.socket.is_readable() {
                self.input.shrink(&mut context.pool);
                return Ok(Progress::Blocked);
            }
            if spent >= BUDGET {
                return Ok(Progress::Again);
            }
            match self.recv(context)? {
                Received::Bytes(n) => spent += n.max(CALL),
                Received::WouldBlock => {}
                Received::EndOfStream if self.is_lingering() => return Ok(Progress::Done),
                Received::EndOfStream => self.state = State::EndOfInput,
            }
        }
    }

    fn send(&mut self, context: &mut Context<P>) -> io::Result<()> {
        let sent = self.socket.send(self.output.bytes()).inspect_err(|e| trace_error("send", e))?;
        trace!("  send answers Ok({:?})", { sent });
        if let Sent::Bytes(n) = sent {
            self.output.consume(n, &mut context.pool);
            context.traffic.sent += n as u64;
            self.last_moved = context.now;
        }
        Ok(())
    }

    fn recv(&mut self, context: &mut Context<P>) -> io::Result<Received> {
        debug_assert!(!self.wants_write(), "back-pressure");
        let mut room = self.input.room(&mut context.pool)?;
        let received = match self.socket.recv(room.bytes_mut()) {
            Ok(received) => received,
            Err(e) => {
                trace_error("recv", &e);
                self.input.restore(room, &mut context.pool);
                return Err(e);
            }
        };
        trace!("  recv answers Ok({:?})", { received });
        match received {
            Received::Bytes(n) if self.state != State::Lingering => {
                self.input.fill(room, n);
                context.traffic.received += n as u64;
                self.last_moved = context.now;
                self.call(context)?;
                return Ok(received);
            }
            Received::Bytes(n) => {
                self.discard = self.discard.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
                context.counters.bytes_discarded += n as u64;
            }
            Received::WouldBlock | Received::EndOfStream => {}
        }
        self.input.restore(room, &mut context.pool);
        Ok(received)
    }

    /// Takes the next step of a connection that owes nothing and is not open. Returns its progress if it
    /// cannot go on. Not inlined: an echo passes here twice, and the tests of all states would cost it ten
    /// instructions each time.
    #[cold]
    fn advance(&mut self, spent: usize, context: &mut Context<P>) -> io::Result<Option<Progress>> {
        debug_assert!(!self.wants_write());
        match self.state {
            State::Answering | State::EndOfInput if spent >= BUDGET => {
                return Ok(Some(Progress::Again));
            }
            State::Answering => self.call(context)?,
            State::EndOfInput => self.call_at_end(context)?,
            State::HalfClosed => return Ok(Some(Progress::Done)),
            State::Flushing => self.linger(self.reason, context)?,
            State::Lingering if self.discard == 0 => return Ok(Some(Progress::Done)),
            State::Open | State::Lingering => {}
        }
        Ok(None)
    }

    /// Gives the protocol what was received.
    #[expect(clippy::inline_always, reason = "a twelfth of an echo's instructions")]
    #[inline(always)]
    fn call(&mut self, context: &mut Context<P>) -> io::Result<()> {
        let Context { protocol, pool, .. } = context;
        let mut exchange = Exchange::new(&mut self.input, &mut self.output, pool);
        let next = protocol.received(&mut self.protocol_state, &mut exchange);
        if next == Ok(Next::Receive) && self.input.is_empty() && self.state == State::Open {
            return Ok(());
        }
        self.obey(next, pool)
    }

    /// Changes the state to what the protocol wants. Not inlined: the usual answer, which is to receive
    /// more, is dealt with above.
    #[inline(never)]
    fn obey(&mut self, next: Result<Next, Malformed>, pool: &Pool) -> io::Result<()> {
        match next {
            Ok(Next::Receive) if self.input.is_full(pool) => {
                self.end_malformed(&Malformed::new("a message is larger than the buffer"));
            }
            Ok(Next::Receive) if self.reason == CloseReason::Drain => {
                self.end(State::Flushing, CloseReason::Drain);
            }
            Ok(Next::Receive) => self.state = State::Open,
            Ok(Next::Send) if self.output.is_empty() => {
                return Err(no_room_for_an_answer());
            }
            Ok(Next::Send) => self.state = State::Answering,
            Ok(Next::Close) => self.end(State::Flushing, CloseReason::Protocol),
            Err(malformed) => self.end_malformed(&malformed),
        }
        Ok(())
    }

    /// Tells the protocol that the peer has finished sending.
    fn call_at_end(&mut self, context: &mut Context<P>) -> io::Result<()> {
        let Context { protocol, pool, .. } = context;
        let mut exchange = Exchange::new(&mut self.input, &mut self.output, pool);
        let next = protocol.end_of_input(&mut self.protocol_state, &mut exchange);
        match next {
            Ok(Next::Send) if self.output.is_empty() => {
                return Err(no_room_for_an_answer());
            }
            Ok(Next::Send) => {}
            Ok(Next::Receive | Next::Close) => self.end(State::HalfClosed, CloseReason::Peer),
            Err(malformed) => self.end_malformed(&malformed),
        }
        Ok(())
    }

    #[cold]
    fn end_malformed(&mut self, malformed: &Malformed) {
        debug!("malformed input: {malformed}");
        // After the end of the stream nothing more can arrive, so there is no need to linger.
        let is_end = self.state == State::EndOfInput;
        let state = if is_end { State::HalfClosed } else { State::Flushing };
        self.end(state, CloseReason::Malformed);
    }

    fn end(&mut self, state: State, reason: CloseReason) {
        debug_assert!(self.state != State::Lingering, "our end of the stream is sent once");
        (self.state, self.reason) = (state, reason);
    }

    /// Ends the connection once what is owed has been sent: from now on nothing is received. Takes effect
    /// with the next drive.
    pub fn finish(&mut self) {
        match self.state {
            State::Open => self.end(State::Flushing, CloseReason::Drain),
            // First the answers to what was received.
            State::Answering => self.reason = CloseReason::Drain,
            State::EndOfInput | State::HalfClosed | State::Flushing | State::Lingering => {}
        }
    }

    /// Ends our direction of the stream now, and drops what is owed. The peer still gets what the kernel
    /// holds for it. Takes effect with the next drive.
    ///
    /// # Errors
    /// Those of [`Stream::shutdown_write`].
    pub fn linger(&mut self, reason: CloseReason, context: &mut Context<P>) -> io::Result<()> {
        self.release(context);
        trace!("  shutdown(write)");
        self.socket.stream().shutdown_write()?;
        self.last_moved = context.now;
        if matches!(self.state, State::EndOfInput | State::HalfClosed) {
            // After the end of the stream nothing more can arrive.
            self.discard = 0;
        }
        self.end(State::Lingering, reason);
        Ok(())
    }

    /// Returns whether we have sent our end of the stream, and the peer may still send.
    pub fn is_lingering(&self) -> bool {
        self.state == State::Lingering
    }

    /// Returns whether nothing is owed and nothing is known to wait. Half a message that the peer has not
    /// completed is owed to nobody.
    pub fn is_settled(&self) -> bool {
        !self.wants_write() && !self.is_runnable() && !self.socket.is_readable()
    }

    /// Returns when a byte last came or went, or the lingering began.
    pub fn last_moved(&self) -> Instant {
        self.last_moved
    }

    /// Returns why the connection closes, if it is closed now; `failed` says that a call has failed. A
    /// connection that lingers was ended by what began the lingering, however that goes on.
    pub fn close_reason(&self, failed: bool) -> CloseReason {
        match self.state {
            State::Lingering => self.reason,
            _ if failed => CloseReason::Error,
            State::HalfClosed => self.reason,
            State::Open | State::Answering | State::EndOfInput | State::Flushing => {
                CloseReason::CutOff
            }
        }
    }

    /// Gives the pages back and counts what was not sent. The stream closes with the drop.
    pub fn close(mut self, context: &mut Context<P>) {
        self.release(context);
    }

    fn release(&mut self, context: &mut Context<P>) {
        for buffer in [&mut self.input, &mut self.output] {
            context.counters.bytes_unsent += buffer.len() as u64;
            buffer.release(&mut context.pool);
        }
    }
}

#[cold]
fn trace_error(call: &str, e: &io::Error) {
    trace!("  {call} answers {e}");
}

/// No answer was taken although the buffer for answers is empty.
fn no_room_for_an_answer() -> io::Error {
    io::Error::other("an answer is larger than the buffer, or memory is short")
}
