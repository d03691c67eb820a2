//! The state machine of one client socket.
//!
//! What a blocking program would keep on its stack while it waits inside a call (what is owed, how much
//! of it was sent, whether the peer is still sending) is kept here as data. So the loop can leave at any
//! call and come back at any event.
//!
//! ```text
//!  state        what drive does                       leaves for
//!  Open         recv, then Protocol::received         Answering (Next::Send), EndOfInput (recv 0),
//!                                                     Flushing (Next::Close, malformed, finish())
//!  Answering    nothing owed: Protocol::received      Open, Flushing (as above)
//!                                                     LastAnswers (finish())
//!  LastAnswers  as Answering                          Flushing
//!  EndOfInput   nothing owed: Protocol::end_of_input  itself (Next::Send), HalfClosed (else)
//!  HalfClosed   sends what is owed                    done
//!  Flushing     sends what is owed, shutdown(write)   Lingering
//!  Lingering    recv and discard                      done (recv 0, 16 MiB discarded, 1 s is over)
//!
//!  any but Lingering: linger() leads to Lingering.  any: an error ends the connection.
//! ```
//!
//! (This file is longer than others, so that the table and the code that follows it are read together.)

use std::io::{self, ErrorKind};
use std::ops::ControlFlow::{self, Break, Continue};
use std::time::{Duration, Instant};

use log::trace;

use crate::net::buffer::Buffer;
use crate::net::nonblocking::{Received, Sent, Stream};
use crate::net::ready::{Latched, Readiness};
use crate::protocol::{Exchange, Malformed, Next, Protocol};
use crate::server::context::Context;
use crate::server::counters::{CloseReason, Traffic};

/// Number of bytes that a call takes from the budget at least. Without it a peer that sends single bytes
/// would get a million system calls for one budget.
const CALL: usize = 4096;

/// Number of bytes discarded at most while lingering: about what two kernels hold for a peer that sends and
/// does not read. A peer that sends more is not going to stop.
const DISCARD: u32 = 16 * 1024 * 1024;

/// Number of bytes that one call discards at most.
const DISCARD_CALL: usize = 16 * 1024;

/// How long a connection lingers at most.
pub const LINGER: Duration = Duration::from_secs(1);

/// State of a connection. The table above says what each does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Receives, and gives the protocol what came.
    Open,
    /// The answers had no room for all. The protocol is called again when nothing is owed.
    Answering,
    /// The same, but nothing more is received behind these answers.
    LastAnswers,
    /// The peer has finished sending. The protocol is to be told, when nothing is owed.
    EndOfInput,
    /// The peer has finished sending, and the protocol has finished answering.
    HalfClosed,
    /// We end first: nothing more is received.
    Flushing,
    /// We have sent our end, and discard what still arrives. Closing a socket with unread input makes the
    /// kernel send a reset, which destroys what the peer has not read yet (RFC 1122, 4.2.2.13).
    Lingering,
}

/// What the next event of a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It drives the connection.
    Prompt,
    /// It queues the connection, which has moved much in its last turn.
    Deferred,
    /// Nothing more than to latch its readiness: the connection waits in a queue.
    Queued,
}

/// State of a connection after it was driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing can be done before the next event.
    Blocked,
    /// The same, and it lingers: it must be closed after [`LINGER`] if no event comes.
    Lingering,
    /// The budget is used up and there is more to do. No event will say so: the connection belongs in the
    /// run queue.
    Again,
    /// The conversation is over: close the connection.
    Done,
}

