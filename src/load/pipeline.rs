//! The messages of one connection that are in flight, and how far its stream has gone.

use std::collections::VecDeque;

use crate::load::clock::Nanos;
use crate::load::messages::{CHUNK, ClientOptions, InFlight};
use crate::load::payload::{Cursor, Key, Payload};

/// Messages and bytes between their start and their return.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Number of messages that came back.
    pub(super) echoed: u64,
    /// Messages in flight, oldest first.
    pub(super) in_flight: VecDeque<InFlight>,
    /// Number of their bytes that the kernel has not taken yet.
    pub(super) unsent: u64,
    /// How much of the stream the kernel has taken.
    pub(super) sent: Cursor,
    /// How much of the stream has come back.
    pub(super) received: Cursor,
}

impl Pipeline {
    pub(super) fn new(key: Key) -> Pipeline {
        Pipeline {
            echoed: 0,
            in_flight: VecDeque::new(),
            unsent: 0,
            sent: Cursor::new(key),
            received: Cursor::new(key),
        }
    }

    pub(super) fn start(&mut self, due: Nanos, now: Nanos, length: u64) {
        self.in_flight.push_back(InFlight { due, sent: now });
        self.unsent += length;
    }

    /// Messages of which no byte was sent yet are sent now, not when they were started.
    #[cold]
    pub(super) fn update_sent(&mut self, length: u64, now: Nanos) {
        let begun = self.sent.offset().div_ceil(length) - self.echoed;
        for message in self.in_flight.range_mut(begun as usize..) {
            message.sent = now;
        }
    }

    /// Returns the bytes to send next.
    pub(super) fn next_bytes<'a>(&self, payload: &'a Payload, room: &'a mut [u8]) -> &'a [u8] {
        let length = self.unsent.min(CHUNK as u64) as usize;
        payload.bytes(self.sent, length, room)
    }

    /// The kernel has taken `n` bytes.
    pub(super) fn advance_sent(&mut self, n: usize) {
        self.sent.advance(n);
        self.unsent -= n as u64;
    }

    /// Takes bytes that came back, and returns how many of them, from the first on, are right. Bytes
    /// behind all that was sent are not.
    pub(super) fn take(&mut self, payload: &Payload, got: &[u8]) -> usize {
        let outstanding = self.sent.offset() - self.received.offset();
        let expected = &got[..outstanding.min(got.len() as u64) as usize];
        let right = payload.count_right(self.received, expected);
        self.received.advance(right);
        right
    }

    /// Takes the next message that has come back whole.
    pub(super) fn pop_whole(&mut self, length: u64) -> Option<InFlight> {
        if (self.echoed + 1) * length > self.received.offset() {
            return None;
        }
        let message = self.in_flight.pop_front()?;
        self.echoed += 1;
        Some(message)
    }

    /// Returns whether the bytes and the messages agree, as they do after every drive.
    pub(super) fn is_consistent(&self, options: &ClientOptions) -> bool {
        let started = (self.echoed + self.in_flight.len() as u64) * options.length;
        self.in_flight.len() <= options.pipeline
            && self.sent.offset() + self.unsent == started
            && self.received.offset() <= self.sent.offset()
    }
}
