//! What was asked, what was measured, and what is to be thought of it: as JSON and as text.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::load::payload::Fault;
use crate::load::tally::{Corruption, Latencies};
use crate::load::threshold::Threshold;
use crate::load::{Measured, Plan, Sample, Stop};

/// A loop that could use this much of a processor, or more, was the limit itself.
const SATURATED: f64 = 0.95;

/// So was one whose messages left this late on average, in nanoseconds.
const LATE: u64 = 1_000_000;

const BAR: usize = 40;

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
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        per_second(self.tally.echoed, self.elapsed)
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
        let held = thresholds.iter().filter(|threshold| threshold.holds(measured));
        let held: Vec<String> = held.map(ToString::to_string).collect();
        let lag_mean = tally.lag_sum.checked_div(tally.lag_count).unwrap_or(0);
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
                schedule_lag_us_max: micros(tally.lag_max),
                limited: measured.demand >= SATURATED || lag_mean >= LATE,
            },
            errors: tally.errors.clone(),
            first_corrupt: tally.first_corrupt.map(FirstCorrupt::from),
            verdict: verdict(measured, !held.is_empty()),
            thresholds: held,
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
    } else if tally.failed + tally.lost + tally.timed_out > 0 {
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

    fn table(&self) -> [(&'static str, f64); 7] {
        [
            ("50%", self.p50),
            ("75%", self.p75),
            ("90%", self.p90),
            ("99%", self.p99),
            ("99.9%", self.p99_9),
            ("99.99%", self.p99_99),
            ("max", self.max),
        ]
    }
}

impl From<Corruption> for FirstCorrupt {
    fn from(corruption: Corruption) -> FirstCorrupt {
        let what = match corruption.fault {
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
    latency_us: Times,
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
            latency_us: Times::of(&sample.latency),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let rate = per_second(self.echoed, self.interval);
        let p99 = micros(self.latency_so_far.value_at_quantile(0.99));
        let (up, errors) = (self.up, self.errors);
        write!(
            f,
            "{seconds:6.1} s  {rate:9.0} messages/s  p99 so far {p99:9.1} us  \
             {up} connections  {errors} errors"
        )
    }
}

/// The text report.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { connections, messages, throughput, generator, .. } = self;
        writeln!(f, "{}\n{}\n", self.target, self.parameters)?;
        writeln!(
            f,
            "connections  {} of {} established, {} failed, {} lost",
            connections.established, connections.requested, connections.failed, connections.lost
        )?;
        writeln!(
            f,
            "messages     {} sent, {} echoed, {} corrupt, {} timed out",
            messages.sent, messages.echoed, messages.corrupt, messages.timed_out
        )?;
        writeln!(
            f,
            "throughput   {:.0} messages/s, {:.2} MiB/s each way, for {:.3} s",
            throughput.messages_per_s,
            throughput.bytes_per_s / (1024.0 * 1024.0),
            self.elapsed_s
        )?;
        writeln!(
            f,
            "slowest and fastest connection: {} and {} messages",
            self.per_connection.min_messages, self.per_connection.max_messages
        )?;
        if messages.echoed > 0 {
            self.latencies(f)?;
        }
        for (what, n) in &self.errors {
            writeln!(f, "error        {n} x {what}")?;
        }
        write!(f, "generator    {:.0}% of its processor time used", generator.cpu * 100.0)?;
        if self.parameters.rate.is_some() {
            let lag = generator.schedule_lag_us_max;
            write!(f, ", at most {lag:.1} us behind its schedule")?;
        }
        writeln!(f)?;
        if generator.limited {
            writeln!(
                f,
                "             the generator was the limit, not the server: \
                 give it more --threads, or processors of its own"
            )?;
        }
        writeln!(f, "\n{}", self.conclusion())
    }
}

