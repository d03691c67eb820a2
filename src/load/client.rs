//! The state machine of one connection, from the side that connects.
//!
//! ```text
//!                established          last message sent,
//!                                     with half-close: shutdown(write)
//!   Connecting ------------> Open ----------------------------> HalfClosed
//!                             |  last message came back           | last message came back,
//!                             |                                   | then the end of stream
//!                             v                                   v
//!                            done                                done
//! ```
//!
//! A client holds no bytes. What it sends and what must come back are functions of an offset in its
//! stream ([`Payload`]). All it keeps of a message is when it was due
//! and when it was sent.
//!
//! It differs from the server's connection in one rule: there is no back-pressure. It sends and
//! receives at the same time. A message may be larger than all the buffers on its way, and a client
//! that sent all of it before it received would wait for ever.
//!
//! (One file, so that the table of states and the code that follows it are read together.)

use std::io::{self, ErrorKind};

use crate::load::clock::Nanos;
use crate::load::messages::{
    ClientOptions, Context, Driven, Failure, InFlight, Load, Next, Progress,
};
use crate::load::payload::{Cursor, Payload};
use crate::load::pipeline::Pipeline;
use crate::net::nonblocking::{Received, Sent, Stream};
use crate::net::ready::{Latched, Readiness};

/// A stream whose connect was begun and may not be complete.
pub trait ConnectingStream: Stream {
    /// Returns whether the connection is established. A writable socket has only "a decent chance
    /// that it has connected" (HOWTO).
    ///
    /// # Errors
    /// The connect failed.
    fn is_connected(&self) -> io::Result<bool>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    HalfClosed,
}

/// One connection of the load.
#[derive(Debug)]
pub struct Client<S> {
    socket: Latched<S>,
    state: State,
    slot: usize,
    /// Whether no message follows those in flight.
    is_last: bool,
    pipeline: Pipeline,
    /// When bytes last came; before that, when the connection was established, or when its connect
    /// was begun.
    last_progress: Nanos,
}

impl<S: ConnectingStream> Client<S> {
    /// Returns a client whose connect was begun at `now`. `slot` is the number of its slot in its
    /// loop, `start` the beginning of its stream of bytes.
    pub fn new(stream: S, slot: usize, start: Cursor, now: Nanos) -> Client<S> {
        Client {
            socket: Latched::new(stream),
            state: State::Connecting,
            slot,
            is_last: false,
            pipeline: Pipeline::new(start),
            last_progress: now,
        }
    }

    /// Makes it a client for a message that was due at `due`; for no other one if it is the last.
    #[must_use]
    pub fn with_first(mut self, due: Nanos, is_last: bool, payload: &Payload) -> Client<S> {
        self.pipeline.start(payload, due, self.last_progress);
        self.is_last = is_last;
        self
    }

    /// Returns the place in its stream up to which the bytes have come back.
    pub fn received(&self) -> Cursor {
        self.pipeline.received
    }

    /// Returns the number of bytes that the kernel has taken. No more than this can come back.
    pub fn sent(&self) -> u64 {
        self.pipeline.sent.offset()
    }

    fn may_send(&self) -> bool {
        self.pipeline.unsent > 0 && self.socket.is_writable()
    }

    fn progress(&self) -> Progress {
        if self.is_runnable() { Progress::Again } else { Progress::Blocked }
    }

    /// No message follows those in flight.
    #[cold]
    fn conclude(&mut self, options: &ClientOptions) -> Result<Progress, Failure> {
        if options.half_close {
            if self.state == State::Open && self.pipeline.unsent == 0 {
                self.socket.stream().shutdown_write().map_err(Failure::Lost)?;
                self.state = State::HalfClosed;
            }
        } else if self.pipeline.in_flight.is_empty() && !self.socket.is_readable() {
            return Ok(Progress::Done);
        }
        Ok(self.progress())
    }

    #[cold]
    fn end_of_stream(&self) -> Result<Progress, Failure> {
        if self.is_last && self.pipeline.in_flight.is_empty() {
            return Ok(Progress::Done);
        }
        Err(Failure::Lost(ErrorKind::UnexpectedEof.into()))
    }

    #[cold]
    fn finish_connect(&mut self, load: &mut impl Load) -> Result<bool, Failure> {
        // Only an established connection can be reset. A connect that fails is refused.
        let was_reset =
            |e: &io::Error| matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        match self.socket.stream().is_connected() {
            Ok(false) => Ok(false),
            Err(e) if !was_reset(&e) => Err(Failure::Connect(e)),
            established => {
                self.state = State::Open;
                let now = load.now();
                load.connected(self.slot, self.last_progress, now);
                self.last_progress = now;
                established.map_err(Failure::Lost)
            }
        }
    }

