//! Endless streams of pseudo-random bytes, one for each connection.
//!
//! Every byte is a function of the seed, the connection and the offset of the byte. No byte is computed
//! when it is needed: all streams go round the same ring of noise, each from a place of its own. So to
//! send is to look bytes up, and to check is to compare. Neither copies a byte, however long the message
//! is.
//!
//! A ring cannot make all pieces of all streams differ. It is made so that those differ which a server may
//! take for each other:
//!
//! - Two pieces of one stream are alike only if a multiple of the ring's length lies between them. That
//!   length is a prime number, so a million messages of one length are all different, and so are the
//!   blocks of a message.
//! - The streams of a million connections differ wherever all have come equally far.
//! - Messages of two connections are alike only if one of them has had many more than the other.
//!
//! Of other pairs of pieces, one in a million is alike.

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

/// The most bytes that one send or one receive handles.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Lengths of the ring: prime numbers. The second one is for messages whose length is a multiple of the
/// first, which would otherwise all be alike.
const LENGTHS: [u64; 2] = [1_048_573, 1_048_571];

/// Number of bytes in the ring from the beginning of a stream to that of the next connection's.
///
/// Two messages of connections whose numbers differ by d, up to 10,000, are alike only if more than
/// 49,000 / d messages lie between them. With 50 connections, that is 1000 messages. It holds for messages
/// of one length that is a power of two up to 1 MiB or a power of ten up to a million: this number was
/// found by trying all of them.
const STEP: u64 = 445_743;

/// The noise that all streams of a run are made of.
pub struct Noise {
    seed: u64,
    /// Number of bytes of the ring.
    length: u64,
    /// The ring, and behind it its beginning once more, so that the bytes of one call lie together
    /// wherever they begin.
    bytes: Box<[u8]>,
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noise").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// A place in a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Selects what is random about a stream apart from its bytes.
    key: u64,
    offset: u64,
    /// Where the next byte lies in the ring.
    index: u64,
}

impl Place {
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

impl Noise {
    /// Returns the noise of a seed.
    pub fn new(seed: u64) -> Noise {
        let [length, _] = LENGTHS;
        Noise { seed, length, bytes: ring(seed, length) }
    }

    /// Returns this noise, or another one of its seed if messages of this length would be alike in it.
    pub(super) fn for_messages(self: Arc<Noise>, bytes: NonZero<u64>) -> Arc<Noise> {
        let [_, length] = LENGTHS;
        if !bytes.get().is_multiple_of(self.length) {
            return self;
        }
        Arc::new(Noise { seed: self.seed, length, bytes: ring(self.seed, length) })
    }

    /// Returns the beginning of the stream of the connection with this number.
    pub(super) fn start(&self, connection: u64) -> Place {
        let index = connection % self.length * STEP % self.length;
        Place { key: mix(self.seed.wrapping_add(mix(connection))), offset: 0, index }
    }

    /// Moves a place forward.
    #[inline]
    pub(super) fn advance(&self, at: &mut Place, n: u64) {
        at.offset += n;
        at.index += n;
        if at.index >= self.length {
            at.index %= self.length;
        }
    }

    /// Moves a place back.
    pub(super) fn go_back(&self, at: &mut Place, n: u64) {
        at.offset -= n;
        at.index = (at.index + self.length - n % self.length) % self.length;
    }

    /// Fills a buffer with the bytes that follow a place.
    pub(super) fn fill(&self, mut at: Place, mut out: &mut [u8]) {
        while !out.is_empty() {
            let rest = self.rest(&at);
            let (now, later) = out.split_at_mut(out.len().min(rest.len()));
            now.copy_from_slice(&rest[..now.len()]);
            self.advance(&mut at, now.len() as u64);
            out = later;
        }
    }

