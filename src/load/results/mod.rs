//! What was asked, what was measured, and what is to be thought of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::load::payload::Fault;
use crate::load::results::statistics::{Corruption, Latencies};
use crate::load::results::thresholds::Threshold;
use crate::load::{Measured, Plan, Sample, Stop};

pub mod statistics;
mod text;
pub mod thresholds;

pub use text::hdr;

/// A loop that could use this much of a processor, or more, was the limit itself.
const SATURATED: f64 = 0.95;

/// So was one whose messages left this late on average, in nanoseconds.
const LATE: u64 = 1_000_000;

/// A report, in the form that is written as JSON. Times end in their unit; in microseconds they may
/// have decimals.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    target: String,
    parameters: Parameters,
    elapsed_s: f64,
    connections: Connections,
    messages: Messages,
    throughput: Throughput,
    latency_us: Times,
    service_us: Times,
    connect_us: Times,
    per_connection: PerConnection,
    generator: Generator,
    errors: BTreeMap<String, u64>,
    first_corrupt: Option<FirstCorrupt>,
    thresholds: Vec<String>,
    /// The same, and what the figures were, for people.
    #[serde(skip)]
    held: Vec<String>,
    verdict: Verdict,
}

/// What is to be thought of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All was sent, and all came back.
    Ok,
    /// A connection failed or was lost, or a message timed out.
    Failed,
    /// Bytes came back wrong.
    Corrupt,
    /// A threshold holds.
    Threshold,
    /// It was stopped before its time.
    Interrupted,
}

impl Verdict {
    /// The exit code that says so.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Failed => 1,
            Verdict::Corrupt => 3,
            Verdict::Threshold => 99,
            Verdict::Interrupted => 130,
        }
    }
}

#[derive(Debug, Serialize)]
struct Parameters {
    connections: usize,
    threads: usize,
    length: u64,
    pipeline: usize,
    rate: Option<u64>,
    connect_rate: Option<u64>,
    reconnect: bool,
    half_close: bool,
    duration_s: Option<f64>,
    requests: Option<u64>,
    warm_up_s: f64,
    timeout_s: Option<f64>,
    source_ips: Vec<IpAddr>,
    busy_poll_s: Option<f64>,
    seed: u64,
}

#[derive(Debug, Serialize)]
struct Connections {
    requested: usize,
    established: u64,
    failed: u64,
    lost: u64,
}

#[derive(Debug, Serialize)]
struct Messages {
    sent: u64,
    echoed: u64,
    corrupt: u64,
    timed_out: u64,
    lost: u64,
}