/// One client socket, driven by readiness. It knows nothing of the loop above it. Its stream is a type
/// parameter, so that a test can drive it without a socket.
#[derive(Debug)]
pub struct Connection<S, P: Protocol> {
    socket: Latched<S>,
    /// Bytes received and not consumed by the protocol: the start of a message that waits for its rest.
    input: Buffer,
    /// Bytes owed to the peer.
    output: Buffer,
    state: State,
    /// Why the connection ends; set with `HalfClosed`, `Flushing` and `Lingering`.
    reason: CloseReason,
    /// Number of bytes discarded while lingering. It is done at 16 MiB.
    discarded: u32,
    protocol_state: P::State,
    /// When a byte last came or went, or the lingering began.
    last_moved: Instant,
    turn: Turn,
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
            discarded: 0,
            protocol_state: P::State::default(),
            last_moved: now,
            turn: Turn::Prompt,
        }
    }

    /// Latches the readiness of an event; see [`Latched::latch`].
    pub fn latch(&mut self, event: Readiness) {
        self.socket.latch(event);
    }

    /// Returns what its next event does.
    pub fn turn(&self) -> Turn {
        self.turn
    }

    /// Sets what its next event does.
    pub fn set_turn(&mut self, turn: Turn) {
        self.turn = turn;
    }

    /// Returns whether the connection waits in a queue of its loop.
    pub fn is_queued(&self) -> bool {
        self.turn == Turn::Queued
    }

    /// Returns whether the next step may be possible without an event. Such a connection must be in a queue
    /// of its loop, since no event may come.
    pub fn is_runnable(&self) -> bool {
        if self.wants_write() {
            return self.socket.is_writable();
        }
        if self.state == State::Open {
            return self.socket.is_readable();
        }
        self.state != State::Lingering || self.socket.is_readable()
    }

    /// Returns whether bytes are owed. Then nothing is received (back-pressure): the kernel's receive
    /// buffer fills, its window closes, and TCP slows the sender down to the speed at which it reads.
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
    /// | recv did not fill its room, where that means empty, and not `until_would_block` | `readable` off |
    /// | recv would block | `readable` and `until_would_block` off |
    /// | recv got 0 | `EndOfInput`; while lingering: done |
    /// | no memory for a recv | peek: as recv for anything but bytes |
    /// | the budget is used up | again |
    ///
    /// # Errors
    /// `OutOfMemory`: no page for the next step, or the kernel lacks memory. Nothing is lost. The connection
    /// is to be driven again when memory may be there again. Any other error ends this connection, and no
    /// other one.
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
                self.output.shrink(&mut context.pool);
                return Ok(self.blocked(context));
            }
            if self.state != State::Open {
                match self.advance(spent, context)? {
                    Continue(cost) => spent += cost,
                    Break(progress) => return Ok(progress),
                }
                continue;
            }
            if !self.socket.is_readable() {
                return Ok(self.blocked(context));
            }
            if spent >= context.budget {
                return Ok(Progress::Again);
            }
            spent += self.receive(context)?;
        }
    }

    fn blocked(&mut self, context: &mut Context<P>) -> Progress {
        self.input.shrink(&mut context.pool);
        Progress::Blocked
    }

    fn send(&mut self, context: &mut Context<P>) -> io::Result<()> {
        let sent = self.socket.send(self.output.bytes()).inspect_err(|e| trace_error("send", e))?;
        // The braces copy the value. A reference would keep it out of the registers, trace or not.
        trace!("  send answers Ok({:?})", { sent });
        if let Sent::Bytes(n) = sent {
            self.output.consume(n, &mut context.pool);
            context.traffic.sent += n as u64;
            self.last_moved = context.now;
        }
        Ok(())
    }

    /// Receives, and gives the protocol what came. Returns what that takes from the budget.
    fn receive(&mut self, context: &mut Context<P>) -> io::Result<usize> {
        let mut room = match self.input.room(&mut context.pool) {
            Ok(room) => room,
            Err(e) => return self.receive_without_memory(e),
        };
        let received = match self.socket.recv(room.bytes_mut()) {
            Ok(received) => received,
            Err(e) => {
                trace_error("recv", &e);
                self.input.restore(room, &mut context.pool);
                return Err(e);
            }
        };
        trace!("  recv answers Ok({:?})", { received });
        let Received::Bytes(n) = received else {
            self.input.restore(room, &mut context.pool);
            if received == Received::EndOfStream {
                self.state = State::EndOfInput;
            }
            return Ok(0);
        };
        self.input.fill(room, n);
        context.traffic.received += n as u64;
        self.last_moved = context.now;
        self.call(context)?;
        Ok(n.max(CALL))
    }

    /// Only bytes need memory. The end of the stream, an error and a would-block do not, and a peer that has gone
    /// would else keep the memory that it holds.
    #[cold]
    fn receive_without_memory(&mut self, error: io::Error) -> io::Result<usize> {
        let received = self.socket.peek()?;
        trace!("  peek answers Ok({received:?})");
        match received {
            Received::Bytes(_) => return Err(error),
            Received::EndOfStream => self.state = State::EndOfInput,
            Received::WouldBlock => {}
        }
        Ok(0)
    }

    /// Takes the next step of a connection that owes nothing and is not open. It goes on with what the step
    /// takes from the budget, or it breaks off. Not inlined: an echo never gets here.
    #[cold]
    fn advance(
        &mut self,
        spent: usize,
        context: &mut Context<P>,
    ) -> io::Result<ControlFlow<Progress, usize>> {
        debug_assert!(!self.wants_write() && self.state != State::Open);
        if spent >= context.budget && self.is_runnable() {
            return Ok(Break(Progress::Again));
        }
        match self.state {
            State::Open | State::Answering | State::LastAnswers => self.call(context)?,
            State::EndOfInput => self.call_at_end(context)?,
            State::HalfClosed => return Ok(Break(Progress::Done)),
            State::Flushing => return self.linger(self.reason, context).map(|()| Continue(0)),
            State::Lingering => return self.discard(context),
        }
        // A call of the protocol costs what it answers.
        Ok(Continue(self.output.len().max(CALL)))
    }

    fn discard(&mut self, context: &mut Context<P>) -> io::Result<ControlFlow<Progress, usize>> {
        debug_assert!(self.input.is_empty() && self.output.is_empty());
        if self.discarded >= DISCARD {
            return Ok(Break(Progress::Done));
        }
        if !self.socket.is_readable() {
            return Ok(Break(Progress::Lingering));
        }
        // Not a page of the pool: an end must not wait for memory.
        let received = self.socket.recv(&mut [0; DISCARD_CALL]);
        trace!("  recv answers {received:?}");
        let n = match received? {
            Received::Bytes(n) => n,
            Received::WouldBlock => return Ok(Continue(0)),
            Received::EndOfStream => return Ok(Break(Progress::Done)),
        };
        context.counters.bytes_discarded += n as u64;
        self.discarded = self.discarded.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        Ok(Continue(n.max(CALL)))
    }

    /// Gives the protocol the input.
    #[expect(clippy::inline_always, reason = "a twelfth of an echo's instructions")]
    #[inline(always)]
    fn call(&mut self, context: &mut Context<P>) -> io::Result<()> {
        let Context { protocol, pool, .. } = context;
        let mut exchange = Exchange::new(&mut self.input, &mut self.output, pool);
        let next = protocol.received(&mut self.protocol_state, &mut exchange);
        if next == Ok(Next::Receive) && self.input.is_empty() && self.state == State::Open {
            return Ok(());
        }
        self.obey(next, context)
    }

    /// Changes the state to what the protocol wants. Not inlined: the usual answer, which is to receive
    /// more, is dealt with above.
    #[inline(never)]
    fn obey(&mut self, next: Result<Next, Malformed>, context: &mut Context<P>) -> io::Result<()> {
        let is_last = self.state == State::LastAnswers;
        match next {
            Ok(Next::Receive) if is_last => self.end(State::Flushing, CloseReason::Drain),
            Ok(Next::Receive) if self.input.is_full(&context.pool) => {
                self.end_malformed(Malformed::new("a message is larger than the buffer"), context);
            }
            Ok(Next::Receive) => self.state = State::Open,
            Ok(Next::Send) => {
                if !is_last {
                    self.state = State::Answering;
                }
                return self.check_answer(context);
            }
            Ok(Next::Close) => self.end(State::Flushing, CloseReason::Protocol),
            Err(malformed) => self.end_malformed(malformed, context),
        }
        Ok(())
    }

    /// Tells the protocol that the peer has finished sending.
    fn call_at_end(&mut self, context: &mut Context<P>) -> io::Result<()> {
        let Context { protocol, pool, .. } = context;
        let mut exchange = Exchange::new(&mut self.input, &mut self.output, pool);
        match protocol.end_of_input(&mut self.protocol_state, &mut exchange) {
            Ok(Next::Send) => return self.check_answer(context),
            Ok(Next::Receive | Next::Close) => self.end(State::HalfClosed, CloseReason::Peer),
            Err(malformed) => self.end_malformed(malformed, context),
        }
        Ok(())
    }

    /// Returns why nothing was answered, where the protocol wants to send.
    fn check_answer(&self, context: &Context<P>) -> io::Result<()> {
        if !self.output.is_empty() {
            Ok(())
        } else if context.pool.is_short() {
            Err(io::Error::new(ErrorKind::OutOfMemory, "no memory for an answer"))
        } else {
            Err(io::Error::other("an answer is larger than the buffer"))
        }
    }

    fn end_malformed(&mut self, malformed: Malformed, context: &mut Context<P>) {
        context.malformed = Some(malformed);
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
            State::Answering => self.state = State::LastAnswers,
            State::LastAnswers
            | State::EndOfInput
            | State::HalfClosed
            | State::Flushing
            | State::Lingering => {}
        }
    }

    /// Ends our direction of the stream now, and drops what is owed. The peer still gets what the kernel
    /// holds for it.
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
            self.discarded = DISCARD;
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
        !self.wants_write() && !self.is_runnable()
    }

    /// Returns whether it holds bytes, and so memory: half a message, or what is owed.
    pub(crate) fn holds_bytes(&self) -> bool {
        !self.input.is_empty() || !self.output.is_empty()
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
            State::HalfClosed if !self.wants_write() => self.reason,
            _ => CloseReason::CutOff,
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
