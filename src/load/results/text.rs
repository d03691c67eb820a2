//! The writer of the report for people, and of the line of progress.

use std::fmt;
use std::io::{self, Write};

use crate::load::plan::{Plan, Stop};
use crate::load::results::histogram::{Summary, micros};
use crate::load::results::report::{Report, Unwritten, Verdict};
use crate::load::results::series::{Connecting, Interval, Update};
use crate::load::results::statistics::Datagrams;
use crate::load::results::whole_run::Results;
use crate::load::results::words::{advice, counted};
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
    rates(out, results)?;
    addresses::text(out, &results.addresses)?;
    outages::text(out, &results.outages)?;
    let mut notes = Vec::new();
    errors(&mut notes, results)?;
    generator(&mut notes, results)?;
    unwritten(&mut notes, report.unwritten)?;
    if let (Some(latency), Some(service)) = (results.latency.summary(), results.service.summary()) {
        latencies(out, &results.plan, &latency, &service)?;
        if !notes.is_empty() {
            writeln!(out)?;
        }
    }
    out.write_all(&notes)?;
    writeln!(out, "\n{}", conclusion(report))?;
    out.flush()
}

/// The line of progress.
impl fmt::Display for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Update::Connecting(connecting) => connecting.fmt(f),
            Update::Interval(interval) => interval.fmt(f),
        }
    }
}

impl fmt::Display for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connecting { requested, established, in_progress, failed, .. } = self;
        let seconds = self.elapsed.as_secs_f64();
        write!(
            f,
            "{seconds:6.1} s  connecting: {established} of {requested} established, \
             {in_progress} in progress, {failed} failed"
        )?;
        self.errors.iter().try_for_each(|(what, n)| write!(f, "; {n} x {what}"))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, rate) = (self.elapsed.as_secs_f64(), self.rate());
        write!(f, "{seconds:6.1} s  {rate:9.0} messages/s  ")?;
        if let Some(p99) = self.p99_so_far {
            write!(f, "p99 so far {p99:9.1} us  ")?;
        }
        let connections = counted(self.connections as u64, "connection");
        write!(f, "{connections}  ")?;
        if self.connecting > 0 {
            write!(f, "{} connecting  ", self.connecting)?;
        }
        write!(f, "{}", counted(self.errors, "error"))
    }
}