#[derive(Debug, Serialize)]
struct Throughput {
    messages_per_s: f64,
    bytes_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Times {
    min: f64,
    mean: f64,
    stdev: f64,
    p50: f64,
    p75: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    p99_99: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct PerConnection {
    min_messages: u64,
    max_messages: u64,
}

#[derive(Debug, Serialize)]
struct Generator {
    cpu: f64,
    demand: f64,
    schedule_lag_us_max: f64,
    limited: bool,
}

#[derive(Debug, Serialize)]
struct FirstCorrupt {
    connection: usize,
    offset: u64,
    what: String,
}

impl Measured {
    /// Messages a second. Both the count and the time are of the same span, so that what was under way at
    /// its beginning makes up for what is at its end.
    pub fn rate(&self) -> f64 {
        per_second(self.tally.arrived, self.elapsed)
    }
}

impl Report {
    /// Of this run.
    pub fn new(
        target: String,
        plan: &Plan,
        measured: &Measured,
        thresholds: &[Threshold],
    ) -> Report {
        let tally = &measured.tally;
        let rate = measured.rate();
        let held: Vec<_> = thresholds.iter().filter(|t| t.holds(measured)).collect();
        let lag_mean = tally.lag_sum.checked_div(tally.lag_count).unwrap_or(0);
        // To poll without sleep takes all of a processor by design.
        let saturated = plan.busy_poll.is_none() && measured.demand >= SATURATED;
        let (duration, requests) = match plan.stop {
            Stop::After(duration) => (Some(duration), None),
            Stop::Messages(n) => (None, Some(n)),
        };
        Report {
            version: 1,
            target,
            parameters: Parameters {
                connections: plan.connections,
                threads: plan.threads,
                length: plan.length,
                pipeline: plan.pipeline,
                rate: plan.rate,
                connect_rate: plan.connect_rate,
                reconnect: plan.reconnect,
                half_close: plan.half_close,
                duration_s: duration.map(|duration| duration.as_secs_f64()),
                requests,
                warm_up_s: plan.warm_up.as_secs_f64(),
                timeout_s: plan.timeout.map(|timeout| timeout.as_secs_f64()),
                source_ips: plan.sources.clone(),
                busy_poll_s: plan.busy_poll.map(|busy_poll| busy_poll.as_secs_f64()),
                seed: plan.seed,
            },
            elapsed_s: measured.elapsed.as_secs_f64(),
            connections: Connections {
                requested: plan.connections,
                established: tally.established,
                failed: tally.failed,
                lost: tally.lost,
            },
            messages: Messages {
                sent: tally.sent,
                echoed: tally.echoed,
                corrupt: tally.corrupt,
                timed_out: tally.timed_out,
                lost: tally.messages_lost,
            },
            throughput: Throughput { messages_per_s: rate, bytes_per_s: rate * plan.length as f64 },
            latency_us: Times::of(&tally.times.latency()),
            service_us: Times::of(&tally.times.service()),
            connect_us: Times::of(&tally.connect),
            per_connection: PerConnection {
                min_messages: tally.by_connection.iter().min().copied().unwrap_or(0),
                max_messages: tally.by_connection.iter().max().copied().unwrap_or(0),
            },
            generator: Generator {
                cpu: measured.cpu,
                demand: measured.demand,
                schedule_lag_us_max: micros(tally.lag_max),
                limited: saturated || lag_mean >= LATE,
            },
            errors: tally.errors.clone(),
            first_corrupt: tally.first_corrupt.map(FirstCorrupt::from),
            verdict: verdict(measured, !held.is_empty()),
            thresholds: held.iter().map(ToString::to_string).collect(),
            held: held.iter().map(|t| format!("{t}, it was {}", t.figure(measured))).collect(),
        }
    }

    /// What is to be thought of the run.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// The first that holds, in the order of how much it takes from the others' worth.
fn verdict(measured: &Measured, threshold: bool) -> Verdict {
    let tally = &measured.tally;
    if tally.corrupt > 0 {
        Verdict::Corrupt
    } else if measured.interrupted {
        Verdict::Interrupted
    } else if !tally.errors.is_empty() || tally.sent != tally.echoed {
        Verdict::Failed
    } else if threshold {
        Verdict::Threshold
    } else {
        Verdict::Ok
    }
}

impl Times {
    fn of(latencies: &Latencies) -> Times {
        let at = |quantile| micros(latencies.value_at_quantile(quantile));
        Times {
            min: micros(latencies.min()),
            mean: latencies.mean() / 1e3,
            stdev: latencies.stdev() / 1e3,
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: micros(latencies.max()),
        }
    }
}

impl From<Corruption> for FirstCorrupt {
    fn from(corruption: Corruption) -> FirstCorrupt {
        let what = match corruption.fault {
            Fault::Unknown => "not looked into".into(),
            Fault::Changed => "changed".into(),
            Fault::Missing(n) => format!("{n} missing"),
            Fault::Surplus(n) => format!("{n} too many"),
            Fault::Misplaced(other) => format!("those of connection {other}"),
        };
        FirstCorrupt { connection: corruption.connection, offset: corruption.offset, what }
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// A line of newline-delimited JSON.
#[derive(Debug, Serialize)]
pub struct Interval {
    elapsed_s: f64,
    for_s: f64,
    messages_per_s: f64,
    connections: usize,
    errors: u64,
    /// Of nothing there is none.
    latency_us: Option<Times>,
}

impl Interval {
    /// Of this sample.
    pub fn new(sample: &Sample) -> Interval {
        Interval {
            elapsed_s: sample.elapsed.as_secs_f64(),
            for_s: sample.interval.as_secs_f64(),
            messages_per_s: per_second(sample.echoed, sample.interval),
            connections: sample.up,
            errors: sample.errors,
            latency_us: (!sample.latency.is_empty()).then(|| Times::of(&sample.latency)),
        }
    }
}
