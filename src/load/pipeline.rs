//! The messages of one connection that are in flight, and how far its stream has gone.

use std::collections::VecDeque;

use crate::load::clock::Nanos;
use crate::load::messages::{CHUNK, ClientOptions, InFlight};
use crate::load::payload::{Cursor, Payload};

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
    pub(super) fn new(start: Cursor) -> Pipeline {
        Pipeline { echoed: 0, in_flight: VecDeque::new(), unsent: 0, sent: start, received: start }
    }

    /// Returns the number of messages that were started.
    fn started(&self) -> u64 {
        self.echoed + self.in_flight.len() as u64
    }

    #[inline]
    pub(super) fn start(&mut self, payload: &Payload, due: Nanos, now: Nanos) {
        self.unsent += payload.length(&self.sent, self.started());
        self.in_flight.push_back(InFlight { due, sent: now });
    }

    /// Messages of which no byte was sent yet are sent now, not when they were started.
    #[cold]
    pub(super) fn update_sent(&mut self, payload: &Payload, now: Nanos) {
        let begun = payload.begun(&self.sent) - self.echoed;
        for message in self.in_flight.range_mut(begun as usize..) {
            message.sent = now;
        }
    }

    /// Returns the bytes to send next.
    pub(super) fn next_bytes<'a>(&self, payload: &'a Payload, room: &'a mut [u8]) -> &'a [u8] {
        let length = self.unsent.min(CHUNK as u64) as usize;
        payload.bytes(&self.sent, length, room)
    }

    /// The kernel has taken `n` bytes.
    pub(super) fn advance_sent(&mut self, payload: &Payload, n: usize) {
        payload.advance(&mut self.sent, n);
        self.unsent -= n as u64;
    }

    /// Takes bytes that came back, and returns how many of them, from the first on, are right. Bytes
    /// behind all that was sent are not. `echoed` is called with each message that has come back whole.
    #[inline]
    pub(super) fn take(
        &mut self,
        payload: &Payload,
        got: &[u8],
        mut echoed: impl FnMut(InFlight),
    ) -> usize {
        let outstanding = self.sent.offset() - self.received.offset();
        let expected = &got[..outstanding.min(got.len() as u64) as usize];
        let (right, whole) = payload.check(&mut self.received, expected);
        while self.echoed < whole
            && let Some(message) = self.in_flight.pop_front()
        {
            echoed(message);
            self.echoed += 1;
        }
        right
    }

    /// Returns whether the bytes and the messages agree, as they do after every drive.
    pub(super) fn is_consistent(&self, payload: &Payload, options: &ClientOptions) -> bool {
        let all_sent = payload.whole(&self.sent) == self.started();
        self.in_flight.len() <= options.pipeline
            && all_sent == (self.unsent == 0)
            && self.received.offset() <= self.sent.offset()
    }
}
