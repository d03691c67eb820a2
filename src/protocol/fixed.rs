//! Messages of one length.

use crate::protocol::contract::Malformed;
use crate::protocol::framing::Framing;

/// Messages that all have this number of bytes, at least 1. The HOWTO says "yuck": whatever is shorter has
/// to be padded, and nothing can be longer.
#[derive(Debug, Clone, Copy)]
pub struct Fixed(pub usize);

impl Framing for Fixed {
    fn length(&self, _bytes: &[u8], _searched: usize) -> Result<Option<usize>, Malformed> {
        Ok(Some(self.0))
    }
}
