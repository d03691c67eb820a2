//! The contract between a connection and its protocol.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use crate::protocol::exchange::Exchange;

/// A protocol: decides what a connection answers to the bytes that it receives.
///
/// One value serves all connections of a loop; what belongs to one connection is its
/// [`State`](Protocol::State). No call may wait: it answers from what it is given, and returns.
///
/// The connection does the rest: it receives, sends what is owed, and stops receiving while bytes are
/// owed (back-pressure). When a call begins, nothing is owed, so the whole buffer is free for answers. It is
/// not emptied during the call: a protocol whose next answer does not fit returns [`Next::Send`], and is
/// called again when all is sent.
pub trait Protocol {
    /// State of one connection, for example how far its input was searched. `()` costs no memory.
    type State: Default;

    /// Is called when bytes have arrived, with all bytes that were not consumed yet.
    ///
    /// # Errors
    /// The input is malformed. What was answered before is still sent, then the connection ends.
    fn received(
        &mut self,
        state: &mut Self::State,
        exchange: &mut Exchange<'_>,
    ) -> Result<Next, Malformed>;

    /// Is called when the peer has finished sending. It may still be receiving, so this is the time for
    /// last answers. After [`Next::Send`] it is called again; otherwise the connection ends when all is
    /// sent. Input that is left then was half a message, and is counted as unsent.
    ///
    /// It is not called when the server ends the connection: after [`Next::Close`], by the idle timeout, or in
    /// a drain.
    ///
    /// # Errors
    /// As those of [`received`](Protocol::received).
    fn end_of_input(
        &mut self,
        _state: &mut Self::State,
        _exchange: &mut Exchange<'_>,
    ) -> Result<Next, Malformed> {
        Ok(Next::Close)
    }
}

/// What a protocol wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// Send the answers, then receive more. If the input is as long as the buffer (`max_buffer`) by then, no
    /// more can be received: the message is too large, and the connection ends as malformed.
    Receive,
    /// Send the answers, then call again before receiving more: the answers had no room for all.
    Send,
    /// Send the answers, then end the connection: the conversation is over.
    Close,
}

/// Input that breaks the rules of a protocol. It prints as the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(Cow<'static, str>);

impl Malformed {
    /// Makes the error. The reason is for the log.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Malformed {
        Malformed(reason.into())
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Malformed {}
