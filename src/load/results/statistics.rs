//! What one loop counts. Loops share nothing while they run: their statistics are added at the end.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use rustix::io::Errno;
use serde::Serialize;

use crate::load::clock::Nanos;
use crate::load::fault::Fault;
use crate::load::messages::InFlight;
use crate::load::results::histogram::Histogram;

/// Counts and times. They are those of the measured time unless stated otherwise.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Numbers of messages.
    pub messages: Messages,
    /// Numbers of connections.
    pub connections: Connections,
    /// Numbers of datagrams, if the target is UDP.
    pub datagrams: Datagrams,
    /// Latencies of the messages.
    pub latencies: Latencies,
    /// Times of the connects that succeeded, in the whole run, with failed ones to other addresses before.
    pub connect: Histogram,
    /// What failed in the whole run, and how often.
    pub errors: BTreeMap<String, u64>,
    /// The first wrong bytes.
    pub first_corruption: Option<Corruption>,
    /// How late the loop was.
    pub lag: Lag,
}

/// Numbers of messages. A report has those that account for every message that was sent.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[non_exhaustive]
pub struct Messages {
    /// Number of messages that were to be sent: those that a connection started, and those that were
    /// due and could not be started before the end. After the run each of them has come back, timed
    /// out, is lost or is unsent.
    pub sent: u64,
    /// Number of messages that came back whole.
    pub echoed: u64,
    /// Number of messages that came back wrong, in the whole run. The first one ends its connection.
    pub corrupt: u64,
    /// Number of messages that did not come back in time. Datagrams that never came back are lost
    /// instead.
    pub timed_out: u64,
    /// Number of messages whose connection was lost, and of datagrams that never came back.
    pub lost: u64,
    /// Number of messages that were due and could not be sent before the end, because their connection was
    /// down or was behind.
    pub unsent: u64,
    /// Number of messages that came back in the whole run.
    #[serde(skip)]
    pub returned: u64,
    /// Number of messages that came back in the measured time, whenever they were due. The rate is
    /// made of these.
    #[serde(skip)]
    pub arrived: u64,
    /// Number of bytes that came back in the measured time, if the lengths of the messages vary.
    #[serde(skip)]
    pub arrived_bytes: u64,
    /// When the last of those arrived.
    #[serde(skip)]
    pub(crate) last_arrival: Nanos,
}

/// Numbers of datagrams that a network did not simply carry. Those that it lost are lost messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Datagrams {
    /// Number of datagrams that came back after they were given up. They are messages that timed out.
    pub late: u64,
    /// Number of datagrams that came back more than once, counted each time, in the whole run.
    pub duplicate: u64,
    /// Number of datagrams that came back before an older one, in the whole run.
    pub reordered: u64,
}

/// Numbers of connections in the whole run.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Connections {
    /// Number of connections that were established.
    pub established: u64,
    /// Number of times that a connection could not be made, to no address of the target.
    pub failed: u64,
    /// Number of connects that failed and were followed by one to another address. They are errors, but no
    /// failures.
    pub fell_back: u64,
    /// Number of connections that ended early.
    pub lost: u64,
    /// Number of connections that were not made yet when the run was stopped.
    pub connecting: u64,
}

/// How late a loop was at the due times of its messages, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lag {
    max: Nanos,
    sum: Nanos,
    count: u64,
}

/// Two latencies of each message: from when it was due, and from when it was sent.
///
/// In a closed loop the two are nearly always the same. They are then recorded once.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    both: Histogram,
    due: Histogram,
    sent: Histogram,
}

/// Where the first wrong bytes were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Corruption {
    /// Number of the connection.
    pub connection: usize,
    /// Offset of the first wrong byte in what the connection received.
    pub offset: u64,
    /// How the bytes differ.
    #[serde(rename = "what")]
    pub fault: Fault,
}

impl Statistics {
    /// Counts an error.
    pub(crate) fn count_error(&mut self, what: impl Into<String>) {
        *self.errors.entry(what.into()).or_default() += 1;
    }

