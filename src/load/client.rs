//! One connection's state machine, seen from the side that connects.
//!
//! ```text
//!                connected            nothing more to say,
//!                                     with half-close: shutdown(write)
//!   Connecting ------------> Open ----------------------------> HalfClosed
//!                             |  nothing more to say,               | all is back,
//!                             |  and all is back                    | then the end
//!                             v                                     v
//!                            done                                  done
//! ```
//!
//! A client holds no bytes. What it sends and what must come back are functions of an offset in its
//! stream ([`Payload`]); what remains of a message is when it was due and when it was sent.
//!
//! It differs from the server's connection in one rule: it has no back-pressure. It sends and receives
//! at once, for a message may be larger than all the buffers between here and there, and who sends all
//! of it first waits for ever.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::load::payload::{Cursor, Key, Payload};
use crate::net::nonblocking::{Received, Sent, Stream};
use crate::net::ready::{Latched, Progress, Readiness};

/// Bytes made, sent and received in one call.
const CHUNK: usize = 64 * 1024;

/// Nanoseconds since the run's epoch.
pub type Nanos = u64;

/// A stream whose connect was begun and may not be done.
pub trait Dialed: Stream {
    /// Whether the connection stands. That a socket is writable means "a decent chance that it has
    /// connected" (HOWTO), no more.
    ///
    /// # Errors
    /// Why it never will.
    fn is_connected(&self) -> io::Result<bool>;
}

/// What a client asks of the load that it is part of.
pub trait Load {
    /// Its next message, if it may have one.
    fn next(&mut self, slot: usize, now: Nanos) -> Next;

    /// Whether [`next`](Load::next) would say never; asked while it may have no other message.
    fn is_over(&self, slot: usize, now: Nanos) -> bool;

    /// The connection stands, after a connect that took from `dialed` to `now`.
    fn connected(&mut self, slot: usize, dialed: Nanos, now: Nanos);

    /// A whole message is back, and every byte of it was right.
    fn echoed(&mut self, flight: Flight, now: Nanos);

    /// The time, read anew.
    fn now(&self) -> Nanos;
}

/// The answer of [`Load::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A message that was due then.
    Due(Nanos),
    /// None now.
    NotYet,
    /// None any more.
    Never,
}

/// A message that is not back yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// When it should have been sent.
    pub due: Nanos,
    /// When its first byte really was; until then, when it was taken on.
    pub sent: Nanos,
}

/// What all clients of a loop share: the payload, how it is used, and room for the bytes of one call.
#[derive(Debug)]
pub struct Tools {
    /// All that is sent.
    pub payload: Arc<Payload>,
    /// How it is sent.
    pub manner: Manner,
    chunk: Box<[u8]>,
}

impl Tools {
    /// Those for this payload.
    pub fn new(payload: impl Into<Arc<Payload>>, manner: Manner) -> Tools {
        Tools { payload: payload.into(), manner, chunk: vec![0; CHUNK].into() }
    }
}

/// How a client wants to be used, the same for all of a run.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Bytes a message, at least 1.
    pub length: u64,
    /// Messages in flight at most, at least 1.
    pub pipeline: usize,
    /// Shut down our direction right behind the last message.
    pub half_close: bool,
}

/// Why a client cannot go on.
#[derive(Debug)]
pub enum Failure {
    /// The connection never stood.
    Connect(io::Error),
    /// It ended before all was back.
    Lost(io::Error),
    /// Wrong bytes came back, these and perhaps more, behind what was [`received`](Client::received).
    Corrupt(Vec<u8>),
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
    /// There is nothing more to say.
    said_all: bool,
    /// Messages that are back.
    echoed: u64,
    /// Messages that were taken on and are not, the oldest first.
    flights: VecDeque<Flight>,
    /// Bytes of them that were not handed to the kernel yet.
    owed: u64,
    /// How much of the stream was handed to the kernel, and how much has come back.
    sent: Cursor,
    received: Cursor,
    /// When bytes last came; before any did, when the connection stood, or when its connect began.
    moved: Nanos,
}

