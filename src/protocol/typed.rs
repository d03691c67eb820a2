//! Messages whose type tells their length.

use crate::protocol::contract::Malformed;
use crate::protocol::framing::Framing;

/// Messages that begin with a type of one byte. Each type has its number of bytes behind the type: the
/// HOWTO's "easiest enhancement". The type may be any byte, not only a character.
#[derive(Debug, Clone, Copy)]
pub struct Typed<T>(pub T);

impl<T: AsRef<[(u8, usize)]>> Framing for Typed<T> {
    fn length(&self, bytes: &[u8], _searched: usize) -> Result<Option<usize>, Malformed> {
        let Some(kind) = bytes.first() else { return Ok(None) };
        match self.0.as_ref().iter().find(|(known, _)| known == kind) {
            Some((_, behind)) => Ok(Some(behind.saturating_add(1))),
            None => Err(Malformed::new("a message has an unknown type")),
        }
    }
}
