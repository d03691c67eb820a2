//! The bytes that are sent, and the check that they came back.
//!
//! Everything that one connection sends is one endless stream of pseudo-random bytes. Every byte is a
//! function of the seed, the connection and the offset of the byte. So nothing has to be kept until it
//! comes back, every message differs from all others, and a misplaced byte is found, wherever it
//! belongs.

use std::fmt;

use serde::{Serialize, Serializer};

/// Number of bytes of a block. A stream is made of blocks. Each block is a piece of the noise, at a
/// place that follows from the key and the number of the block. So no byte is computed: to send is to
/// look bytes up, and to check is to compare.
const BLOCK: usize = 4096;

/// Number of places in the noise. A swap of two blocks at the same place would not be found; one pair
/// in a million is such a pair.
const NOISE: usize = 1024 * 1024;

/// Number of bytes that must agree to tell where a piece belongs.
const CLEAR: usize = 8;

/// How many bytes to search, in each direction, for the place where misplaced bytes belong.
const SEARCH: u64 = 256 * 1024;

/// The bytes of one run.
pub struct Payload {
    seed: u64,
    noise: Box<[u8; NOISE + BLOCK]>,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// Selects the stream of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

/// A place in a stream.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    key: Key,
    offset: u64,
    /// Determines the place in the noise of the block that contains the offset.
    block: u64,
}

impl Cursor {
    /// Returns the beginning of a stream.
    pub fn new(key: Key) -> Cursor {
        Cursor::at(key, 0)
    }

    fn at(key: Key, offset: u64) -> Cursor {
        Cursor { key, offset, block: mix(key.0.wrapping_add(offset / BLOCK as u64)) }
    }

    /// Returns the key of the stream.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Returns the number of bytes before this place.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves forward by `n` bytes.
    pub fn advance(&mut self, n: usize) {
        let after = self.offset + n as u64;
        if after / BLOCK as u64 == self.offset / BLOCK as u64 {
            self.offset = after;
        } else {
            *self = Cursor::at(self.key, after);
        }
    }
}

/// How the bytes that came back differ from those that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The difference was not examined.
    Unknown,
    /// Other bytes came in their place.
    Changed,
    /// This number of bytes is missing.
    Missing(u64),
    /// This number of bytes was added.
    Surplus(u64),
    /// The bytes belong to the connection with this number.
    Misplaced(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unknown => f.write_str("not looked into"),
            Fault::Changed => f.write_str("changed"),
            Fault::Missing(n) => write!(f, "{n} missing"),
            Fault::Surplus(n) => write!(f, "{n} too many"),
            Fault::Misplaced(connection) => write!(f, "those of connection {connection}"),
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Payload {
    /// Returns the streams of a seed.
    pub fn new(seed: u64) -> Payload {
        Payload { seed, noise: noise(seed) }
    }

    /// Returns the key of the stream of the connection with this number.
    pub fn key(&self, connection: u64) -> Key {
        Key(mix(self.seed.wrapping_add(mix(connection))))
    }

    /// Returns the `length` bytes that follow a place. They are borrowed from the noise, or copied to
    /// `room` if they reach into the next block. Few messages do.
    pub fn bytes<'a>(&'a self, at: Cursor, length: usize, room: &'a mut [u8]) -> &'a [u8] {
        if let Some(bytes) = self.rest(at).get(..length) {
            return bytes;
        }
        let room = &mut room[..length];
        self.fill(at, room);
        room
    }

    /// Fills a buffer with the bytes that follow a place.
    pub fn fill(&self, mut at: Cursor, mut out: &mut [u8]) {
        while !out.is_empty() {
            let piece = self.piece(at, out.len());
            let (now, later) = out.split_at_mut(piece.len());
            now.copy_from_slice(piece);
            at.advance(piece.len());
            out = later;
        }
    }

    /// Returns how many of the bytes, from the first on, are those that follow a place.
    pub fn count_right(&self, at: Cursor, got: &[u8]) -> usize {
        if self.rest(at).starts_with(got) { got.len() } else { self.count_by_piece(at, got) }
    }

    #[cold]
    fn count_by_piece(&self, mut at: Cursor, got: &[u8]) -> usize {
        let mut left = got;
        while !left.is_empty() {
            let piece = self.piece(at, left.len());
            let (now, later) = left.split_at(piece.len());
            if now != piece {
                let right = now.iter().zip(piece).take_while(|(got, sent)| got == sent).count();
                return got.len() - left.len() + right;
            }
            at.advance(piece.len());
            left = later;
        }
        got.len()
    }

    /// Returns the bytes from a place to the end of its block.
    fn rest(&self, at: Cursor) -> &[u8] {
        &self.noise[at.block as usize % NOISE..][..BLOCK][at.offset as usize % BLOCK..]
    }

    /// Returns the same bytes, at most `length` of them.
    fn piece(&self, at: Cursor, length: usize) -> &[u8] {
        let rest = self.rest(at);
        &rest[..length.min(rest.len())]
    }

    /// Finds out how bytes differ from those that should follow the place `at`. `sent` is the number of
    /// bytes that were sent in this stream. `others` are the connections that the bytes may belong to,
    /// each with the place of the byte that it expects next.
    #[allow(
        clippy::too_many_arguments,
        reason = "all of them describe one stream and its neighbours"
    )]
    pub fn diagnose(
        &self,
        at: Cursor,
        sent: u64,
        got: &[u8],
        mut others: impl Iterator<Item = (usize, Cursor)>,
    ) -> Fault {
        let Cursor { key, offset, .. } = at;
        let is = |at: Cursor, got: &[u8]| {
            got.len() >= CLEAR && self.count_right(at, &got[..CLEAR]) == CLEAR
        };
        let is_at = |offset, got: &[u8]| is(Cursor::at(key, offset), got);
        // The others come first: what another connection expects may be in this stream as well.
        if let Some((number, _)) = others.find(|&(_, other)| is(other, got)) {
            return Fault::Misplaced(number);
        }
        let ahead = sent.saturating_sub(offset).min(SEARCH);
        if let Some(left_out) = (1..ahead).find(|&n| is_at(offset + n, got)) {
            return Fault::Missing(left_out);
        }
        if let Some(repeated) = (1..SEARCH.min(offset + 1)).find(|&n| is_at(offset - n, got)) {
            return Fault::Surplus(repeated);
        }
        match (1..got.len()).find(|&n| is(at, &got[n..])) {
            Some(inserted) => Fault::Surplus(inserted as u64),
            None => Fault::Changed,
        }
    }
}

