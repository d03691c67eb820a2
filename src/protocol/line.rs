//! Delimited messages.

use memchr::memchr;

use crate::protocol::contract::Malformed;
use crate::protocol::framing::Framing;

/// Lines: a newline (`\n`) ends a message. The HOWTO says "shrug" to delimiters: a message cannot contain
/// its own delimiter, and every byte of it has to be searched.
///
/// The last line need not have a newline. The end of the input delimits it just as well, and many programs
/// leave it out, such as `printf hello | nc -N`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line;

impl Framing for Line {
    fn length(&self, bytes: &[u8], searched: usize) -> Result<Option<usize>, Malformed> {
        let newline = memchr(b'\n', &bytes[searched..]);
        Ok(newline.map(|at| searched + at + 1))
    }

    fn ends_with_input(&self) -> bool {
        true
    }
}
