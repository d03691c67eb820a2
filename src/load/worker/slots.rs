//! The slots of a loop: each has one connection, or one after the other where every message has its
//! own.

use std::ops::Range;

use crate::load::clock::Nanos;
use crate::load::schedule::Position;

/// Everything that outlives a connection in its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) stage: Stage,
    pub(super) position: Position,
    /// Number of connects that failed one after the other.
    pub(super) failed_connects: usize,
    /// When the message was due that the next connection is made for, if it is made for one message.
    pub(super) message: Option<Nanos>,
    /// Number of messages that came back on connections that have ended.
    pub(super) echoed: u64,
}

/// The stages of a slot.
///
/// ```text
///   Idle --> Queued --> InUse --> Idle
///     |        |
///     +--------+------> Retired
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits until its next message is due.
    Idle,
    /// It waits until it may connect.
    Queued,
    /// It has the client with this key.
    InUse(usize),
    /// It is not used any more.
    Retired,
}

/// The slots of one loop.
#[derive(Debug)]
pub(super) struct Slots {
    list: Vec<Slot>,
    /// Number of slots that are not retired.
    active: usize,
    /// Number of clients whose connect is not complete.
    pub(super) connecting: usize,
}

impl Slots {
    pub(super) fn new(positions: impl Iterator<Item = Position>) -> Slots {
        let slot = |position| Slot {
            stage: Stage::Idle,
            position,
            failed_connects: 0,
            message: None,
            echoed: 0,
        };
        let list: Vec<Slot> = positions.map(slot).collect();
        Slots { active: list.len(), list, connecting: 0 }
    }

    /// Returns the numbers of all slots.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.list.iter()
    }

    pub(super) fn get(&self, slot: usize) -> &Slot {
        &self.list[slot]
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> &mut Slot {
        &mut self.list[slot]
    }

    /// Returns whether any slot is not retired.
    pub(super) fn any_active(&self) -> bool {
        self.active > 0
    }

    pub(super) fn retire(&mut self, slot: usize) {
        debug_assert_ne!(self.list[slot].stage, Stage::Retired);
        self.list[slot].stage = Stage::Retired;
        self.active -= 1;
    }
}
