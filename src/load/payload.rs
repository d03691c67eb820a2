//! The bytes that are sent, and the check that they came back.
//!
//! Every byte of a connection's stream is a function of the seed, the connection and the offset of the
//! byte: it is a byte of the [noise](crate::load::noise), or, with a framing, a part of a header or a
//! newline, which follow from the number of the message. The length of a message follows from its
//! number too. So nothing has to be kept until it comes back. A misplaced byte is found wherever it
//! belongs; the noise says what it cannot tell apart.
//!
//! (One file: making bytes and checking them must agree.)

use std::num::NonZero;
use std::sync::Arc;

use crate::load::noise::{Noise, Place, count_same, mix};
use crate::load::shape::Shape;
use crate::protocol::Kind;

/// Number of bytes that are made at once to be compared, where they cannot be borrowed.
const PIECE: usize = 1024;

/// Takes the place of a newline within a line.
const NO_NEWLINE: u8 = b'\n' + 1;

/// The bytes of one run.
#[derive(Debug, Clone)]
pub struct Payload {
    noise: Arc<Noise>,
    shape: Shape,
    /// Whether every byte is a byte of the noise.
    is_plain: bool,
    /// Number of bytes of every message, if all have the same.
    fixed_length: Option<NonZero<u64>>,
    /// The same, if also every byte is a byte of the noise: the usual case, which has to be fast.
    plain_length: Option<NonZero<u64>>,
}

/// A place in the stream of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    place: Place,
    /// The message that contains the next byte, where the lengths vary. Otherwise it follows from the
    /// offset, and this is not kept up to date.
    message: Message,
}

/// A message in a stream.
#[derive(Debug, Clone, Copy, Default)]
struct Message {
    number: u64,
    /// Offset of its end.
    end: u64,
}

impl Cursor {
    /// Returns the number of bytes before this place.
    pub fn offset(&self) -> u64 {
        self.place.offset()
    }
}

impl Payload {
    /// Returns the streams of messages of this shape.
    pub fn new(noise: impl Into<Arc<Noise>>, shape: Shape) -> Payload {
        let (min, max) = shape.lengths();
        let fixed_length = NonZero::new(min).filter(|_| min == max);
        let is_plain = shape.is_plain();
        let plain_length = fixed_length.filter(|_| is_plain);
        let noise: Arc<Noise> = noise.into();
        let noise = match fixed_length {
            Some(length) => noise.for_messages(length),
            None => noise,
        };
        Payload { noise, shape, is_plain, fixed_length, plain_length }
    }

    /// Returns the beginning of the stream of the connection with this number.
    pub fn start(&self, connection: u64) -> Cursor {
        let place = self.noise.start(connection);
        let mut start = Cursor { place, message: Message::default() };
        start.message.end = self.length(&start, 0);
        start
    }

    /// Returns whether the lengths of the messages vary.
    #[inline]
    pub fn has_random_lengths(&self) -> bool {
        self.fixed_length.is_none()
    }

    /// Returns the number of bytes of a message in the stream of a cursor.
    #[inline]
    pub fn length(&self, stream: &Cursor, message: u64) -> u64 {
        match self.fixed_length {
            Some(length) => length.get(),
            None => self.random_length(stream, message),
        }
    }

    /// Cold, as everything that the usual case, raw messages of one length, does not need.
    #[cold]
    fn random_length(&self, stream: &Cursor, message: u64) -> u64 {
        self.shape.length(random(stream, message))
    }

    /// Returns the message that contains the next byte.
    fn message(&self, at: &Cursor) -> Message {
        match self.fixed_length {
            Some(length) => {
                let number = at.offset() / length;
                Message { number, end: (number + 1) * length.get() }
            }
            None => at.message,
        }
    }

    /// Returns the number of whole messages before the place.
    pub fn whole(&self, at: &Cursor) -> u64 {
        match self.fixed_length {
            Some(length) => at.offset() / length,
            None => at.message.number,
        }
    }

    /// Returns the number of messages of which at least a part stands before the place.
    pub fn begun(&self, at: &Cursor) -> u64 {
        let Message { number, end } = self.message(at);
        number + u64::from(end - at.offset() < self.length(at, number))
    }

    /// Moves a cursor forward by `n` bytes.
    #[inline]
    pub fn advance(&self, at: &mut Cursor, n: usize) {
        self.noise.advance(&mut at.place, n as u64);
        if self.fixed_length.is_none() {
            self.pass_messages(at);
        }
    }

    #[cold]
    fn pass_messages(&self, at: &mut Cursor) {
        while at.message.end <= at.offset() {
            at.message.number += 1;
            at.message.end += self.length(at, at.message.number);
        }
    }

