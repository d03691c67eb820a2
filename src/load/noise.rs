//! Endless streams of pseudo-random bytes, one for each connection.
//!
//! Every byte is a function of the seed, the connection and the offset of the byte. No byte is computed
//! when it is needed: a stream is made of blocks, and each block is a piece of the same noise, at a
//! place that follows from the connection and the number of the block. So to send is to look bytes up,
//! and to check is to compare.

use std::fmt;

/// Number of bytes of a block.
const BLOCK: usize = 4096;

/// Number of places in the noise. A swap of two blocks at the same place would not be found; one pair
/// in a million is such a pair.
const PLACES: usize = 1024 * 1024;

/// The noise that all streams of a run are made of.
pub struct Noise {
    seed: u64,
    bytes: Box<[u8; PLACES + BLOCK]>,
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noise").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// A place in a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Selects the stream.
    key: u64,
    offset: u64,
    /// Determines the place in the noise of the block that contains the offset.
    block: u64,
}

impl Place {
    pub(super) fn at(key: u64, offset: u64) -> Place {
        Place { key, offset, block: mix(key.wrapping_add(offset / BLOCK as u64)) }
    }

    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        let after = self.offset + n as u64;
        // Only the low bits differ within a block.
        if after ^ self.offset < BLOCK as u64 {
            self.offset = after;
        } else {
            *self = Place::at(self.key, after);
        }
    }
}

impl Noise {
    /// Returns the noise of a seed.
    pub fn new(seed: u64) -> Noise {
        Noise { seed, bytes: bytes(seed) }
    }

    /// Returns the key of the stream of the connection with this number.
    pub(super) fn key(&self, connection: u64) -> u64 {
        mix(self.seed.wrapping_add(mix(connection)))
    }

    /// Fills a buffer with the bytes that follow a place.
    pub(super) fn fill(&self, mut at: Place, mut out: &mut [u8]) {
        while !out.is_empty() {
            let rest = self.rest(&at);
            let piece = &rest[..out.len().min(rest.len())];
            let (now, later) = out.split_at_mut(piece.len());
            now.copy_from_slice(piece);
            at.advance(piece.len());
            out = later;
        }
    }

    /// Returns how many of the bytes, from the first on, are those that follow a place.
    #[cold]
    pub(super) fn count_right(&self, at: &Place, got: &[u8]) -> usize {
        let mut at = *at;
        let mut left = got;
        while !left.is_empty() {
            let rest = self.rest(&at);
            let piece = &rest[..left.len().min(rest.len())];
            let (now, later) = left.split_at(piece.len());
            if now != piece {
                return got.len() - left.len() + count_same(now, piece);
            }
            at.advance(piece.len());
            left = later;
        }
        got.len()
    }

    /// Returns the bytes from a place to the end of its block.
    #[inline]
    pub(super) fn rest(&self, at: &Place) -> &[u8] {
        &self.bytes[at.block as usize % PLACES..][..BLOCK][at.offset as usize % BLOCK..]
    }
}

fn bytes(seed: u64) -> Box<[u8; PLACES + BLOCK]> {
    let words = (0..(PLACES + BLOCK) as u64 / 8).map(|i| mix(seed ^ mix(i)));
    let bytes: Box<[u8]> = words.flat_map(u64::to_le_bytes).collect();
    bytes.try_into().expect("eight bytes a word")
}

/// Returns the number of bytes before the first difference.
pub(super) fn count_same(got: &[u8], expected: &[u8]) -> usize {
    got.iter().zip(expected).take_while(|(got, expected)| got == expected).count()
}

/// The finalizer of `SplitMix64`: every bit of the input affects every bit of the output.
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
