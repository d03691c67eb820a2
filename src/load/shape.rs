//! What the messages of a run look like: how they are delimited, and how long they are.

use std::fmt;
use std::ops::RangeInclusive;

use crate::protocol::{Kind, Prefix};

/// Most bytes of a message: 1 GiB.
const MAX_LENGTH: u64 = 1024 * 1024 * 1024;

/// Most bytes of a datagram: what IPv4 leaves for it.
pub(super) const MAX_DATAGRAM: u64 = 65_507;

/// Length of the messages of a kind that does not determine it.
const DEFAULT_LENGTH: u64 = 64;

/// Most bytes of a header.
const MAX_HEADER: usize = 5;

/// The framing of the messages, and the range of their lengths. A length is that of a whole message,
/// with its header or its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    framing: Kind,
    min: u64,
    max: u64,
}

/// Raw messages of 64 bytes.
impl Default for Shape {
    fn default() -> Shape {
        Shape { framing: Kind::Raw, min: DEFAULT_LENGTH, max: DEFAULT_LENGTH }
    }
}

/// The bytes that stand in front of the payload of a message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Header {
    bytes: [u8; MAX_HEADER],
    length: usize,
}

impl Header {
    fn of(bytes: &[u8]) -> Header {
        let mut header = Header { length: bytes.len(), ..Header::default() };
        header.bytes[..bytes.len()].copy_from_slice(bytes);
        header
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Shape {
    /// Returns the shape of messages with this framing and these lengths. Without lengths, they are
    /// those that the framing determines, or 64 bytes.
    ///
    /// # Errors
    /// There are no such messages. The text begins with the name of the setting.
    pub fn new(framing: Kind, lengths: Option<RangeInclusive<u64>>) -> Result<Shape, String> {
        let header = header_length(&framing);
        let (is_free, possible) = match &framing {
            Kind::Fixed(bytes) => (false, *bytes as u64..=*bytes as u64),
            Kind::Typed(types) => {
                let lengths = || types.iter().map(|&(_, bytes)| header + bytes as u64);
                (false, lengths().min().unwrap_or(0)..=lengths().max().unwrap_or(0))
            }
            Kind::Length(Prefix::Ascii5) => (true, header..=header + 99_999),
            Kind::Length(Prefix::U16) => (true, header..=header + u64::from(u16::MAX)),
            Kind::Length(Prefix::U32) => (true, header..=MAX_LENGTH),
            _ => (true, 1..=MAX_LENGTH),
        };
        let (least, most) = (*possible.start(), *possible.end());
        if !(1..=MAX_LENGTH).contains(&least) || most > MAX_LENGTH {
            return Err(format!("framing {framing}: messages must have from 1 byte to 1GiB"));
        }
        let default = if is_free { DEFAULT_LENGTH..=DEFAULT_LENGTH } else { possible };
        let (min, max) = lengths.unwrap_or(default).into_inner();
        let shape = Shape { framing, min, max };
        let framing = &shape.framing;
        if !is_free && (min, max) != (least, most) {
            let determined = Lengths(least, most);
            return Err(format!("length must be {determined}, or be left out, with {framing}"));
        }
        if min < least || max > most || min > max {
            return Err(format!("length must be from {least} to {most} bytes with {framing}"));
        }
        Ok(shape)
    }

    /// Returns the shape of datagrams, which need no framing and can be empty.
    ///
    /// # Errors
    /// There are no such datagrams. The text begins with the name of the setting.
    pub fn datagrams(lengths: Option<RangeInclusive<u64>>) -> Result<Shape, String> {
        let (min, max) = lengths.unwrap_or(DEFAULT_LENGTH..=DEFAULT_LENGTH).into_inner();
        if min > max || max > MAX_DATAGRAM {
            return Err(format!("length must be from 0 to {MAX_DATAGRAM} bytes with UDP"));
        }
        Ok(Shape { framing: Kind::Raw, min, max })
    }

    /// Returns how the messages are delimited.
    pub fn framing(&self) -> &Kind {
        &self.framing
    }

    /// Returns the smallest and the largest number of bytes of a message.
    pub fn lengths(&self) -> (u64, u64) {
        (self.min, self.max)
    }

    /// Returns whether every byte of a message is payload.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.framing, Kind::Raw | Kind::Fixed(_))
    }

    /// Returns the number of bytes of a message. `random` is the random number of that message.
    pub(super) fn length(&self, random: u64) -> u64 {
        match &self.framing {
            Kind::Typed(types) => 1 + types[random as usize % types.len()].1 as u64,
            _ => self.min + random % (self.max - self.min + 1),
        }
    }

    /// Returns the header of a message.
    pub(super) fn header(&self, random: u64) -> Header {
        let behind = self.length(random) - self.header_length();
        match &self.framing {
            Kind::Length(Prefix::Ascii5) => {
                let digit = |place| b'0' + (behind / 10_u64.pow(place) % 10) as u8;
                Header::of(&[4, 3, 2, 1, 0].map(digit))
            }
            Kind::Length(Prefix::U16) => Header::of(&(behind as u16).to_be_bytes()),
            Kind::Length(Prefix::U32) => Header::of(&(behind as u32).to_be_bytes()),
            Kind::Typed(types) => Header::of(&[types[random as usize % types.len()].0]),
            _ => Header::default(),
        }
    }

    /// Returns the number of bytes of a header.
    pub(super) fn header_length(&self) -> u64 {
        header_length(&self.framing)
    }
}

fn header_length(framing: &Kind) -> u64 {
    match framing {
        Kind::Length(Prefix::Ascii5) => 5,
        Kind::Length(Prefix::U16) => 2,
        Kind::Length(Prefix::U32) => 4,
        Kind::Typed(_) => 1,
        _ => 0,
    }
}

/// The range of lengths, as a report has it.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Lengths(self.min, self.max).fmt(f)
    }
}