    /// Returns the place `n` bytes before another one.
    pub(super) fn back(&self, mut at: Cursor, n: u64) -> Cursor {
        self.noise.go_back(&mut at.place, n);
        let Message { mut number, mut end } = at.message;
        while self.fixed_length.is_none() && end - self.length(&at, number) > at.offset() {
            end -= self.length(&at, number);
            number -= 1;
        }
        at.message = Message { number, end };
        at
    }

    /// Returns the number of bytes of the header of a message.
    pub(super) fn header_length(&self) -> usize {
        self.shape.header_length() as usize
    }

    /// Returns the `length` bytes that follow a place. They are borrowed from the noise, or copied to
    /// `room` if the delimiter of a message is among them.
    pub fn bytes<'a>(&'a self, at: &Cursor, length: usize, room: &'a mut [u8]) -> &'a [u8] {
        if (self.is_plain || self.count_noise(at) >= length as u64)
            && let Some(bytes) = self.noise.rest(&at.place).get(..length)
        {
            return bytes;
        }
        let room = &mut room[..length];
        self.fill(*at, room);
        room
    }

    /// Returns the number of bytes after a place that are bytes of the noise, as far as the message that
    /// contains the next byte is concerned.
    #[cold]
    fn count_noise(&self, at: &Cursor) -> u64 {
        let Message { number, end } = self.message(at);
        let noise = self.length(at, number) - self.shape.header_length();
        let rest = end - at.offset();
        if rest > noise || *self.shape.framing() == Kind::Line { 0 } else { rest }
    }

    /// Fills a buffer with the bytes that follow a place.
    pub fn fill(&self, mut at: Cursor, mut out: &mut [u8]) {
        if self.is_plain {
            return self.noise.fill(at.place, out);
        }
        while !out.is_empty() {
            let n = (self.message(&at).end - at.offset()).min(out.len() as u64) as usize;
            let (now, later) = out.split_at_mut(n);
            self.noise.fill(at.place, now);
            self.delimit(&at, now);
            self.advance(&mut at, n);
            out = later;
        }
    }

    /// Makes the delimiter of a message. `part` is a part of one message, from a place on.
    fn delimit(&self, at: &Cursor, part: &mut [u8]) {
        let Message { number, end } = self.message(at);
        if *self.shape.framing() == Kind::Line {
            part.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = NO_NEWLINE);
            if end == at.offset() + part.len() as u64
                && let Some(last) = part.last_mut()
            {
                *last = b'\n';
            }
            return;
        }
        let before = self.length(at, number) - (end - at.offset());
        let header = self.shape.header(random(at, number));
        let rest = header.bytes().get(before as usize..).unwrap_or_default();
        part.iter_mut().zip(rest).for_each(|(byte, header)| *byte = *header);
    }

    /// Moves a cursor over bytes that came back, and returns the number of whole messages before it. This
    /// is the usual case, which has to be fast. `None`, and nothing is moved, where the case is another
    /// one: the messages are not plain, or a byte is wrong.
    #[inline]
    pub(super) fn pass_plain(&self, at: &mut Cursor, got: &[u8]) -> Option<u64> {
        let length = self.plain_length?;
        if !self.noise.rest(&at.place).starts_with(got) {
            return None;
        }
        self.noise.advance(&mut at.place, got.len() as u64);
        Some(at.offset() / length)
    }

    /// Returns how many of the bytes, from the first on, are those that follow a place.
    pub fn count_right(&self, at: &Cursor, got: &[u8]) -> usize {
        if !self.is_plain {
            return self.count_delimited(at, got);
        }
        self.noise.count_right(&at.place, got)
    }

    #[cold]
    fn count_delimited(&self, at: &Cursor, got: &[u8]) -> usize {
        let (mut at, mut left) = (*at, got);
        let mut room = [0; PIECE];
        while !left.is_empty() {
            let noise = self.count_noise(&at).min(left.len() as u64) as usize;
            let (now, later) = left.split_at(if noise > 0 { noise } else { left.len().min(PIECE) });
            let right = if noise > 0 {
                self.noise.count_right(&at.place, now)
            } else {
                let expected = &mut room[..now.len()];
                self.fill(at, expected);
                if now == expected { now.len() } else { count_same(now, expected) }
            };
            if right < now.len() {
                return got.len() - left.len() + right;
            }
            self.advance(&mut at, right);
            left = later;
        }
        got.len()
    }
}

/// Number of bytes of the number of a datagram.
const NUMBER: usize = 8;

/// An odd number, and its inverse modulo 2^64. A product with the first one differs in many bits when its
/// other factor differs in one; the second one takes it back.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
const GATHER: u64 = 0xF1DE_83E1_9937_733D;
const _: () = assert!(SPREAD.wrapping_mul(GATHER) == 1);