fn parameters(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    write!(out, "{} on ", counted(plan.connections as u64, "connection"))?;
    write!(out, "{}, ", counted(plan.threads as u64, "thread"))?;
    match plan.shape.lengths() {
        (1, 1) => write!(out, "1 byte a message, ")?,
        _ => write!(out, "{} bytes a message, ", plan.shape)?,
    }
    write!(out, "{} in flight each, ", plan.pipeline)?;
    match plan.rate {
        Some(rate) => write!(out, "open loop: {rate} messages/s in total")?,
        None => write!(out, "closed loop: as fast as it goes")?,
    }
    match plan.stop {
        Stop::Messages(n) => write!(out, ", {}", counted(n, "message"))?,
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
    let Results { plan, messages, connections, .. } = results;
    write!(
        out,
        "connections  {} at once, {} established, {} failed, {} lost",
        plan.connections, connections.established, connections.failed, connections.lost
    )?;
    match connections.connecting {
        0 => writeln!(out)?,
        n => writeln!(out, ", {n} still connecting")?,
    }
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
    Ok(())
}

fn rates(out: &mut impl Write, results: &Results) -> io::Result<()> {
    if let (Some(rate), Some(byte_rate)) = (results.rate(), results.byte_rate()) {
        writeln!(
            out,
            "throughput   {rate:.*} messages/s, {:.2} MiB/s each way, for {:.3} s",
            if rate < 10.0 { 2 } else { 0 },
            byte_rate / (1024.0 * 1024.0),
            results.elapsed.as_secs_f64()
        )?;
    }
    let is_connecting = results.plan.reconnects() || results.plan.connect_rate.is_some();
    if let Some(summary) = results.connect.summary().filter(|_| is_connecting) {
        let (unit, scale) = unit(&summary);
        let [p50, p99, max] = [summary.p50, summary.p99, summary.max].map(|time| time / scale);
        writeln!(out, "connects     50% took {p50:.1} {unit}, 99% {p99:.1}, the longest {max:.1}")?;
    }
    if let Some((slowest, fastest)) = results.slowest_and_fastest() {
        let fastest = counted(fastest, "message");
        writeln!(out, "slowest and fastest connection: {slowest} and {fastest}")?;
    }
    Ok(())
}

fn latencies(
    out: &mut impl Write,
    plan: &Plan,
    latency: &Summary,
    service: &Summary,
) -> io::Result<()> {
    let (unit, scale) = unit(latency);
    let (since, with_service) = match (plan.rate, plan.reconnects()) {
        (Some(_), _) => ("a message was due", true),
        (None, true) => ("a message could go, its connect included,", true),
        (None, false) => ("a message was sent", false),
    };
    write!(out, "\nlatency in {unit}, from when {since} until all of it was back")?;
    writeln!(out, "{}", if with_service { "; service, from when it was sent" } else { "" })?;
    let longest = latency.max.max(f64::MIN_POSITIVE);
    for ((name, latency), (_, service)) in table(latency).into_iter().zip(table(service)) {
        write!(out, "  {name:>6} {:12.1}", latency / scale)?;
        if with_service {
            write!(out, " {:12.1}", service / scale)?;
        }
        writeln!(out, "  {}", bar(latency / longest))?;
    }
    Ok(())
}

fn errors(out: &mut impl Write, results: &Results) -> io::Result<()> {
    for (what, n) in &results.errors {
        match advice(what) {
            Some(advice) => writeln!(out, "error        {n} x {what} ({advice})")?,
            None => writeln!(out, "error        {n} x {what}")?,
        }
    }
    Ok(())
}

fn generator(out: &mut impl Write, results: &Results) -> io::Result<()> {
    let generator = &results.generator;
    let usage = generator.cpu.zip(generator.demand).map(|(used, wanted)| {
        let (used, wanted) = (used * 100.0, wanted * 100.0);
        format!("{used:.0}% of its processor time used, {wanted:.0}% wanted")
    });
    let lag = generator.lag.max().map(micros);
    let lag = lag.map(|lag| format!("at most {lag:.1} us behind its schedule"));
    let figures: Vec<String> = usage.into_iter().chain(lag).collect();
    if !figures.is_empty() {
        writeln!(out, "generator    {}", figures.join(", "))?;
    }
    let pause = results.pause();
    let is_paused = pause.is_some();
    pauses::text(out, &results.generator.pauses, pause)?;
    if results.is_limited() && !is_paused {
        writeln!(
            out,
            "             the generator was the limit, not the server: \
             give it more --threads, or processors of its own"
        )?;
    }
    Ok(())
}

fn unwritten(out: &mut impl Write, unwritten: Unwritten) -> io::Result<()> {
    for (n, what) in [(unwritten.intervals, "interval"), (unwritten.progress, "line of progress")] {
        if n > 0 {
            writeln!(out, "output       {n} x {what} left out: it was not read in time")?;
        }
    }
    Ok(())
}

/// Returns the verdict in one line.
fn conclusion(report: &Report<'_>) -> String {
    let results = report.results;
    let nothing = if results.messages.echoed == 0 { "no message was measured; " } else { "" };
    match (report.verdict(), &results.first_corruption) {
        (Verdict::Ok, _) => "ok: all that was sent came back, every byte of it checked".into(),
        (Verdict::Failed, _) if results.messages.sent == 0 && results.errors.is_empty() => {
            "failed: no message was measured: it needs a longer -d, or a shorter --warm-up".into()
        }
        (Verdict::Failed, _) => format!(
            "failed: {nothing}{}; {} failed, {} lost; {} timed out, {} lost, {} unsent",
            counted(results.error_count(), "error"),
            counted(results.connections.failed, "connection"),
            results.connections.lost,
            counted(results.messages.timed_out, "message"),
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
                let measured = threshold.measured_text(results);
                let measured =
                    measured.map_or("no data".into(), |figure| format!("it was {figure}"));
                format!("{threshold}, {measured}")
            });
            format!("threshold: {nothing}{}", crossed.collect::<Vec<_>>().join("; "))
        }
        (Verdict::Interrupted, _) => {
            format!("interrupted: {nothing}this is what was measured so far")
        }
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