struct Lengths(u64, u64);

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lengths(min, max) if min == max => write!(f, "{min}"),
            Lengths(min, max) => write!(f, "{min}..{max}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(
        framing: &str,
        lengths: impl Into<Option<RangeInclusive<u64>>>,
    ) -> Result<Shape, String> {
        Shape::new(framing.parse().expect(framing), lengths.into())
    }

    #[test]
    fn a_framing_determines_the_lengths_or_bounds_them() {
        for (framing, lengths, expected) in [
            ("raw", None, "64"),
            ("raw", Some(16..=4096), "16..4096"),
            ("line", Some(1..=1), "1"),
            ("fixed:100", None, "100"),
            ("fixed:100", Some(100..=100), "100"),
            ("length:ascii5", Some(5..=100_004), "5..100004"),
            ("length:u16", Some(2..=65_537), "2..65537"),
            ("length:u32", Some(4..=MAX_LENGTH), "4..1073741824"),
            ("typed:A=4,B=16", None, "5..17"),
            ("typed:A=4,B=16", Some(5..=17), "5..17"),
            ("typed:A=0", None, "1"),
        ] {
            let shape = shape(framing, lengths).expect(framing);
            assert_eq!(shape.to_string(), expected, "{framing}");
        }
    }

    #[test]
    fn datagrams_can_be_empty_and_have_a_largest_length() {
        assert!(Shape::datagrams(Some(0..=65_507)).is_ok());
        assert_eq!(Shape::datagrams(None), Ok(Shape::default()));
        let error = Shape::datagrams(Some(0..=65_508)).expect_err("too large");
        assert!(error.starts_with("length must be from 0 to 65507 bytes"), "{error}");
    }

    #[test]
    fn lengths_that_a_framing_does_not_have_are_refused() {
        for (framing, lengths, error) in [
            ("raw", 0..=64, "length must be from 1 to 1073741824 bytes with raw"),
            ("raw", 64..=MAX_LENGTH + 1, "length must be from 1 to"),
            ("raw", RangeInclusive::new(65, 64), "length must be from 1 to"),
            ("fixed:100", 64..=64, "length must be 100, or be left out, with fixed:100"),
            ("length:ascii5", 4..=64, "length must be from 5 to 100004 bytes"),
            ("length:u16", 64..=65_538, "length must be from 2 to 65537 bytes"),
            ("length:u32", 3..=3, "length must be from 4 to"),
            ("typed:A=4,B=16", 5..=5, "length must be 5..17, or"),
        ] {
            let found = shape(framing, lengths).expect_err(framing);
            assert!(found.starts_with(error), "{framing}: {found}");
        }
        let error = shape("fixed:2GiB", None).expect_err("too large");
        assert!(error.starts_with("framing fixed:2147483648: "), "{error}");
    }

    #[test]
    fn a_header_says_what_stands_behind_it() {
        let header = |framing, length, random| {
            let lengths = Some(length..=length).filter(|_| length > 0);
            shape(framing, lengths).expect(framing).header(random).bytes().to_vec()
        };
        assert_eq!(header("length:ascii5", 69, 0), b"00064");
        assert_eq!(header("length:u16", 2 + 0x1234, 0), [0x12, 0x34]);
        assert_eq!(header("length:u32", 4, 0), [0; 4]);
        assert_eq!(header("typed:A=4,B=16", 0, 2), b"A");
        assert_eq!(header("typed:A=4,B=16", 0, 3), b"B");
        assert_eq!(header("line", 64, 0), b"");
    }
}