    /// Returns how many of the bytes, from the first on, are those that follow a place.
    #[cold]
    pub(super) fn count_right(&self, at: &Place, got: &[u8]) -> usize {
        let (mut at, mut left) = (*at, got);
        while !left.is_empty() {
            let rest = self.rest(&at);
            let (now, later) = left.split_at(left.len().min(rest.len()));
            if !rest.starts_with(now) {
                return got.len() - left.len() + count_same(now, rest);
            }
            self.advance(&mut at, now.len() as u64);
            left = later;
        }
        got.len()
    }

    /// Returns bytes that follow a place, at least [`CHUNK`] of them.
    #[inline]
    pub(super) fn rest(&self, at: &Place) -> &[u8] {
        &self.bytes[at.index as usize..]
    }
}

/// Returns a ring of this length, and its beginning once more.
fn ring(seed: u64, length: u64) -> Box<[u8]> {
    let words = (0..length.div_ceil(8)).map(|i| mix(seed ^ mix(i)));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length as usize);
    bytes.extend_from_within(..CHUNK);
    bytes.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the places in the ring of messages 0, 1, 2 and so on of a connection.
    fn messages(noise: &Noise, connection: u64, bytes: u64) -> impl Iterator<Item = usize> {
        let mut at = noise.start(connection);
        std::iter::repeat_with(move || {
            let index = at.index as usize;
            noise.advance(&mut at, bytes);
            index
        })
    }

    #[test]
    fn each_of_a_million_messages_of_a_connection_differs() {
        let (noise, [first, second]) = (Arc::new(Noise::new(1)), LENGTHS);
        for bytes in [1, 64, 1000, 4096, 16_384, 1 << 20, first, 2 * first, 1023 * first, second] {
            let bytes = NonZero::new(bytes).expect("not 0");
            let noise = Arc::clone(&noise).for_messages(bytes);
            let mut was_used = vec![false; noise.length as usize];
            for index in messages(&noise, 3, bytes.get()).take(1_000_000) {
                assert!(!was_used[index], "two messages of {bytes} bytes are alike");
                was_used[index] = true;
            }
        }
    }

    #[test]
    fn messages_of_two_connections_are_alike_only_if_they_are_far_apart() {
        const CONNECTIONS: u64 = 10_000;
        const FAR: u64 = 49_000;
        let noise = Noise::new(1);
        let powers_of_two = (0..=20).map(|n| 1 << n);
        for bytes in powers_of_two.chain((1..=6).map(|n| 10_u64.pow(n))) {
            // By place in the ring, the number of the message of the first connection that lies there.
            let mut numbers = vec![u64::MAX; noise.length as usize];
            for (number, index) in
                messages(&noise, 0, bytes).take(noise.length as usize).enumerate()
            {
                numbers[index] = number as u64;
            }
            for connection in 1..CONNECTIONS {
                // Its first message is like that one, so the distance is the same for all of them.
                let ahead = numbers[noise.start(connection).index as usize];
                let apart = ahead.min(noise.length - ahead);
                assert!(apart * connection > FAR, "{bytes} bytes, {connection}: {apart} apart");
            }
        }
    }

    #[test]
    fn no_two_pieces_of_the_ring_are_alike() {
        let noise = Noise::new(1);
        let mut pieces: Vec<u64> = (0..noise.length as usize)
            .map(|index| u64::from_ne_bytes(*noise.bytes[index..].first_chunk().expect("eight")))
            .collect();
        pieces.sort_unstable();
        assert!(pieces.is_sorted_by(|one, next| one != next), "eight bytes stand in two places");
    }

    #[test]
    fn a_place_moves_back_as_far_as_forward() {
        let noise = Noise::new(1);
        for n in [0, 1, 4096, 1_048_572, 1_048_573, 1_048_574, 1 << 40] {
            let start = noise.start(12_345);
            let mut at = start;
            noise.advance(&mut at, n);
            assert_eq!(at.offset, n);
            noise.go_back(&mut at, n);
            assert_eq!((at.offset, at.index), (0, start.index));
        }
    }
}
