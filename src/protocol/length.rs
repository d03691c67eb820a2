//! Messages with their length in front.

use crate::protocol::contract::Malformed;
use crate::protocol::framing::Framing;

/// A length in front of each message. The HOWTO calls this "much better": any bytes may follow, and the
/// receiver knows at once how many.
///
/// The length counts the bytes behind it, not itself. So 0 is the length of an empty message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prefix {
    /// Five decimal digits, with leading zeros: the HOWTO's "5 characters".
    Ascii5,
    /// Two bytes in network byte order, which is big-endian: the most significant byte comes first.
    U16,
    /// Four bytes in network byte order.
    U32,
}

impl Framing for Prefix {
    fn length(&self, bytes: &[u8], _searched: usize) -> Result<Option<usize>, Malformed> {
        // The prefix itself may arrive in pieces.
        let behind = match self {
            Prefix::Ascii5 => five_digits(bytes)?,
            Prefix::U16 => bytes.first_chunk().map(|&prefix| u16::from_be_bytes(prefix).into()),
            Prefix::U32 => bytes.first_chunk().map(|&prefix| u32::from_be_bytes(prefix) as usize),
        };
        Ok(behind.map(|n: usize| n.saturating_add(self.size())))
    }
}

impl Prefix {
    /// Returns the number of bytes of the prefix itself.
    pub fn size(self) -> usize {
        match self {
            Prefix::Ascii5 => 5,
            Prefix::U16 => 2,
            Prefix::U32 => 4,
        }
    }
}

/// Returns the number, once all five digits are there. A wrong character among the first of them is
/// malformed at once.
fn five_digits(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let digits = &bytes[..bytes.len().min(5)];
    let mut number = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Malformed::new("a length has a character that is not a digit"));
        }
        number = 10 * number + usize::from(digit - b'0');
    }
    Ok(Some(number).filter(|_| digits.len() == 5))
}
