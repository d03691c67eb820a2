//! Counters of a server: what it has done since its start.
//!
//! They add up. `accepted` is the number of open connections plus all that were closed. For a protocol
//! that answers as many bytes as it receives, `bytes_in` is `bytes_out`, plus what was unsent when its
//! connection closed, plus what is owed now (at the end: nothing).

use std::fmt;
use std::time::Duration;

/// The counters of one server, which its one thread counts up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Number of connections accepted and served.
    pub accepted: u64,
    /// Number of connections closed at once: their address already had as many as it may have.
    pub refused: u64,
    /// Number of connections closed after their peer had ended them.
    pub closed_peer: u64,
    /// Number of connections closed after an error, for example a reset.
    pub closed_error: u64,
    /// Number of connections closed by the idle timeout.
    pub closed_idle: u64,
    /// Number of connections closed by a drain, when nothing was owed any more.
    pub closed_drain: u64,
    /// Number of connections that were still open when the run ended.
    pub closed_cut_off: u64,
    /// Number of connections closed because their input was malformed.
    pub closed_malformed: u64,
    /// Number of connections closed because their protocol ended the conversation.
    pub closed_protocol: u64,
    /// Number of bytes received.
    pub bytes_in: u64,
    /// Number of bytes sent.
    pub bytes_out: u64,
    /// Number of bytes that were received or owed, and not answered or sent, when a connection closed.
    pub bytes_unsent: u64,
    /// Number of bytes that arrived after our end of the stream. They are not part of `bytes_in`.
    pub bytes_discarded: u64,
    /// Number of errors of accept(2).
    pub accept_errors: u64,
    /// Number of times that a connection had to wait for memory.
    pub memory_waits: u64,
    /// Longest time between two waits: new events waited for that long.
    pub longest_turn: Duration,
}

/// Number of bytes that one connection has moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Number of bytes received.
    pub received: u64,
    /// Number of bytes sent.
    pub sent: u64,
}

/// Reason why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its direction of the stream, and was sent all that it was owed.
    Peer,
    /// A call failed.
    Error,
    /// No byte moved for the idle timeout.
    Idle,
    /// The server ends, and nothing was owed.
    Drain,
    /// The connection was still open when the run ended.
    CutOff,
    /// The input was malformed.
    Malformed,
    /// The protocol ended the conversation.
    Protocol,
}

impl Counters {
    /// Counts a connection that was closed.
    pub fn count_close(&mut self, reason: CloseReason) {
        *match reason {
            CloseReason::Peer => &mut self.closed_peer,
            CloseReason::Error => &mut self.closed_error,
            CloseReason::Idle => &mut self.closed_idle,
            CloseReason::Drain => &mut self.closed_drain,
            CloseReason::CutOff => &mut self.closed_cut_off,
            CloseReason::Malformed => &mut self.closed_malformed,
            CloseReason::Protocol => &mut self.closed_protocol,
        } += 1;
    }

    /// Returns the number of connections closed for each reason, with the reason's name.
    pub fn closed(&self) -> [(&'static str, u64); 7] {
        [
            ("peer", self.closed_peer),
            ("error", self.closed_error),
            ("idle", self.closed_idle),
            ("drain", self.closed_drain),
            ("cut_off", self.closed_cut_off),
            ("malformed", self.closed_malformed),
            ("protocol", self.closed_protocol),
        ]
    }

    /// Returns the number of connections closed, for whatever reason.
    pub fn all_closed(&self) -> u64 {
        self.closed().iter().map(|(_, n)| n).sum()
    }

    /// Returns the number of connections open now.
    pub fn open(&self) -> u64 {
        self.accepted - self.all_closed()
    }
}

/// One line of `name=value`, for logs.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accepted={} open={} refused={}", self.accepted, self.open(), self.refused)?;
        for (reason, n) in self.closed() {
            write!(f, " closed_{reason}={n}")?;
        }
        write!(
            f,
            " bytes_in={} bytes_out={} bytes_unsent={} bytes_discarded={}",
            self.bytes_in, self.bytes_out, self.bytes_unsent, self.bytes_discarded
        )?;
        let (errors, waits) = (self.accept_errors, self.memory_waits);
        let longest_turn = self.longest_turn.as_micros();
        write!(f, " accept_errors={errors} memory_waits={waits} longest_turn_us={longest_turn}")
    }
}

/// A sentence for logs.
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::Peer => "its peer ended it",
            CloseReason::Error => "a call failed",
            CloseReason::Idle => "it was idle",
            CloseReason::Drain => "drained",
            CloseReason::CutOff => "cut off",
            CloseReason::Malformed => "malformed input",
            CloseReason::Protocol => "the protocol ended it",
        })
    }
}
