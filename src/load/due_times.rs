//! The arithmetic of an open loop: from the number of a message to its due time, and back.

use std::time::Duration;

use crate::load::clock::Nanos;
use crate::load::rate::Rate;

const SECOND: u64 = 1_000_000_000;

/// More than any run has, of anything.
pub(super) const ENDLESS: u64 = u64::MAX;

/// The messages of an open loop, in numbers.
#[derive(Debug)]
pub(super) struct OpenLoop {
    /// Messages a second of the whole run.
    pub(super) rate: Rate,
    /// Number of messages of the whole run.
    pub(super) messages: u64,
    /// Number of connections of the whole run.
    pub(super) connections: u64,
    /// Whether a connection stays until the end even if it has no more messages.
    pub(super) stays: bool,
    /// Number of connections of this loop.
    pub(super) slots: usize,
    /// The next message of this loop: message number `round` of the connection in `slot`.
    pub(super) round: u64,
    pub(super) slot: usize,
}

impl OpenLoop {
    /// Returns the number, in the whole run, of a message of the connection with this number.
    pub(super) fn message(&self, connection: u64, round: u64) -> u64 {
        round * self.connections + connection
    }

    /// Returns when such a message is due after the start.
    pub(super) fn due(&self, connection: u64, round: u64) -> Nanos {
        due(self.message(connection, round), self.rate)
    }

    /// Returns the number of messages of a connection that are due before a time after the start.
    pub(super) fn rounds(&self, connection: u64, after_start: Nanos) -> u64 {
        let due = due_before(after_start, self.rate).min(self.messages);
        due.saturating_sub(connection).div_ceil(self.connections)
    }

    /// Moves on to the message of this loop after the next one.
    pub(super) fn advance(&mut self) {
        self.slot += 1;
        if self.slot == self.slots {
            (self.slot, self.round) = (0, self.round + 1);
        }
    }
}

/// Returns when a message of the whole run is due after the start. Integers give every second exactly
/// as many messages as were asked for, at any rate.
pub(super) fn due(number: u64, rate: Rate) -> Nanos {
    let (period, rest) = (rate.seconds * SECOND, number % rate.count);
    let part = match rest.checked_mul(period) {
        Some(product) => product / rate.count,
        None => (u128::from(rest) * u128::from(period) / u128::from(rate.count)) as Nanos,
    };
    (number / rate.count).saturating_mul(period).saturating_add(part)
}

/// Returns the number of messages of the whole run that are due before a time.
pub(super) fn due_before(after_start: Nanos, rate: Rate) -> u64 {
    let messages = u128::from(after_start) * u128::from(rate.count);
    let messages = messages.div_ceil((rate.seconds * SECOND).into());
    messages.try_into().unwrap_or(ENDLESS)
}

/// Returns a duration in nanoseconds. A duration of centuries is as good as endless.
pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_due_was_not_due_before() {
        let rates = [1, 3, 7, 500, 1500, 65_537, 18_001_001, 999_999_937];
        let thousandths = rates.map(Rate::from_thousandths);
        for rate in rates.map(Rate::from).into_iter().chain(thousandths) {
            for number in [0, 1, 2, 999, 1_000_003, 7_777_777_777] {
                let due = due(number, rate);
                if due == ENDLESS {
                    // After centuries.
                    continue;
                }
                assert_eq!(due_before(due, rate), number, "message {number} of {rate}/s");
                assert_eq!(due_before(due + 1, rate), number + 1, "message {number} of {rate}/s");
            }
        }
    }
}
