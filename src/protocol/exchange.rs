//! What a protocol is given: received bytes, and a place for answers.

use std::mem;

use crate::net::buffer::Buffer;
use crate::net::pool::Pool;

/// The two buffers of a connection, as its protocol sees them.
#[derive(Debug)]
pub struct Exchange<'a> {
    input: &'a mut Buffer,
    output: &'a mut Buffer,
    pool: &'a mut Pool,
}

impl<'a> Exchange<'a> {
    /// Joins the buffers of a connection. A test of a protocol needs no more than two buffers and a pool.
    pub fn new(input: &'a mut Buffer, output: &'a mut Buffer, pool: &'a mut Pool) -> Exchange<'a> {
        Exchange { input, output, pool }
    }

    /// Returns the bytes received and not consumed, oldest first.
    pub fn input(&self) -> &[u8] {
        self.input.bytes()
    }

    /// Returns the most bytes that the input can hold. So no message can be larger.
    pub fn limit(&self) -> usize {
        self.pool.page_size()
    }

    /// Consumes the first `n` bytes of the input.
    ///
    /// # Panics
    /// The input has fewer bytes. A protocol that consumes what it has not seen is wrong.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.input.len(), "a protocol consumes more than its input");
        self.input.consume(n, self.pool);
    }

    /// Answers with a copy of these bytes. Returns false, and takes nothing, if there is no room for them
    /// or no memory: then leave their input where it is and return
    /// [`Next::Send`](crate::protocol::Next::Send). An answer larger than a whole buffer can never be taken,
    /// and ends the connection.
    #[must_use = "an answer that was not taken must be given again"]
    pub fn answer(&mut self, bytes: &[u8]) -> bool {
        self.output.append(bytes, self.pool).unwrap_or(false)
    }

    /// Answers with the first `n` bytes of the input, and consumes them. Returns false, and does nothing,
    /// if there is no room for them. Little is copied where the answer is most of the input.
    ///
    /// # Panics
    /// As [`consume`](Exchange::consume).
    #[must_use = "an answer that was not taken must be given again"]
    #[inline]
    pub fn echo(&mut self, n: usize) -> bool {
        assert!(n <= self.input.len(), "a protocol echoes more than its input");
        self.input.move_to(self.output, n, self.pool).unwrap_or(false)
    }

    /// Answers with all of the input, as [`echo`](Exchange::echo) does. Nothing is copied if nothing was
    /// answered before.
    #[must_use = "an answer that was not taken must be given again"]
    #[inline]
    pub fn echo_all(&mut self) -> bool {
        if self.output.is_empty() {
            mem::swap(self.input, self.output);
            return true;
        }
        self.echo(self.input.len())
    }
}
