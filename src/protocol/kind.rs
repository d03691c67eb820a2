//! The ways to delimit a message, as a user names them.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// A way to delimit messages, chosen when the program runs. Its text form is that of `--framing`: `raw`,
/// `line`, `fixed:64`, `length:ascii5`, `length:u16`, `length:u32` or `typed:A=4,B=16`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Kind {
    /// No messages, only bytes.
    #[default]
    Raw,
    /// A newline ends a message.
    Line,
    /// Every message has this number of bytes.
    Fixed(usize),
    /// The length of a message stands in front of it.
    Length(Prefix),
    /// The first byte of a message is its type, with this number of bytes behind it.
    Typed(Vec<(u8, usize)>),
}

/// The form of a length in front of a message. It counts the bytes behind it, not itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prefix {
    /// Five decimal digits.
    Ascii5,
    /// Two bytes in network byte order.
    U16,
    /// Four bytes in network byte order.
    U32,
}

/// Why a text is not a [`Kind`], or a kind cannot be used. It prints as the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KindError {
    /// The text names no kind.
    Unknown,
    /// The text behind `fixed:` is not a size.
    NoSize,
    /// The size behind `fixed:` is 0.
    Empty,
    /// The text behind `typed:` is not a list of types and their lengths.
    NoTypes,
    /// The list has this type twice.
    Twice(char),
    /// The kind has a message of more bytes than these.
    TooLarge(usize),
}

impl FromStr for Kind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Kind, KindError> {
        Ok(match text {
            "raw" => Kind::Raw,
            "line" => Kind::Line,
            "length:ascii5" => Kind::Length(Prefix::Ascii5),
            "length:u16" => Kind::Length(Prefix::U16),
            "length:u32" => Kind::Length(Prefix::U32),
            _ => match text.split_once(':') {
                Some(("fixed", bytes)) => match size(bytes, KindError::NoSize)? {
                    0 => return Err(KindError::Empty),
                    bytes => Kind::Fixed(bytes),
                },
                Some(("typed", list)) => Kind::Typed(types(list)?),
                _ => return Err(KindError::Unknown),
            },
        })
    }
}

fn types(list: &str) -> Result<Vec<(u8, usize)>, KindError> {
    let mut types: Vec<(u8, usize)> = Vec::new();
    for entry in list.split(',') {
        let (name, bytes) = entry.split_once('=').ok_or(KindError::NoTypes)?;
        let &[kind @ b'!'..=b'~'] = name.as_bytes() else { return Err(KindError::NoTypes) };
        if types.iter().any(|&(known, _)| known == kind) {
            return Err(KindError::Twice(kind.into()));
        }
        types.push((kind, size(bytes, KindError::NoTypes)?));
    }
    Ok(types)
}

/// Parses a number of bytes: `64`, `16KiB`, `1MiB`, or `K` and `M` for short. The command lines have a
/// parser for sizes as well, but it is not part of the library without the feature `cli`.
fn size(text: &str, error: KindError) -> Result<usize, KindError> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("K", 1 << 10)];
    let units = units.into_iter().chain([("M", 1 << 20), ("G", 1 << 30), ("", 1)]);
    let mut cut = units.filter_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)));
    let (digits, scale) = cut.next().ok_or(error)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error);
    }
    let bytes = digits.parse().ok().and_then(|n: usize| n.checked_mul(scale));
    bytes.ok_or(KindError::TooLarge(usize::MAX))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Raw => f.write_str("raw"),
            Kind::Line => f.write_str("line"),
            Kind::Fixed(bytes) => write!(f, "fixed:{bytes}"),
            Kind::Length(Prefix::Ascii5) => f.write_str("length:ascii5"),
            Kind::Length(Prefix::U16) => f.write_str("length:u16"),
            Kind::Length(Prefix::U32) => f.write_str("length:u32"),
            Kind::Typed(types) => {
                let mut separator = "typed:";
                for &(kind, bytes) in types {
                    write!(f, "{separator}{}={bytes}", char::from(kind))?;
                    separator = ",";
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for KindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KindError::Unknown => f.write_str(
                "expected raw, line, fixed:N, length:ascii5, length:u16, length:u32 or typed:A=4,B=16",
            ),
            KindError::NoSize => f.write_str("expected a size, such as fixed:64 or fixed:16KiB"),
            KindError::Empty => f.write_str("a message must have at least 1 byte"),
            KindError::NoTypes => f.write_str(
                "expected types of one character and the number of bytes behind them, such as typed:A=4,B=16",
            ),
            KindError::Twice(kind) => write!(f, "the type {kind} is there twice"),
            KindError::TooLarge(max) => write!(f, "a message is larger than {max} bytes"),
        }
    }
}

impl Error for KindError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_text_form() {
        let types = vec![(b'A', 4), (b'B', 16), (b'0', 0)];
        for (text, kind) in [
            ("raw", Kind::Raw),
            ("line", Kind::Line),
            ("fixed:64", Kind::Fixed(64)),
            ("length:ascii5", Kind::Length(Prefix::Ascii5)),
            ("length:u16", Kind::Length(Prefix::U16)),
            ("length:u32", Kind::Length(Prefix::U32)),
            ("typed:A=4,B=16,0=0", Kind::Typed(types)),
        ] {
            assert_eq!(text.parse(), Ok(kind.clone()));
            assert_eq!(kind.to_string(), text);
        }
        assert_eq!(Kind::default(), Kind::Raw);
    }

    #[test]
    fn sizes_may_have_units() {
        assert_eq!("fixed:16KiB".parse(), Ok(Kind::Fixed(16 * 1024)));
        assert_eq!("fixed:2M".parse(), Ok(Kind::Fixed(2 * 1024 * 1024)));
        assert_eq!("typed:A=1KiB".parse(), Ok(Kind::Typed(vec![(b'A', 1024)])));
    }

    #[test]
    fn an_error_says_what_was_expected() {
        let error = |text: &str| text.parse::<Kind>().unwrap_err();
        for unknown in ["", "Raw", "raw ", "line:", "length:u8", "length:", "fixed", "typed"] {
            assert_eq!(error(unknown), KindError::Unknown, "{unknown}");
        }
        for no_size in ["fixed:", "fixed:-1", "fixed:+1", "fixed:KiB", "fixed:1k", "fixed:1,2"] {
            assert_eq!(error(no_size), KindError::NoSize, "{no_size}");
        }
        for no_types in [
            "typed:",
            "typed:A",
            "typed:A=",
            "typed:=4",
            "typed:AB=4",
            "typed:\u{e9}=4",
            "typed: =4",
            "typed:A=4,",
            "typed:A=4,,B=16",
            "typed:A=x",
        ] {
            assert_eq!(error(no_types), KindError::NoTypes, "{no_types}");
        }
        assert_eq!(error("fixed:0"), KindError::Empty);
        assert_eq!(error("typed:A=4,A=5").to_string(), "the type A is there twice");
        let too_large = KindError::TooLarge(usize::MAX);
        assert_eq!(error("fixed:99999999999999999999"), too_large);
        assert_eq!(error("fixed:18446744073709551615KiB"), too_large);
    }
}