    /// Counts wrong bytes.
    pub(crate) fn count_corruption(&mut self, connection: usize, offset: u64, fault: Fault) {
        self.messages.corrupt += 1;
        self.count_error(match fault {
            Fault::Unknown => "wrong bytes, not looked into",
            Fault::Changed => "bytes were changed",
            Fault::Missing(_) => "bytes were missing",
            Fault::Surplus(_) => "surplus bytes",
            Fault::Misplaced(_) => "bytes of another connection",
        });
        self.first_corruption.get_or_insert(Corruption { connection, offset, fault });
    }

    /// Adds the statistics of another loop.
    pub(crate) fn add(&mut self, other: &Statistics) {
        let (messages, others) = (&mut self.messages, &other.messages);
        messages.sent += others.sent;
        messages.echoed += others.echoed;
        messages.corrupt += others.corrupt;
        messages.timed_out += others.timed_out;
        messages.lost += others.lost;
        messages.unsent += others.unsent;
        messages.returned += others.returned;
        messages.arrived += others.arrived;
        messages.arrived_bytes += others.arrived_bytes;
        messages.last_arrival = messages.last_arrival.max(others.last_arrival);
        self.datagrams.late += other.datagrams.late;
        self.datagrams.duplicate += other.datagrams.duplicate;
        self.datagrams.reordered += other.datagrams.reordered;
        self.connections.established += other.connections.established;
        self.connections.failed += other.connections.failed;
        self.connections.fell_back += other.connections.fell_back;
        self.connections.lost += other.connections.lost;
        self.connections.connecting += other.connections.connecting;
        self.latencies.both.add(&other.latencies.both);
        self.latencies.due.add(&other.latencies.due);
        self.latencies.sent.add(&other.latencies.sent);
        self.connect.add(&other.connect);
        for (what, n) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += n;
        }
        self.first_corruption = self.first_corruption.or(other.first_corruption);
        self.lag.max = self.lag.max.max(other.lag.max);
        self.lag.sum += other.lag.sum;
        self.lag.count += other.lag.count;
    }
}

impl Lag {
    pub(crate) fn record(&mut self, lag: Nanos) {
        self.max = self.max.max(lag);
        self.sum += lag;
        self.count += 1;
    }

    /// Returns the longest lag, if any message was due.
    pub fn max(&self) -> Option<Nanos> {
        (self.count > 0).then_some(self.max)
    }

    /// Returns the mean lag.
    pub fn mean(&self) -> Nanos {
        self.sum.checked_div(self.count).unwrap_or(0)
    }
}

impl Latencies {
    #[inline]
    pub(crate) fn record(&mut self, message: InFlight, now: Nanos) {
        if message.due == message.sent {
            self.both.record(now.saturating_sub(message.sent));
        } else {
            self.record_apart(message, now);
        }
    }

    /// Not inlined: the usual case would pay for the registers that this one needs.
    #[inline(never)]
    fn record_apart(&mut self, message: InFlight, now: Nanos) {
        self.due.record(now.saturating_sub(message.due));
        self.sent.record(now.saturating_sub(message.sent));
    }

    /// Returns the times from when a message was due until its last byte came back.
    pub(crate) fn latency(&self) -> Histogram {
        let mut latency = self.both.clone();
        latency.add(&self.due);
        latency
    }

    /// Returns the times from when a message was sent until its last byte came back.
    pub(crate) fn service(&self) -> Histogram {
        let mut service = self.both.clone();
        service.add(&self.sent);
        service
    }
}

/// Returns a stable name for an error of a connection, and what to do where that is known.
pub(crate) fn error_name(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::ConnectionRefused => "connection refused".into(),
        ErrorKind::ConnectionReset => "connection reset by the server".into(),
        ErrorKind::BrokenPipe => "connection closed by the server while sending".into(),
        ErrorKind::UnexpectedEof => "connection closed by the server".into(),
        ErrorKind::WouldBlock => "the server's backlog stayed full".into(),
        ErrorKind::AddrNotAvailable if e.get_ref().is_none() => {
            "no free local port: use more --source-ip, or wait for those in TIME_WAIT".into()
        }
        _ if e.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            "too many open files: raise the hard limit (ulimit -Hn), or use fewer connections"
                .into()
        }
        _ => e.to_string(),
    }
}
