//! How messages are found in a stream of bytes.

use std::mem;

use crate::protocol::contract::{Malformed, Next, Protocol};
use crate::protocol::exchange::Exchange;

/// A way to delimit messages. It looks at bytes, and does nothing else.
pub trait Framing {
    /// Returns the length of the message at the start of `bytes`, headers and delimiters included, or
    /// `None` if these bytes do not tell it yet. A length may be known before all of the message is there.
    ///
    /// The first `searched` bytes did not tell it when they were looked at before. A delimiter is not among
    /// them, so the search for one begins behind them. Otherwise a message that arrives byte by byte would
    /// be searched from its start with every byte.
    ///
    /// # Errors
    /// No message begins with these bytes.
    fn length(&self, bytes: &[u8], searched: usize) -> Result<Option<usize>, Malformed>;

    /// Returns whether the end of the input also ends a message. By default, a message that has started
    /// is incomplete then.
    fn ends_with_input(&self) -> bool {
        false
    }
}

/// A protocol that echoes whole messages, for any [`Framing`]. The start of a message waits for its rest, and
/// is dropped if the input ends before that.
///
/// A message that is larger than the buffer is malformed as soon as its length is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Framed<F>(pub F);

impl<F: Framing> Framed<F> {
    /// Returns the length of the first message, if all of it is in `bytes`.
    fn first(
        &self,
        bytes: &[u8],
        searched: usize,
        limit: usize,
    ) -> Result<Option<usize>, Malformed> {
        match self.0.length(bytes, searched)? {
            Some(0) => Err(Malformed::new("a message has no bytes")),
            Some(n) if n > limit => Err(Malformed::new("a message is larger than the buffer")),
            length => Ok(length.filter(|&n| n <= bytes.len())),
        }
    }
}

impl<F: Framing> Protocol for Framed<F> {
    /// Number of bytes at the start of the input that were looked at before.
    type State = usize;

    fn received(
        &mut self,
        searched: &mut usize,
        exchange: &mut Exchange<'_>,
    ) -> Result<Next, Malformed> {
        let (input, limit) = (exchange.input(), exchange.limit());
        let mut whole = 0;
        let rest = loop {
            match self.first(&input[whole..], mem::take(searched), limit) {
                Ok(Some(n)) => whole += n,
                rest => break rest,
            }
        };
        let held_back = input.len() - whole;
        // All whole messages at once: nothing but the start of the next one is copied. If there is no room
        // for them, they are searched once more.
        if !exchange.echo(whole) {
            return Ok(Next::Send);
        }
        *searched = held_back;
        rest.map(|_| Next::Receive)
    }

    fn end_of_input(
        &mut self,
        _searched: &mut usize,
        exchange: &mut Exchange<'_>,
    ) -> Result<Next, Malformed> {
        let is_answered = !self.0.ends_with_input() || exchange.echo_all();
        Ok(if is_answered { Next::Close } else { Next::Send })
    }
}
