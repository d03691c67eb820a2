//! A place for one connection at a time, and what is kept of it from one to the next.

use crate::load::clock::Nanos;
use crate::load::schedule::Position;

/// Everything that outlives a connection in its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) stage: Stage,
    pub(super) position: Position,
    /// Index of the address that it is or was connected to.
    pub(super) target: usize,
    /// When its first connect was begun, and the number of those that failed since: one address after the
    /// other.
    pub(super) round: Option<(Nanos, usize)>,
    /// Number of rounds and of connections that failed one after the other, without an echo.
    pub(super) failures: u32,
    /// When the message was due that the next connection is made for, if it is made for a message.
    pub(super) message: Option<Nanos>,
    /// Number of messages that its connection may still start.
    pub(super) left: u64,
    /// Whether it had a connection, lost it, and has no other one yet.
    pub(super) is_down: bool,
    /// Whether it ever had a connection.
    pub(super) was_up: bool,
    /// Whether its first connect has failed.
    pub(super) has_failed: bool,
    /// Number of the outage in which it lost its connection, until a message comes back.
    pub(super) outage: Option<usize>,
    /// Number of messages that came back on connections that have ended.
    pub(super) echoed: u64,
}

/// The stages of a slot.
///
/// ```text
///   Idle --> Queued --> InUse --> Idle or Waiting
///             |  ^
///             v  |
///           Waiting               all of them --> Retired
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits until its next message is due.
    Idle,
    /// It waits until it may connect.
    Queued,
    /// Its connection was lost or could not be made. It waits until it may try again.
    Waiting,
    /// It has the client with this key.
    InUse(usize),
    /// It is not used any more.
    Retired,
}

impl Slot {
    pub(super) fn new(position: Position) -> Slot {
        Slot {
            stage: Stage::Idle,
            position,
            target: 0,
            round: None,
            failures: 0,
            message: None,
            left: 0,
            is_down: false,
            was_up: false,
            has_failed: false,
            outage: None,
            echoed: 0,
        }
    }
}
