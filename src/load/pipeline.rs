//! The messages of one connection that are in flight, and how far its stream has gone.

use std::collections::VecDeque;

use crate::load::clock::Nanos;
use crate::load::messages::{ClientOptions, InFlight};
use crate::load::noise::CHUNK;
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

    /// Takes bytes that came back, in the usual case; see [`Payload::pass_plain`]. Returns the number of
    /// whole messages that have come back.
    #[inline]
    pub(super) fn take_plain(&mut self, payload: &Payload, got: &[u8]) -> Option<u64> {
        if got.len() as u64 > self.outstanding() {
            return None;
        }
        payload.pass_plain(&mut self.received, got)
    }

    /// Takes bytes that came back, up to the first one that is wrong. Bytes behind all that was sent are
    /// wrong. Returns how many are right, and the number of whole messages that have come back.
    pub(super) fn take_any(&mut self, payload: &Payload, got: &[u8]) -> (usize, u64) {
        let expected = &got[..self.outstanding().min(got.len() as u64) as usize];
        let right = payload.count_right(&self.received, expected);
        payload.advance(&mut self.received, right);
        (right, payload.whole(&self.received))
    }

    fn outstanding(&self) -> u64 {
        self.sent.offset() - self.received.offset()
    }

    /// Takes the next message, if fewer than `whole` messages were taken.
    #[inline]
    pub(super) fn pop_whole(&mut self, whole: u64) -> Option<InFlight> {
        if self.echoed >= whole {
            return None;
        }
        self.echoed += 1;
        self.in_flight.pop_front()
    }

    /// Returns whether the bytes and the messages agree, as they do after every drive.
    pub(super) fn is_consistent(&self, payload: &Payload, options: &ClientOptions) -> bool {
        let all_sent = payload.whole(&self.sent) == self.started();
        self.in_flight.len() <= options.pipeline
            && all_sent == (self.unsent == 0)
            && self.received.offset() <= self.sent.offset()
    }
}
