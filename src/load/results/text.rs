//! The writer of the report for people, and of the line of progress.

use std::fmt;
use std::io::{self, Write};

use crate::load::plan::{Plan, Stop};
use crate::load::results::histogram::{Summary, micros};
use crate::load::results::report::{Report, Verdict};
use crate::load::results::series::Interval;
use crate::load::results::statistics::Datagrams;
use crate::load::results::whole_run::Results;
use crate::load::results::{addresses, outages, pauses};
use crate::protocol::Kind;

/// Number of characters of the longest bar.
const BAR: usize = 40;

/// Writes a report.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    let results = report.results;
    writeln!(out, "{}", report.target)?;
    parameters(out, &results.plan)?;
    counts(out, results)?;
    if results.messages.echoed > 0 {
        latencies(out, results)?;
    }
    for (what, n) in &results.errors {
        writeln!(out, "error        {n} x {what}")?;
    }
    generator(out, results)?;
    writeln!(out, "\n{}", conclusion(report))?;
    out.flush()
}

/// The line of progress.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interval { p99_so_far, connections, errors, .. } = self;
        let (seconds, rate) = (self.elapsed.as_secs_f64(), self.rate());
        write!(
            f,
            "{seconds:6.1} s  {rate:9.0} messages/s  p99 so far {p99_so_far:9.1} us  \
             {connections} connections  {errors} errors"
        )
    }
}

fn parameters(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let (connections, threads) = (plan.connections, plan.threads);
    write!(out, "{connections} connection{} on ", plural(connections))?;
    write!(out, "{threads} thread{}, {} bytes a message, ", plural(threads), plan.shape)?;
    write!(out, "{} in flight each, ", plan.pipeline)?;
    match plan.rate {
        Some(rate) => write!(out, "open loop: {rate} messages/s in total")?,
        None => write!(out, "closed loop: as fast as it goes")?,
    }
    match plan.stop {
        Stop::Messages(n) => write!(out, ", {n} messages")?,
        Stop::After(duration) => write!(out, ", for {} s", duration.as_secs_f64())?,
    }
    if !plan.warm_up.is_zero() {
        write!(out, " after {} s of warm-up", plan.warm_up.as_secs_f64())?;
    }
    if *plan.shape.framing() != Kind::Raw {
        write!(out, ", framing {}", plan.shape.framing())?;
    }
    match plan.messages_per_connection {
        Some(1) => write!(out, ", each on a new connection")?,
        Some(n) => write!(out, ", a new connection for each {n}")?,
        None => {}
    }
    if !plan.replaces {
        write!(out, ", lost connections not made again")?;
    }
    if plan.half_close {
        write!(out, ", half-closed behind the last")?;
    }
    if let Some(rate) = plan.connect_rate {
        write!(out, ", {rate} new connections/s")?;
    }
    if plan.busy_poll.is_some() {
        write!(out, ", polling without sleep")?;
    }
    writeln!(out, "; seed {}\n", plan.seed)
}

fn counts(out: &mut impl Write, results: &Results) -> io::Result<()> {
    let Results { plan, messages, connections, by_connection, .. } = results;
    writeln!(
        out,
        "connections  {} at once, {} established, {} failed, {} lost",
        plan.connections, connections.established, connections.failed, connections.lost
    )?;
    writeln!(
        out,
        "messages     {} sent, {} echoed, {} corrupt, {} timed out, {} lost, {} unsent",
        messages.sent,
        messages.echoed,
        messages.corrupt,
        messages.timed_out,
        messages.lost,
        messages.unsent
    )?;
    if let Some(Datagrams { late, duplicate, reordered, .. }) = results.datagrams {
        writeln!(out, "datagrams    {late} late, {duplicate} duplicate, {reordered} reordered")?;
    }
    let rate = results.rate();
    writeln!(
        out,
        "throughput   {rate:.0} messages/s, {:.2} MiB/s each way, for {:.3} s",
        results.byte_rate() / (1024.0 * 1024.0),
        results.elapsed.as_secs_f64()
    )?;
    let is_connecting = plan.reconnects() || plan.connect_rate.is_some();
    if is_connecting && connections.established > 0 {
        let summary = results.connect.summary();
        let (unit, scale) = unit(&summary);
        let [p50, p99, max] = [summary.p50, summary.p99, summary.max].map(|time| time / scale);
        writeln!(out, "connects     50% took {p50:.1} {unit}, 99% {p99:.1}, the longest {max:.1}")?;
    }
    let slowest = by_connection.iter().min().unwrap_or(&0);
    let fastest = by_connection.iter().max().unwrap_or(&0);
    writeln!(out, "slowest and fastest connection: {slowest} and {fastest} messages")?;
    addresses::text(out, results)?;
    outages::text(out, &results.outages)
}