impl Report {
    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = match self.latency_us.p50 {
            ..10_000.0 => ("us", 1.0),
            ..10_000_000.0 => ("ms", 1e3),
            _ => ("s", 1e6),
        };
        let open = self.parameters.rate.is_some();
        let since = if open { "a message was due" } else { "a message was sent" };
        write!(f, "\nlatency in {unit}, from when {since} until all of it was back")?;
        writeln!(f, "{}", if open { "; service, from when it was sent" } else { "" })?;
        let longest = self.latency_us.max.max(f64::MIN_POSITIVE);
        let rows = self.latency_us.table().into_iter().zip(self.service_us.table());
        for ((name, latency), (_, service)) in rows {
            write!(f, "  {name:>6} {:12.1}", latency / scale)?;
            if open {
                write!(f, " {:12.1}", service / scale)?;
            }
            writeln!(f, "  {}", bar(latency / longest))?;
        }
        writeln!(f)
    }

    /// The verdict, in one line.
    fn conclusion(&self) -> String {
        let mut text = match self.verdict {
            Verdict::Ok => "ok: all that was sent came back, every byte of it checked".into(),
            Verdict::Failed => "failed: ".to_owned(),
            Verdict::Corrupt => "corrupt: ".into(),
            Verdict::Threshold => format!("threshold: {}", self.thresholds.join(", ")),
            Verdict::Interrupted => "interrupted: this is what was measured so far".into(),
        };
        // To write into a string cannot fail.
        let _ = match (&self.verdict, &self.first_corrupt) {
            (Verdict::Failed, _) => write!(
                text,
                "{} connections failed, {} were lost, {} messages timed out",
                self.connections.failed, self.connections.lost, self.messages.timed_out
            ),
            (Verdict::Corrupt, Some(first)) => write!(
                text,
                "connection {}, from its byte {} on: {}",
                first.connection, first.offset, first.what
            ),
            _ => Ok(()),
        };
        text
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let (connections, threads) = (self.connections, self.threads);
        write!(f, "{connections} connection{} on ", plural(connections))?;
        write!(f, "{threads} thread{}, {} bytes a message, ", plural(threads), self.length)?;
        write!(f, "{} in flight each, ", self.pipeline)?;
        match self.rate {
            Some(rate) => write!(f, "open loop: {rate} messages/s in total")?,
            None => write!(f, "closed loop: as fast as it goes")?,
        }
        match (self.duration_s, self.requests) {
            (_, Some(n)) => write!(f, ", {n} messages")?,
            (duration, None) => write!(f, ", for {} s", duration.unwrap_or(0.0))?,
        }
        if self.warm_up_s > 0.0 {
            write!(f, " after {} s of warm-up", self.warm_up_s)?;
        }
        if self.reconnect {
            f.write_str(", each on a new connection")?;
        }
        if self.half_close {
            f.write_str(", half-closed behind the last")?;
        }
        if let Some(rate) = self.connect_rate {
            write!(f, ", {rate} new connections/s")?;
        }
        write!(f, "; seed {}", self.seed)
    }
}

fn bar(part: f64) -> String {
    "#".repeat(((part * BAR as f64).round() as usize).clamp(1, BAR))
}

/// The percentile distribution in the text format of the `HdrHistogram` tools, in microseconds.
pub fn hdr(latencies: &Latencies) -> String {
    let mut text = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n".to_owned();
    let mut total = 0;
    for step in latencies.iter_quantiles(5) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (micros(step.value_iterated_to()), step.quantile_iterated_to());
        // To write into a string cannot fail.
        let _ = write!(text, "{value:12.3} {quantile:14.12} {total:10}");
        let _ = match 1.0 - quantile {
            rest if rest > 0.0 => writeln!(text, " {:14.2}", 1.0 / rest),
            _ => writeln!(text),
        };
    }
    let (mean, stdev) = (latencies.mean() / 1e3, latencies.stdev() / 1e3);
    let (max, count) = (micros(latencies.max()), latencies.len());
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {stdev:12.3}]");
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {count:12}]");
    text
}
