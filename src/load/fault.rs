//! What is wrong with bytes that came back wrong.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::load::payload::{Cursor, Payload};

/// Number of bytes of noise that must agree to tell where a piece belongs.
const CLEAR: usize = 8;

/// How many bytes to search, in each direction, for the place where misplaced bytes belong.
const SEARCH: u64 = 256 * 1024;

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

impl Fault {
    /// Finds out how bytes differ from those that should follow the place `at`. `sent` is the place up
    /// to which this stream was sent. `others` are the connections that the bytes may belong to, each
    /// with the place of the byte that it expects next.
    #[allow(
        clippy::too_many_arguments,
        reason = "all of them describe one stream and its neighbours"
    )]
    pub fn diagnose(
        payload: &Payload,
        at: Cursor,
        sent: u64,
        got: &[u8],
        mut others: impl Iterator<Item = (usize, Cursor)>,
    ) -> Fault {
        // Headers are alike, so they tell nothing.
        let clear = CLEAR + payload.header_length();
        let Some(piece) = got.get(..clear) else { return Fault::Changed };
        // As many places as there are to compare the piece with.
        let bytes = |from: Cursor, places: u64| {
            let mut bytes = vec![0; places as usize + clear - 1];
            payload.fill(from, &mut bytes);
            bytes
        };
        // The others come first: what another connection expects may be in this stream as well.
        if let Some((number, _)) = others.find(|&(_, at)| payload.count_right(&at, piece) == clear)
        {
            return Fault::Misplaced(number);
        }
        let ahead = bytes(at, sent.saturating_sub(at.offset()).min(SEARCH));
        if let Some(left_out) = ahead.windows(clear).position(|bytes| bytes == piece) {
            return Fault::Missing(left_out as u64);
        }
        let behind = at.offset().min(SEARCH);
        let before = bytes(payload.back(at, behind), behind);
        if let Some(place) = before.windows(clear).rposition(|bytes| bytes == piece) {
            return Fault::Surplus(behind - place as u64);
        }
        let expected = bytes(at, 1);
        match got.windows(clear).position(|bytes| bytes == expected) {
            Some(inserted) => Fault::Surplus(inserted as u64),
            None => Fault::Changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::noise::Noise;
    use crate::load::shape::Shape;
    use crate::protocol::Kind;

    #[test]
    fn faults_are_told_apart_whatever_the_framing() {
        for framing in ["raw", "line", "length:ascii5", "length:u16", "length:u32"] {
            let kind: Kind = framing.parse().expect(framing);
            let shape = Shape::new(kind, Some(64..=64)).expect("a shape");
            let payload = Payload::new(Noise::new(4), shape);
            let bytes = |at, length| {
                let mut bytes = vec![0; length];
                payload.fill(at, &mut bytes);
                bytes
            };
            let stream = bytes(payload.start(0), 1000);
            let (mut at, mut other) = (payload.start(0), payload.start(1));
            payload.advance(&mut at, 100);
            payload.advance(&mut other, 640);
            let others = || [(1, other)].into_iter();
            let diagnose = |got: &[u8]| Fault::diagnose(&payload, at, 1000, got, others());

            assert_eq!(diagnose(&stream[101..200]), Fault::Missing(1), "{framing}");
            assert_eq!(diagnose(&stream[164..300]), Fault::Missing(64), "{framing}");
            assert_eq!(diagnose(&stream[36..300]), Fault::Surplus(64), "{framing}");
            let inserted = [&[0x55][..], &stream[100..200]].concat();
            assert_eq!(diagnose(&inserted), Fault::Surplus(1), "{framing}");
            assert_eq!(diagnose(&bytes(other, 64)), Fault::Misplaced(1), "{framing}");
            let changed = [&[!stream[100]][..], &stream[101..200]].concat();
            assert_eq!(diagnose(&changed), Fault::Changed, "{framing}");
            assert_eq!(diagnose(&stream[101..104]), Fault::Changed, "{framing}");
        }
    }
}