fn noise(seed: u64) -> Box<[u8; NOISE + BLOCK]> {
    let words = (0..(NOISE + BLOCK) as u64 / 8).map(|i| mix(seed ^ mix(i)));
    let bytes: Box<[u8]> = words.flat_map(u64::to_le_bytes).collect();
    bytes.try_into().expect("eight bytes a word")
}

/// The finalizer of `SplitMix64`: every bit of the input affects every bit of the output.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(payload: &Payload, at: Cursor, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        payload.fill(at, &mut out);
        out
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let payload = Payload::new(1);
        let key = payload.key(7);
        let whole = bytes(&payload, Cursor::new(key), 20_000);
        for (offset, length) in [(0, 1), (3, 5), (4090, 13), (4096, 64), (8191, 10_000), (17, 0)] {
            let mut at = Cursor::new(key);
            at.advance(offset);
            let cut = bytes(&payload, at, length);
            assert_eq!(cut, whole[offset..][..length], "{offset}, {length}");
            assert_eq!(payload.count_right(at, &cut), length);
        }
    }

    #[test]
    fn messages_connections_and_seeds_differ() {
        let payload = Payload::new(1);
        let start = Cursor::new(payload.key(0));
        let first = bytes(&payload, start, 64);
        assert_ne!(first, bytes(&payload, Cursor::at(start.key, 64), 64));
        assert_ne!(first, bytes(&payload, Cursor::at(start.key, 4096), 64));
        assert_ne!(first, bytes(&payload, Cursor::new(payload.key(1)), 64));
        let other = Payload::new(2);
        assert_ne!(first, bytes(&other, Cursor::new(other.key(0)), 64));
    }

    #[test]
    fn one_flipped_bit_is_found_wherever_it_is() {
        let payload = Payload::new(3);
        let at = Cursor::at(payload.key(0), 4000);
        let mut got = bytes(&payload, at, 300);
        for i in 0..got.len() {
            got[i] ^= 1 << (i % 8);
            assert_eq!(payload.count_right(at, &got), i);
            got[i] ^= 1 << (i % 8);
        }
    }

    #[test]
    fn faults_are_told_apart() {
        let payload = Payload::new(4);
        let stream = bytes(&payload, Cursor::new(payload.key(0)), 1000);
        let other = Cursor::at(payload.key(1), 640);
        let others = || [(1, other)].into_iter();
        let at = Cursor::at(payload.key(0), 100);
        let diagnose = |got: &[u8]| payload.diagnose(at, 1000, got, others());

        assert_eq!(diagnose(&stream[101..200]), Fault::Missing(1));
        assert_eq!(diagnose(&stream[164..300]), Fault::Missing(64));
        assert_eq!(diagnose(&stream[36..300]), Fault::Surplus(64));
        let inserted = [&[0x55][..], &stream[100..200]].concat();
        assert_eq!(diagnose(&inserted), Fault::Surplus(1));
        assert_eq!(diagnose(&bytes(&payload, other, 64)), Fault::Misplaced(1));
        let changed = [&[!stream[100]][..], &stream[101..200]].concat();
        assert_eq!(diagnose(&changed), Fault::Changed);
        assert_eq!(diagnose(&stream[101..104]), Fault::Changed);
    }
}