    fn start_messages(&mut self, context: &Context, load: &mut impl Load, now: Nanos) {
        let options = &context.options;
        while self.has_room(options) {
            match load.next(self.slot, now) {
                Next::Due(due) => self.pipeline.start(&context.payload, due, now),
                Next::NotYet => break,
                Next::Never => self.is_last = true,
            }
        }
        // The half-close follows the last message at once, not when the pipeline has room for another.
        if options.half_close {
            self.look_ahead(options, load, now);
        }
    }

    #[cold]
    fn look_ahead(&mut self, options: &ClientOptions, load: &mut impl Load, now: Nanos) {
        if !self.has_room(options) {
            self.is_last |= load.is_over(self.slot, now);
        }
    }

    fn has_room(&self, options: &ClientOptions) -> bool {
        !self.is_last && self.pipeline.in_flight.len() < options.pipeline
    }

    fn send(&mut self, context: &mut Context) -> io::Result<()> {
        let bytes = self.pipeline.next_bytes(&context.payload, &mut context.chunk);
        if let Sent::Bytes(n) = self.socket.send(bytes)? {
            self.pipeline.advance_sent(&context.payload, n);
        }
        Ok(())
    }

    /// Checks the `n` bytes in the buffer, and counts the messages that are complete.
    fn compare(
        &mut self,
        context: &Context,
        n: usize,
        load: &mut impl Load,
    ) -> Result<(), Failure> {
        match self.pipeline.take_plain(&context.payload, &context.chunk[..n]) {
            Some(whole) => self.count(whole, load),
            None => self.compare_any(context, n, load)?,
        }
        Ok(())
    }

    #[cold]
    fn compare_any(
        &mut self,
        context: &Context,
        n: usize,
        load: &mut impl Load,
    ) -> Result<(), Failure> {
        let got = &context.chunk[..n];
        let (right, whole) = self.pipeline.take_any(&context.payload, got);
        self.count(whole, load);
        if context.payload.has_random_lengths() {
            load.received(right, self.last_progress);
        }
        if right < n { Err(Failure::Corrupt(got[right..].into())) } else { Ok(()) }
    }

    #[inline]
    fn count(&mut self, whole: u64, load: &mut impl Load) {
        while let Some(message) = self.pipeline.pop_whole(whole) {
            load.echoed(message, self.last_progress);
        }
    }
}

impl<S: ConnectingStream> Driven for Client<S> {
    fn slot(&self) -> usize {
        self.slot
    }

    fn echoed(&self) -> u64 {
        self.pipeline.echoed
    }

    fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    fn waiting_since(&self) -> Option<Nanos> {
        match self.pipeline.in_flight.front() {
            Some(message) => Some(message.sent),
            None => (self.state != State::Open).then_some(self.last_progress),
        }
    }

    fn in_flight(&self) -> impl Iterator<Item = &InFlight> {
        self.pipeline.in_flight.iter()
    }

    fn latch(&mut self, readiness: Readiness) {
        self.socket.latch(readiness);
    }

    fn is_runnable(&self) -> bool {
        self.state != State::Connecting && (self.socket.is_readable() || self.may_send())
    }

    /// Makes at most one call in each direction, so that no client keeps the others waiting.
    ///
    /// | answer | effect |
    /// |---|---|
    /// | connect not complete | wait for the next event |
    /// | a message is due, and the pipeline has room | start it |
    /// | send took n | go on; the first byte sets a message's time of sending |
    /// | recv got n | compare; count whole messages, and start others |
    /// | recv got n, and other bytes than were sent | corrupt |
    /// | recv got 0, no message is left or in flight | done |
    /// | recv got 0 otherwise | lost |
    /// | last message sent, `half_close` | shutdown(write), whatever is still in flight |
    /// | last message came back, no `half_close` | done |
    ///
    /// # Errors
    /// Any other answer ends this client, and no other.
    fn drive(
        &mut self,
        context: &mut Context,
        load: &mut impl Load,
        mut now: Nanos,
    ) -> Result<Progress, Failure> {
        if self.state == State::Connecting {
            if !self.finish_connect(load)? {
                return Ok(Progress::Blocked);
            }
            now = self.last_progress;
        }
        if self.socket.is_readable() {
            match self.socket.recv(&mut context.chunk).map_err(Failure::Lost)? {
                Received::Bytes(n) => {
                    now = load.now();
                    self.last_progress = now;
                    self.compare(context, n, load)?;
                }
                Received::EndOfStream => return self.end_of_stream(),
                Received::WouldBlock => {}
            }
        }
        if self.may_send() {
            self.pipeline.update_sent(&context.payload, now);
        }
        self.start_messages(context, load, now);
        if self.may_send() {
            self.send(context).map_err(Failure::Lost)?;
        }
        debug_assert!(self.pipeline.is_consistent(&context.payload, &context.options));
        debug_assert!(self.state != State::HalfClosed || self.is_last && self.pipeline.unsent == 0);
        if self.is_last {
            return self.conclude(&context.options);
        }
        Ok(self.progress())
    }

    /// A stream without one of its messages is of no use.
    fn give_up(&mut self, _: Nanos) -> Option<Vec<Nanos>> {
        None
    }
}
