//! What the connections of one loop share.

use std::time::Instant;

use crate::net::pool::Pool;
use crate::protocol::Malformed;
use crate::server::counters::{Counters, Traffic};

/// What all connections of a loop share.
#[derive(Debug)]
#[non_exhaustive]
pub struct Context<P> {
    /// The protocol that they speak.
    pub protocol: P,
    /// The pool that their pages come from.
    pub pool: Pool,
    /// The time, read once a turn.
    pub now: Instant,
    /// Number of bytes that one [`drive`](crate::server::connection::Connection::drive) may receive or answer
    /// before the other connections have their turn.
    pub budget: usize,
    /// What the last drive of a connection has moved.
    pub traffic: Traffic,
    /// Counters of the loop.
    pub counters: Counters,
    /// What was malformed, where the last drive met malformed input.
    pub malformed: Option<Malformed>,
}

impl<P> Context<P> {
    /// Makes the context of connections that hold at most `max_buffer` bytes in each direction.
    pub fn new(protocol: P, max_buffer: usize, now: Instant) -> Context<P> {
        Context {
            protocol,
            pool: Pool::new(max_buffer),
            now,
            budget: 1024 * 1024,
            traffic: Traffic::default(),
            counters: Counters::default(),
            malformed: None,
        }
    }
}
