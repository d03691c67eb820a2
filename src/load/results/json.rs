//! The writer of JSON, and of newline-delimited JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::load::plan::{Addresses, Plan, Stop};
use crate::load::rate::Rate;
use crate::load::results::addresses::AddressCounts;
use crate::load::results::histogram::{Summary, micros};
use crate::load::results::outages;
use crate::load::results::pauses::Pauses;
use crate::load::results::report::{Report, Unwritten, Verdict};
use crate::load::results::series::Interval;
use crate::load::results::statistics::{Corruption, Datagrams, Messages};
use crate::load::results::whole_run::Results;

/// Writes a report as one line.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    line(out, &Document::new(report))
}

/// Writes an interval as one line, for newline-delimited JSON.
///
/// # Errors
/// Those of the writer.
pub fn write_interval(out: &mut impl Write, interval: &Interval) -> io::Result<()> {
    line(
        out,
        &IntervalLine {
            elapsed_s: interval.elapsed.as_secs_f64(),
            for_s: interval.length.as_secs_f64(),
            messages_per_s: interval.rate(),
            connections: interval.connections,
            connecting: interval.connecting,
            errors: interval.errors,
            latency_us: interval.latency,
        },
    )
}

/// Each line is flushed, so that a reader that follows a file sees it at once.
fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)?;
    out.flush()
}

/// The keys in their documented order. Times have their unit in the name of the key.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    target: &'a str,
    parameters: Parameters<'a>,
    elapsed_s: f64,
    connections: Connections,
    addresses: &'a [AddressCounts],
    outages: outages::Document,
    messages: Messages,
    #[serde(skip_serializing_if = "Option::is_none")]
    datagrams: Option<Datagrams>,
    throughput: Throughput,
    latency_us: Option<Summary>,
    service_us: Option<Summary>,
    connect_us: Option<Summary>,
    per_connection: Option<PerConnection>,
    generator: Generator,
    errors: &'a BTreeMap<String, u64>,
    first_corrupt: Option<Corruption>,
    unwritten: Unwritten,
    thresholds: Vec<String>,
    verdict: Verdict,
}

#[derive(Serialize)]
struct Parameters<'a> {
    connections: usize,
    threads: usize,
    framing: String,
    length: u64,
    length_max: u64,
    pipeline: usize,
    rate: Option<Rate>,
    connect_rate: Option<Rate>,
    reconnect: bool,
    messages_per_connection: Option<u64>,
    replace_lost: bool,
    addresses: &'static str,
    half_close: bool,
    duration_s: Option<f64>,
    requests: Option<u64>,
    warm_up_s: f64,
    timeout_s: Option<f64>,
    source_ips: &'a [IpAddr],
    busy_poll_s: Option<f64>,
    seed: u64,
}

#[derive(Serialize)]
struct Connections {
    requested: usize,
    established: u64,
    failed: u64,
    lost: u64,
    connecting: u64,
}

#[derive(Serialize)]
struct Throughput {
    messages_per_s: Option<f64>,
    bytes_per_s: Option<f64>,
}

#[derive(Serialize)]
struct PerConnection {
    min_messages: u64,
    max_messages: u64,
}

#[derive(Serialize)]
struct Generator {
    cpu: Option<f64>,
    demand: Option<f64>,
    schedule_lag_us_max: Option<f64>,
    #[serde(flatten)]
    pauses: Pauses,
    limited: Option<bool>,
}

#[derive(Serialize)]
struct IntervalLine {
    elapsed_s: f64,
    for_s: f64,
    messages_per_s: f64,
    connections: usize,
    connecting: usize,
    errors: u64,
    latency_us: Option<Summary>,
}

impl<'a> Document<'a> {
    fn new(report: &Report<'a>) -> Document<'a> {
        let results = report.results;
        let connections = results.connections;
        Document {
            version: 1,
            target: report.target,
            parameters: Parameters::new(&results.plan),
            elapsed_s: results.elapsed.as_secs_f64(),
            connections: Connections {
                requested: results.plan.connections,
                established: connections.established,
                failed: connections.failed,
                lost: connections.lost,
                connecting: connections.connecting,
            },
            addresses: &results.addresses,
            outages: outages::Document::new(&results.outages),
            messages: results.messages,
            datagrams: results.datagrams,
            throughput: Throughput {
                messages_per_s: results.rate(),
                bytes_per_s: results.byte_rate(),
            },
            latency_us: results.latency.summary(),
            service_us: results.service.summary(),
            connect_us: results.connect.summary(),
            per_connection: results
                .slowest_and_fastest()
                .map(|(min_messages, max_messages)| PerConnection { min_messages, max_messages }),
            generator: Generator::new(results),
            errors: &results.errors,
            first_corrupt: results.first_corruption,
            unwritten: report.unwritten,
            thresholds: report.crossed().map(ToString::to_string).collect(),
            verdict: report.verdict(),
        }
    }
}

impl Generator {
    fn new(results: &Results) -> Generator {
        let is_limited = results.is_limited();
        Generator {
            cpu: results.generator.cpu,
            demand: results.generator.demand,
            schedule_lag_us_max: results.generator.lag.max().map(micros),
            pauses: results.generator.pauses,
            limited: (results.is_long_enough() || is_limited).then_some(is_limited),
        }
    }
}

impl Parameters<'_> {
    fn new(plan: &Plan) -> Parameters<'_> {
        let (duration, requests) = match plan.stop {
            Stop::After(duration) => (Some(duration), None),
            Stop::Messages(n) => (None, Some(n)),
        };
        let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
        let (length, length_max) = plan.shape.lengths();
        Parameters {
            connections: plan.connections,
            threads: plan.threads,
            framing: plan.shape.framing().to_string(),
            length,
            length_max,
            pipeline: plan.pipeline,
            rate: plan.rate,
            connect_rate: plan.connect_rate,
            reconnect: plan.messages_per_connection == Some(1),
            messages_per_connection: plan.messages_per_connection,
            replace_lost: plan.replaces,
            addresses: match plan.addresses {
                Addresses::All => "all",
                Addresses::First => "first",
            },
            half_close: plan.half_close,
            duration_s: seconds(duration),
            requests,
            warm_up_s: plan.warm_up.as_secs_f64(),
            timeout_s: seconds(plan.timeout),
            source_ips: &plan.source_ips,
            busy_poll_s: seconds(plan.busy_poll),
            seed: plan.seed,
        }
    }
}