/// Datagrams. Each has its own piece of the stream, and begins with its number if it has room for it.
impl Payload {
    /// Returns a datagram of a stream, written to the beginning of `room`.
    pub(super) fn datagram<'a>(
        &self,
        stream: &Cursor,
        number: u64,
        room: &'a mut [u8],
    ) -> &'a [u8] {
        let datagram = &mut room[..self.length(stream, number) as usize];
        self.noise.fill(self.datagram_place(stream, number), datagram);
        if let Some(head) = datagram.first_chunk_mut() {
            *head = (number.wrapping_mul(SPREAD) ^ stream.place.key()).to_be_bytes();
        }
        datagram
    }

    /// Returns whether this is the datagram with this number, every byte of it.
    pub(super) fn is_datagram(&self, stream: &Cursor, number: u64, got: &[u8]) -> bool {
        let mut place = self.datagram_place(stream, number);
        let noise = match stream.datagram_number(got) {
            Some(found) if found != number => return false,
            Some(_) => &got[NUMBER..],
            None => got,
        };
        self.noise.advance(&mut place, (got.len() - noise.len()) as u64);
        self.length(stream, number) == got.len() as u64
            && self.noise.count_right(&place, noise) == noise.len()
    }

    fn datagram_place(&self, stream: &Cursor, number: u64) -> Place {
        let mut place = stream.place;
        self.noise.advance(&mut place, number * u64::from(u16::MAX));
        place
    }
}

impl Cursor {
    /// Returns the number that a datagram of this stream carries, if it is long enough. It is multiplied by a
    /// constant, so that a changed bit makes it a number of nothing that was sent, and not that of its
    /// neighbour. The key of the stream does the same for datagrams of other streams.
    pub(super) fn datagram_number(&self, got: &[u8]) -> Option<u64> {
        let head: &[u8; NUMBER] = got.first_chunk()?;
        Some((u64::from_be_bytes(*head) ^ self.place.key()).wrapping_mul(GATHER))
    }
}

