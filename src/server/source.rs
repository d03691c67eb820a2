//! What else may live on the server's poll: signals, timers, an HTTP server.

use std::io;
use std::time::Instant;

use mio::event::Event;
use mio::{Registry, Token};

use crate::server::counters::Counters;

/// How many tokens a guest may use: the one that it is given and those behind it.
pub const TOKENS: usize = 64;

/// Anything else that can happen on the server's poll: a signal, say, that a pipe has turned into an
/// event. A guest needs no second loop and no flag that is looked at now and then.
///
/// It is `Send` so that a caller may bind a server here and run it on a thread over there.
pub trait Guest: Send {
    /// Registers itself, with this token, and may do so with the next ones, [`TOKENS`] in all. The
    /// loop is edge-triggered: a guest takes all there is, or remembers.
    ///
    /// # Errors
    /// Those of the registry; the server does not start.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;

    /// An event has come for it.
    ///
    /// # Errors
    /// Ends the loop: a guest keeps its own clients' errors to itself.
    fn ready(&mut self, host: &Host<'_>, event: &Event) -> io::Result<Wish>;

    /// When it wants to be called although nothing happened.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// That moment has come.
    fn on_due(&mut self, _host: &Host<'_>) -> Wish {
        Wish::Nothing
    }
}

/// What the loop lends a guest for a call.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Of the poll that they share.
    pub registry: &'a Registry,
    /// What the server has done so far.
    pub counters: &'a Counters,
    /// The loop's clock, read once a turn.
    pub now: Instant,
}

/// What a guest may ask of the server, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Go on.
    Nothing,
    /// Give back all that was taken, then end, as a [`Stopper`](crate::Stopper) does.
    Drain,
    /// End at once, and tell the caller of [`run`](crate::Server::run) this status.
    Stop(u8),
}