impl<S: Dialed> Client<S> {
    /// A client whose connect began at `now`. `slot` is its place among the connections of its loop,
    /// `key` its stream.
    pub fn new(stream: S, slot: usize, key: Key, manner: &Manner, now: Nanos) -> Client<S> {
        Client {
            socket: Latched::new(stream),
            state: State::Connecting,
            slot,
            said_all: false,
            echoed: 0,
            flights: VecDeque::with_capacity(manner.pipeline),
            owed: 0,
            sent: Cursor::new(key),
            received: Cursor::new(key),
            moved: now,
        }
    }

    /// The same for a connection that is made for a single message, which was due then.
    #[must_use]
    pub fn for_one(mut self, due: Nanos, manner: &Manner) -> Client<S> {
        self.flights.push_back(Flight { due, sent: self.moved });
        self.owed = manner.length;
        self.said_all = true;
        self
    }

    /// Its place among the connections of its loop.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Messages that came back, those included that were not measured.
    pub fn echoed(&self) -> u64 {
        self.echoed
    }

    /// The place in its stream up to which it has come back.
    pub fn received(&self) -> Cursor {
        self.received
    }

    /// Bytes handed to the kernel: no more than this can come back.
    pub fn sent(&self) -> u64 {
        self.sent.offset()
    }

    /// Whether the connect is not done.
    pub fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    /// Since when it has waited for the peer: for the connection, for a message, or for the end.
    pub fn waiting_since(&self) -> Option<Nanos> {
        match self.flights.front() {
            Some(flight) => Some(flight.sent),
            None => (self.state != State::Open).then_some(self.moved),
        }
    }

    /// Messages taken on that are not back, the oldest first.
    pub fn in_flight(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter()
    }

    /// Latches what an event said; see [`Latched::latch`].
    pub fn latch(&mut self, said: Readiness) {
        self.socket.latch(said);
    }

    /// Whether a wanted call may be ready. While connecting, only an event can tell.
    pub fn is_runnable(&self) -> bool {
        self.state != State::Connecting && (self.socket.is_readable() || self.may_send())
    }

    fn may_send(&self) -> bool {
        self.owed > 0 && self.socket.is_writable()
    }

    /// Makes at most one call in each direction, so that no client keeps the others waiting.
    ///
    /// | answer | effect |
    /// |---|---|
    /// | connect not done | wait for the next event |
    /// | a message is due, and the pipeline has room | taken on |
    /// | send took n | go on; its first byte marks a message's time |
    /// | recv got n | compared; whole messages are counted, and others may be due |
    /// | recv got n, and not what was sent | corrupt |
    /// | recv got 0, all is said and all is back | done |
    /// | recv got 0 otherwise | lost |
    /// | all is said and sent, `half_close` | shutdown(write), whatever is still to come back |
    /// | all is said and all is back, no `half_close` | done |
    ///
    /// # Errors
    /// Any other answer ends this client, and no other.
    pub fn drive(
        &mut self,
        tools: &mut Tools,
        load: &mut impl Load,
        mut now: Nanos,
    ) -> Result<Progress, Failure> {
        if self.state == State::Connecting {
            if !self.stands(load)? {
                return Ok(Progress::Blocked);
            }
            now = self.moved;
        }
        if self.socket.is_readable() {
            match self.socket.recv(&mut tools.chunk).map_err(Failure::Lost)? {
                Received::Bytes(n) => {
                    now = load.now();
                    self.compare(tools, n, load, now)?;
                }
                Received::End => return self.ended(),
                Received::WouldBlock => {}
            }
        }
        if self.may_send() {
            self.depart(tools.manner.length, now);
        }
        self.take_on(&tools.manner, load, now);
        if self.may_send() {
            self.send(tools).map_err(Failure::Lost)?;
        }
        if self.said_all {
            return self.conclude(&tools.manner);
        }
        Ok(self.progress())
    }

