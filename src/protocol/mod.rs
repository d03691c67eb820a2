//! Protocols: what is done with the bytes that a connection receives.
//!
//! A connection moves bytes; its [`Protocol`] gives them a meaning. [`Echo`] is the smallest one. The
//! example `uppercase` is a line protocol in a few lines.
//!
//! A stream has no message boundaries: a recv returns any part of what was sent. So a protocol looks at
//! the bytes received so far, answers the whole messages among them, and leaves the rest where it is
//! until more bytes come.

mod contract;
mod echo;
mod exchange;
mod kind;

pub use contract::{Malformed, Next, Protocol};
pub use echo::Echo;
pub use exchange::Exchange;
pub use kind::{Kind, KindError, Prefix};
