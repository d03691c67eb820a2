//! What one loop has counted. Loops share nothing while they run; their tallies are added at the end.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use hdrhistogram::Histogram;

use crate::load::client::{Flight, Nanos};
use crate::load::payload::Fault;

/// Times up to an hour are told apart to three digits; memory does not grow with the run.
const LONGEST: Nanos = 3_600_000_000_000;

/// Latencies in nanoseconds.
pub type Latencies = Histogram<u64>;

/// An empty histogram.
pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order")
}

/// Two latencies of each message: from when it was due, and from when it was sent.
///
/// In a closed loop the two are nearly always the same, and then are recorded once.
#[derive(Debug, Clone)]
pub struct Times {
    both: Latencies,
    due: Latencies,
    sent: Latencies,
}

impl Times {
    fn new() -> Times {
        Times { both: latencies(), due: latencies(), sent: latencies() }
    }

    /// A message that is back.
    pub fn record(&mut self, flight: Flight, now: Nanos) {
        if flight.due == flight.sent {
            self.both.saturating_record(now.saturating_sub(flight.sent));
        } else {
            self.record_apart(flight, now);
        }
    }

    /// Not inlined, for the same reason as `Share::decide`.
    #[inline(never)]
    fn record_apart(&mut self, flight: Flight, now: Nanos) {
        self.due.saturating_record(now.saturating_sub(flight.due));
        self.sent.saturating_record(now.saturating_sub(flight.sent));
    }

    /// From the moment when a message was due to its last byte.
    pub fn latency(&self) -> Latencies {
        sum(&self.both, &self.due)
    }

    /// From the real send to the last byte.
    pub fn service(&self) -> Latencies {
        sum(&self.both, &self.sent)
    }

    fn add(&mut self, other: &Times) {
        self.both += &other.both;
        self.due += &other.due;
        self.sent += &other.sent;
    }
}

fn sum(one: &Latencies, other: &Latencies) -> Latencies {
    let mut sum = one.clone();
    sum += other;
    sum
}

/// Counts and latencies, of the time that is measured unless stated otherwise.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Latencies of the messages.
    pub times: Times,
    /// Of all the run's connects, those that succeeded.
    pub connect: Latencies,
    /// Messages that were to be sent: taken on by a connection, to leave as soon as the kernel takes them,
    /// or due and left over at the end. When the run is over each has come back, timed out or is lost.
    pub sent: u64,
    /// Messages that came back whole.
    pub echoed: u64,
    /// Messages that came back in all of the run.
    pub returned: u64,
    /// Those of them that came back in the time that is measured, whenever they were due: what the rate
    /// is made of.
    pub arrived: u64,
    /// When the last of those did.
    pub last_arrival: Nanos,
    /// Messages that came back wrong, in all of the run; the first ends its connection.
    pub corrupt: u64,
    /// The first of them that a loop met.
    pub first_corrupt: Option<Corruption>,
    /// Messages that did not come back in time, or could not even be sent.
    pub timed_out: u64,
    /// Messages that ended with their connection.
    pub messages_lost: u64,
    /// Connections in all of the run: that stood, that never did, and that ended before their time.
    pub established: u64,
    /// See `established`.
    pub failed: u64,
    /// See `established`.
    pub lost: u64,
    /// What went wrong in all of the run, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Messages echoed on each connection that has ended, in all of the run.
    pub by_connection: Vec<u64>,
    /// How late this loop was at a message's due time, at worst and in sum.
    pub lag_max: Nanos,
    /// See `lag_max`.
    pub lag_sum: Nanos,
    /// How many messages had a due time.
    pub lag_count: u64,
}

/// Where wrong bytes were first met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corruption {
    /// The number of the connection.
    pub connection: usize,
    /// The first wrong byte, counted from the connection's first.
    pub offset: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

impl Tally {
    /// Nothing counted yet, of so many connections.
    pub fn new(connections: usize) -> Tally {
        Tally {
            times: Times::new(),
            connect: latencies(),
            sent: 0,
            echoed: 0,
            returned: 0,
            arrived: 0,
            last_arrival: 0,
            corrupt: 0,
            first_corrupt: None,
            timed_out: 0,
            messages_lost: 0,
            established: 0,
            failed: 0,
            lost: 0,
            errors: BTreeMap::new(),
            by_connection: vec![0; connections],
            lag_max: 0,
            lag_sum: 0,
            lag_count: 0,
        }
    }

    /// Counts an error of this kind.
    pub fn error(&mut self, what: impl Into<String>) {
        *self.errors.entry(what.into()).or_default() += 1;
    }

    /// Adds what another loop has counted.
    pub fn add(&mut self, other: &Tally) {
        self.times.add(&other.times);
        self.connect += &other.connect;
        self.sent += other.sent;
        self.echoed += other.echoed;
        self.returned += other.returned;
        self.arrived += other.arrived;
        self.last_arrival = self.last_arrival.max(other.last_arrival);
        self.corrupt += other.corrupt;
        self.first_corrupt = self.first_corrupt.or(other.first_corrupt);
        self.timed_out += other.timed_out;
        self.messages_lost += other.messages_lost;
        self.established += other.established;
        self.failed += other.failed;
        self.lost += other.lost;
        for (what, n) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += n;
        }
        self.by_connection.extend(&other.by_connection);
        self.lag_max = self.lag_max.max(other.lag_max);
        self.lag_sum += other.lag_sum;
        self.lag_count += other.lag_count;
    }
}

/// A stable name for what went wrong, and what to do where that is known.
pub(crate) fn cause(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::ConnectionRefused => "connection refused".into(),
        ErrorKind::ConnectionReset => "connection reset by the server".into(),
        ErrorKind::BrokenPipe => "connection closed by the server while sending".into(),
        ErrorKind::UnexpectedEof => "connection closed by the server".into(),
        ErrorKind::WouldBlock => "the server's backlog stayed full".into(),
        ErrorKind::AddrNotAvailable if e.get_ref().is_none() => {
            "no free local port: use more --source-ip, or wait for those in TIME_WAIT".into()
        }
        _ if nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0))
            == nix::errno::Errno::EMFILE =>
        {
            "too many open files: raise the hard limit (ulimit -Hn), or use fewer connections"
                .into()
        }
        _ => e.to_string(),
    }
}