    fn progress(&self) -> Progress {
        if self.is_runnable() { Progress::Again } else { Progress::Blocked }
    }

    /// There is nothing more to say.
    #[cold]
    fn conclude(&mut self, manner: &Manner) -> Result<Progress, Failure> {
        if manner.half_close {
            if self.state == State::Open && self.owed == 0 {
                self.socket.stream().shutdown_write().map_err(Failure::Lost)?;
                self.state = State::HalfClosed;
            }
        } else if self.flights.is_empty() && !self.socket.is_readable() {
            return Ok(Progress::Done);
        }
        Ok(self.progress())
    }

    /// Zero bytes: the server has finished sending.
    #[cold]
    fn ended(&self) -> Result<Progress, Failure> {
        if self.said_all && self.flights.is_empty() {
            return Ok(Progress::Done);
        }
        Err(Failure::Lost(ErrorKind::UnexpectedEof.into()))
    }

    #[cold]
    fn stands(&mut self, load: &mut impl Load) -> Result<bool, Failure> {
        // A connect is refused: only what stood can be reset.
        let was_reset =
            |e: &io::Error| matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        match self.socket.stream().is_connected() {
            Ok(false) => Ok(false),
            Err(e) if !was_reset(&e) => Err(Failure::Connect(e)),
            stood => {
                self.state = State::Open;
                let now = load.now();
                load.connected(self.slot, self.moved, now);
                self.moved = now;
                stood.map_err(Failure::Lost)
            }
        }
    }

    fn take_on(&mut self, manner: &Manner, load: &mut impl Load, now: Nanos) {
        while self.has_room(manner) {
            match load.next(self.slot, now) {
                Next::Due(due) => {
                    self.flights.push_back(Flight { due, sent: now });
                    self.owed += manner.length;
                }
                Next::NotYet => break,
                Next::Never => self.said_all = true,
            }
        }
        // Our end goes right behind the last message, not when the pipeline has room for another.
        if manner.half_close {
            self.look_ahead(manner, load, now);
        }
    }

    #[cold]
    fn look_ahead(&mut self, manner: &Manner, load: &mut impl Load, now: Nanos) {
        if !self.has_room(manner) {
            self.said_all |= load.is_over(self.slot, now);
        }
    }

    fn has_room(&self, manner: &Manner) -> bool {
        !self.said_all && self.flights.len() < manner.pipeline
    }

    fn send(&mut self, tools: &mut Tools) -> io::Result<()> {
        let length = self.owed.min(CHUNK as u64) as usize;
        let bytes = tools.payload.bytes(self.sent, length, &mut tools.chunk);
        if let Sent::Bytes(n) = self.socket.send(bytes)? {
            self.sent.advance(n);
            self.owed -= n as u64;
        }
        Ok(())
    }

    /// Messages of which no send has taken anything yet leave now, not when they were taken on.
    #[cold]
    fn depart(&mut self, length: u64, now: Nanos) {
        let gone = self.sent.offset().div_ceil(length) - self.echoed;
        for flight in self.flights.range_mut(gone as usize..) {
            flight.sent = now;
        }
    }

    /// Checks the `n` bytes that came, and counts the messages that are whole.
    fn compare(
        &mut self,
        tools: &Tools,
        n: usize,
        load: &mut impl Load,
        now: Nanos,
    ) -> Result<(), Failure> {
        self.moved = now;
        let got = &tools.chunk[..n];
        let under_way = self.sent.offset() - self.received.offset();
        let expected = &got[..under_way.min(n as u64) as usize];
        let right = tools.payload.count_right(self.received, expected);
        self.received.advance(right);
        while (self.echoed + 1) * tools.manner.length <= self.received.offset()
            && let Some(flight) = self.flights.pop_front()
        {
            self.echoed += 1;
            load.echoed(flight, now);
        }
        if right < n { Err(corrupt(&got[right..])) } else { Ok(()) }
    }
}

#[cold]
fn corrupt(got: &[u8]) -> Failure {
    Failure::Corrupt(got.into())
}