/// Returns the random number of a message, which determines its length and its type.
fn random(stream: &Cursor, message: u64) -> u64 {
    mix(stream.place.key() ^ mix(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMINGS: [&str; 6] =
        ["raw", "line", "fixed:100", "length:ascii5", "length:u32", "typed:A=4,B=16,C=0"];

    fn payload(seed: u64, framing: &str) -> Payload {
        let framing: Kind = framing.parse().expect(framing);
        let is_free = !matches!(framing, Kind::Fixed(_) | Kind::Typed(_));
        let lengths = Some(6..=300).filter(|_| is_free);
        Payload::new(Noise::new(seed), Shape::new(framing, lengths).expect("a shape"))
    }

    #[test]
    fn a_flipped_bit_in_the_number_of_a_datagram_makes_it_that_of_no_other() {
        let payload = payload(7, "raw");
        let stream = payload.start(3);
        for number in [0, 1, 2, 1000, 1 << 40] {
            let mut room = [0; 1024];
            let length = payload.datagram(&stream, number, &mut room).len();
            assert_eq!(stream.datagram_number(&room[..length]), Some(number));
            for bit in 0..64 {
                let mut flipped = room;
                flipped[bit / 8] ^= 1 << (bit % 8);
                let found = stream.datagram_number(&flipped[..length]).unwrap();
                assert!(found.abs_diff(number) > 1 << 56, "{number} became {found}");
            }
        }
    }

    fn bytes(payload: &Payload, at: Cursor, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        payload.fill(at, &mut out);
        out
    }

    fn at(payload: &Payload, connection: u64, offset: usize) -> Cursor {
        let mut at = payload.start(connection);
        payload.advance(&mut at, offset);
        at
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        for framing in FRAMINGS {
            let payload = payload(1, framing);
            let whole = bytes(&payload, payload.start(7), 20_000);
            for (offset, length) in
                [(0, 1), (3, 5), (4090, 13), (4096, 64), (8191, 10_000), (17, 0)]
            {
                let at = at(&payload, 7, offset);
                let cut = bytes(&payload, at, length);
                assert_eq!(cut, whole[offset..][..length], "{framing}, {offset}, {length}");
                assert_eq!(payload.count_right(&at, &cut), length, "{framing}");
                let mut room = vec![0; 20_000];
                assert_eq!(payload.bytes(&at, length, &mut room), cut, "{framing}");
                let back = payload.back(at, offset as u64 / 2);
                assert_eq!(bytes(&payload, back, 100), whole[offset.div_ceil(2)..][..100]);
            }
        }
    }

    #[test]
    fn a_receiver_that_knows_the_framing_finds_the_same_messages() {
        for framing in FRAMINGS {
            let payload = payload(2, framing);
            let stream = bytes(&payload, payload.start(0), 100_000);
            let mut start = 0;
            for message in 0..200 {
                let length = payload.length(&payload.start(0), message) as usize;
                let whole = &stream[start..][..length];
                let number = |digits: &[u8]| {
                    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok())
                };
                let found = match framing {
                    "line" => whole.iter().position(|&byte| byte == b'\n').map(|at| at + 1),
                    "length:ascii5" => number(&whole[..5]).map(|n: usize| n + 5),
                    "length:u32" => {
                        let prefix = whole[..4].try_into().expect("four bytes");
                        Some(u32::from_be_bytes(prefix) as usize + 4)
                    }
                    "typed:A=4,B=16,C=0" => match whole[0] {
                        b'A' => Some(5),
                        b'B' => Some(17),
                        b'C' => Some(1),
                        _ => None,
                    },
                    "fixed:100" => Some(100),
                    _ => Some(length),
                };
                assert_eq!(found, Some(length), "{framing}, message {message}");
                start += length;
            }
        }
    }

    #[test]
    fn messages_connections_and_seeds_differ() {
        for framing in FRAMINGS {
            let payload_1 = payload(1, framing);
            let first = bytes(&payload_1, payload_1.start(0), 64);
            assert_ne!(first, bytes(&payload_1, at(&payload_1, 0, 64), 64));
            assert_ne!(first, bytes(&payload_1, at(&payload_1, 0, 4096), 64));
            assert_ne!(first, bytes(&payload_1, payload_1.start(1), 64));
            let payload_2 = payload(2, framing);
            assert_ne!(first, bytes(&payload_2, payload_2.start(0), 64));
        }
    }

    fn of_one_length(framing: &str, length: u64) -> Payload {
        let shape = Shape::new(framing.parse().expect(framing), Some(length..=length));
        Payload::new(Noise::new(6), shape.expect("a shape"))
    }

    #[test]
    fn bytes_that_are_misplaced_by_any_multiple_of_any_power_of_two_are_found() {
        for (framing, length) in [("raw", 64), ("raw", 1000), ("line", 64), ("length:u32", 64)] {
            let payload = of_one_length(framing, length);
            let message = bytes(&payload, payload.start(5), 64);
            for (power, factor) in (0..=30).flat_map(|n| (1..100).map(move |m| (n, m))) {
                let at = at(&payload, 5, factor << power);
                let right = payload.count_right(&at, &message);
                assert!(right < 64, "{framing} of {length} bytes, {factor} * 2^{power}");
            }
        }
    }

    #[test]
    fn blocks_of_a_message_that_change_places_are_found() {
        const MESSAGE: usize = 1024 * 1024;
        for framing in ["raw", "line", "length:u32"] {
            let payload = of_one_length(framing, MESSAGE as u64);
            let whole = bytes(&payload, payload.start(9), MESSAGE);
            for length in (2..20).map(|n| 1 << n) {
                let last = MESSAGE / length - 1;
                for (one, other) in [(0, 1), (0, last), (last / 3, last)] {
                    let mut swapped = whole.clone();
                    let (before, behind) = swapped.split_at_mut(other * length);
                    before[one * length..][..length].swap_with_slice(&mut behind[..length]);
                    let right = payload.count_right(&payload.start(9), &swapped);
                    assert_eq!(right, count_same(&whole, &swapped), "{framing}");
                    assert!((one * length..(one + 1) * length).contains(&right), "{framing}");
                }
            }
        }
    }

    #[test]
    fn large_messages_are_sent_from_where_the_noise_lies() {
        for (framing, header) in [("raw", 0), ("length:u32", 4)] {
            let payload = of_one_length(framing, 1024 * 1024);
            for offset in [header, 100, 65_536, 1_044_480, 1_048_576 + header] {
                // Without room, nothing can be copied.
                let sent = payload.bytes(&at(&payload, 5, offset), 4096, &mut []).to_vec();
                assert_eq!(sent, bytes(&payload, at(&payload, 5, offset), 4096), "{framing}");
            }
        }
    }

    #[test]
    fn one_flipped_bit_is_found_wherever_it_is() {
        for framing in FRAMINGS {
            let payload = payload(3, framing);
            let at = at(&payload, 0, 4000);
            let mut got = bytes(&payload, at, 300);
            for i in 0..got.len() {
                got[i] ^= 1 << (i % 8);
                assert_eq!(payload.count_right(&at, &got), i, "{framing}");
                got[i] ^= 1 << (i % 8);
            }
        }
    }
}