fn latencies(out: &mut impl Write, results: &Results) -> io::Result<()> {
    let (latency, service) = (results.latency.summary(), results.service.summary());
    let (unit, scale) = unit(&latency);
    let (since, with_service) = match (results.plan.rate, results.plan.reconnects()) {
        (Some(_), _) => ("a message was due", true),
        (None, true) => ("a message could go, its connect included,", true),
        (None, false) => ("a message was sent", false),
    };
    write!(out, "\nlatency in {unit}, from when {since} until all of it was back")?;
    writeln!(out, "{}", if with_service { "; service, from when it was sent" } else { "" })?;
    let longest = latency.max.max(f64::MIN_POSITIVE);
    for ((name, latency), (_, service)) in table(&latency).into_iter().zip(table(&service)) {
        write!(out, "  {name:>6} {:12.1}", latency / scale)?;
        if with_service {
            write!(out, " {:12.1}", service / scale)?;
        }
        writeln!(out, "  {}", bar(latency / longest))?;
    }
    writeln!(out)
}

fn generator(out: &mut impl Write, results: &Results) -> io::Result<()> {
    let generator = &results.generator;
    let (used, wanted) = (generator.cpu * 100.0, generator.demand * 100.0);
    write!(out, "generator    {used:.0}% of its processor time used, {wanted:.0}% wanted")?;
    if results.plan.rate.is_some() {
        write!(out, ", at most {:.1} us behind its schedule", micros(generator.lag.max))?;
    }
    writeln!(out)?;
    pauses::text(out, results)?;
    if results.is_limited() && results.generator.pauses.reached(results).is_none() {
        writeln!(
            out,
            "             the generator was the limit, not the server: \
             give it more --threads, or processors of its own"
        )?;
    }
    Ok(())
}

/// Returns the verdict in one line.
fn conclusion(report: &Report<'_>) -> String {
    let results = report.results;
    match (report.verdict(), &results.first_corruption) {
        (Verdict::Ok, _) => "ok: all that was sent came back, every byte of it checked".into(),
        (Verdict::Failed, _) => format!(
            "failed: {} errors; {} connections failed, {} were lost; {} messages timed out, \
             {} were lost, {} could not be sent",
            results.error_count(),
            results.connections.failed,
            results.connections.lost,
            results.messages.timed_out,
            results.messages.lost,
            results.messages.unsent
        ),
        (Verdict::Corrupt, Some(first)) => format!(
            "corrupt: connection {}, from its byte {} on: {}",
            first.connection, first.offset, first.fault
        ),
        (Verdict::Corrupt, None) => "corrupt: ".into(),
        (Verdict::Threshold, _) => {
            let crossed = report.crossed().map(|threshold| {
                format!("{threshold}, it was {}", threshold.measured_text(results))
            });
            format!("threshold: {}", crossed.collect::<Vec<_>>().join("; "))
        }
        (Verdict::Interrupted, _) => "interrupted: this is what was measured so far".into(),
    }
}

fn table(summary: &Summary) -> [(&'static str, f64); 7] {
    [
        ("50%", summary.p50),
        ("75%", summary.p75),
        ("90%", summary.p90),
        ("99%", summary.p99),
        ("99.9%", summary.p99_9),
        ("99.99%", summary.p99_99),
        ("max", summary.max),
    ]
}

/// Returns the unit in which to print times, and its length in microseconds.
fn unit(times: &Summary) -> (&'static str, f64) {
    match times.p50 {
        ..10_000.0 => ("us", 1.0),
        ..10_000_000.0 => ("ms", 1e3),
        _ => ("s", 1e6),
    }
}

fn bar(part: f64) -> String {
    "#".repeat(((part * BAR as f64).round() as usize).clamp(1, BAR))
}
