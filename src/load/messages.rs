//! What a client shares with the other clients of its loop, what it asks of the load that it is part
//! of, and what it reports.

use std::io;

use crate::load::clock::Nanos;
use crate::load::noise::CHUNK;
use crate::load::payload::Payload;
use crate::net::ready::Readiness;

/// State of a client after it was driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing can be done before the next event.
    Blocked,
    /// The budget of this turn is used up and there is more to do. No event will say so: the connection
    /// belongs in the run queue.
    Again,
    /// The conversation is over: close the connection.
    Done,
}

/// What a loop drives: the client of a stream, or of datagrams.
pub trait Driven {
    /// Returns the number of its slot in its loop.
    fn slot(&self) -> usize;

    /// Returns the number of messages that came back, measured or not.
    fn echoed(&self) -> u64;

    /// Returns whether the connect is not complete.
    fn is_connecting(&self) -> bool;

    /// Returns since when it has waited for the peer: for the connection, for a message, or for the
    /// end of stream.
    fn waiting_since(&self) -> Option<Nanos>;

    /// Returns the messages in flight, oldest first.
    fn in_flight(&self) -> impl Iterator<Item = &InFlight>;

    /// Latches the readiness of an event. It is a hint: the calls tell.
    fn latch(&mut self, readiness: Readiness);

    /// Returns whether a call that it wants to make may be ready. While it connects, only an event
    /// can tell.
    fn is_runnable(&self) -> bool;

    /// Makes the calls that may be ready, and what follows from their answers.
    ///
    /// # Errors
    /// The client has ended early. The others are not concerned.
    fn drive(
        &mut self,
        context: &mut Context,
        load: &mut impl Load,
        now: Nanos,
    ) -> Result<Progress, Failure>;

    /// Gives up all messages that were sent before a time, and returns their due times. `None`: it cannot
    /// go on without them.
    fn give_up(&mut self, sent_before: Nanos) -> Option<Vec<Nanos>>;
}

/// Supplies a client with messages and takes its results.
pub trait Load {
    /// Starts the next message of the connection in this slot, if one is due.
    fn next(&mut self, slot: usize, now: Nanos) -> Next;

    /// Returns whether [`next`](Load::next) would return [`Next::Never`]. A client asks while its
    /// pipeline is full.
    fn is_over(&self, slot: usize, now: Nanos) -> bool;

    /// Reports that a connection was established. The connect took from `begun` to `now`.
    fn connected(&mut self, slot: usize, begun: Nanos, now: Nanos);

    /// Reports that a whole message came back at `now` and that every byte was right.
    fn echoed(&mut self, message: InFlight, now: Nanos);

    /// Reports that this number of right bytes came back at `now`, if the lengths of the messages vary.
    /// Otherwise their number says it.
    fn received(&mut self, bytes: usize, now: Nanos);

    /// Reports a datagram that came back in another way. A stream has no such messages.
    fn stray(&mut self, _stray: Stray) {}

    /// Reads the clock.
    fn now(&self) -> Nanos;
}

/// What a network may do to a datagram, apart from losing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stray {
    /// It came back, and an older one had not. It is also [`echoed`](Load::echoed).
    Reordered,
    /// It came back again.
    Duplicate,
    /// It came back after it was given up.
    Late {
        /// The time when it was due.
        due: Nanos,
    },
}

/// The answer of [`Load::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A message, and the time when it was due.
    Due(Nanos),
    /// No message is due now.
    NotYet,
    /// There are no more messages.
    Never,
}

/// A message that has not come back yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// The time when it was due.
    pub due: Nanos,
    /// The time when its first byte was sent; until then, the time when it was started.
    pub sent: Nanos,
}

/// Why a client ended early.
#[derive(Debug)]
pub enum Failure {
    /// The connection was never established.
    Connect(io::Error),
    /// The connection ended before everything came back.
    Lost(io::Error),
    /// Wrong bytes came back. These bytes follow the place [`received`](crate::load::client::Client::received).
    Corrupt(Vec<u8>),
}

/// What all clients of a run do alike.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// Most messages in flight, at least 1.
    pub pipeline: usize,
    /// Whether to shut down the sending direction right after the last message.
    pub half_close: bool,
}

/// The payload, the options, and a buffer for the bytes of one call.
#[derive(Debug)]
pub struct Context {
    /// The bytes to send.
    pub payload: Payload,
    /// What the clients do.
    pub options: ClientOptions,
    pub(crate) chunk: Box<[u8]>,
}

impl Context {
    /// Returns a context with a new buffer.
    pub fn new(payload: Payload, options: ClientOptions) -> Context {
        Context { payload, options, chunk: vec![0; CHUNK].into() }
    }
}
