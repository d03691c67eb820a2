//! What a server has done so far, in plain integers that its one thread counts up.
//!
//! They add up: `accepted` is `open` and all that were closed; `bytes_in` is `bytes_out`, what was
//! still unsent when its connection closed, and what is owed now, which at the end is nothing.

use std::fmt;
use std::io;
use std::time::Duration;

/// Since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections taken on.
    pub accepted: u64,
    /// Connections closed as soon as they were accepted: their address had as many as it may have.
    pub refused: u64,
    /// Connections that ended because their peer did.
    pub closed_peer: u64,
    /// Connections that failed, such as by a reset.
    pub closed_error: u64,
    /// Connections ended by the idle timeout.
    pub closed_idle: u64,
    /// Connections that a drain ended when nothing was owed any more.
    pub closed_drain: u64,
    /// Connections that the very end found neither closed nor lingering.
    pub closed_cut_off: u64,
    /// Bytes received, to be given back.
    pub bytes_in: u64,
    /// Bytes given back.
    pub bytes_out: u64,
    /// Bytes owed to a connection when it closed.
    pub bytes_unsent: u64,
    /// Bytes that came after our end, and were neither echoed nor counted as received.
    pub bytes_discarded: u64,
    /// Answers of accept that were errors.
    pub accept_errors: u64,
    /// The most time that went by between two waits: for so long nobody was heard.
    pub longest_turn: Duration,
}

/// Why a connection was closed.
#[derive(Debug)]
pub enum Cause {
    /// The peer ended its direction, and has been given back all it sent.
    Peer,
    /// A call failed.
    Error(io::Error),
    /// No byte moved for the idle timeout.
    Idle,
    /// Drained: the server ends, and nothing was owed.
    Drain,
    /// It was still open when the run ended.
    CutOff,
}

impl Counters {
    /// Counts a connection that closed.
    pub fn count(&mut self, cause: &Cause) {
        *match cause {
            Cause::Peer => &mut self.closed_peer,
            Cause::Error(_) => &mut self.closed_error,
            Cause::Idle => &mut self.closed_idle,
            Cause::Drain => &mut self.closed_drain,
            Cause::CutOff => &mut self.closed_cut_off,
        } += 1;
    }

    /// Connections closed, by the name of the cause.
    pub fn closed(&self) -> [(&'static str, u64); 5] {
        [
            ("peer", self.closed_peer),
            ("error", self.closed_error),
            ("idle", self.closed_idle),
            ("drain", self.closed_drain),
            ("cut_off", self.closed_cut_off),
        ]
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.accepted - self.closed().iter().map(|(_, n)| n).sum::<u64>()
    }
}

/// One line of `name=value`, for logs.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accepted={} open={} refused={}", self.accepted, self.open(), self.refused)?;
        for (cause, n) in self.closed() {
            write!(f, " closed_{cause}={n}")?;
        }
        write!(
            f,
            " bytes_in={} bytes_out={} bytes_unsent={} bytes_discarded={}",
            self.bytes_in, self.bytes_out, self.bytes_unsent, self.bytes_discarded
        )?;
        let longest_turn = self.longest_turn.as_micros();
        write!(f, " accept_errors={} longest_turn_us={longest_turn}", self.accept_errors)
    }
}

/// For logs: what became of the connection.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Peer => f.write_str("its peer ended it"),
            Cause::Error(e) => write!(f, "{e}"),
            Cause::Idle => f.write_str("it was idle"),
            Cause::Drain => f.write_str("drained"),
            Cause::CutOff => f.write_str("cut off"),
        }
    }
}
