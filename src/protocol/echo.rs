//! The echo protocol, RFC 862.

use crate::protocol::contract::{Malformed, Next, Protocol};
use crate::protocol::exchange::Exchange;

/// Answers every byte with itself. It needs no state, and copies nothing: the input becomes the output.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Protocol for Echo {
    type State = ();

    #[inline]
    fn received(&mut self, (): &mut (), exchange: &mut Exchange<'_>) -> Result<Next, Malformed> {
        Ok(if exchange.echo_all() { Next::Receive } else { Next::Send })
    }
}
