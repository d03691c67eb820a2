//! The report as a person reads it.

use std::fmt::{self, Write};

use super::{Parameters, Report, Times, Verdict, micros, per_second};
use crate::load::Sample;
use crate::load::results::statistics::Latencies;

/// Characters of the longest bar.
const BAR: usize = 40;

impl Times {
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
            "connections  {} at once, {} established, {} failed, {} lost",
            connections.requested, connections.established, connections.failed, connections.lost
        )?;
        writeln!(
            f,
            "messages     {} sent, {} echoed, {} corrupt, {} timed out, {} lost",
            messages.sent, messages.echoed, messages.corrupt, messages.timed_out, messages.lost
        )?;
        writeln!(
            f,
            "throughput   {:.0} messages/s, {:.2} MiB/s each way, for {:.3} s",
            throughput.messages_per_s,
            throughput.bytes_per_s / (1024.0 * 1024.0),
            self.elapsed_s
        )?;
        let connecting = self.parameters.reconnect || self.parameters.connect_rate.is_some();
        if connecting && connections.established > 0 {
            self.connects(f)?;
        }
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
        let (used, wanted) = (generator.cpu * 100.0, generator.demand * 100.0);
        write!(f, "generator    {used:.0}% of its processor time used, {wanted:.0}% wanted")?;
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
        let (unit, scale) = unit(&self.latency_us);
        let (since, with_service) = match (self.parameters.rate, self.parameters.reconnect) {
            (Some(_), _) => ("a message was due", true),
            (None, true) => ("a message could go, its connect included,", true),
            (None, false) => ("a message was sent", false),
        };
        write!(f, "\nlatency in {unit}, from when {since} until all of it was back")?;
        writeln!(f, "{}", if with_service { "; service, from when it was sent" } else { "" })?;
        let longest = self.latency_us.max.max(f64::MIN_POSITIVE);
        let rows = self.latency_us.table().into_iter().zip(self.service_us.table());
        for ((name, latency), (_, service)) in rows {
            write!(f, "  {name:>6} {:12.1}", latency / scale)?;
            if with_service {
                write!(f, " {:12.1}", service / scale)?;
            }
            writeln!(f, "  {}", bar(latency / longest))?;
        }
        writeln!(f)
    }

    fn connects(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Times { p50, p99, max, .. } = &self.connect_us;
        let (unit, scale) = unit(&self.connect_us);
        let [p50, p99, max] = [p50, p99, max].map(|time| time / scale);
        writeln!(f, "connects     50% took {p50:.1} {unit}, 99% {p99:.1}, the longest {max:.1}")
    }

    /// The verdict, in one line.
    fn conclusion(&self) -> String {
        let mut text = match self.verdict {
            Verdict::Ok => "ok: all that was sent came back, every byte of it checked".into(),
            Verdict::Failed => "failed: ".to_owned(),
            Verdict::Corrupt => "corrupt: ".into(),
            Verdict::Threshold => format!("threshold: {}", self.held.join("; ")),
            Verdict::Interrupted => "interrupted: this is what was measured so far".into(),
        };
        // To write into a string cannot fail.
        let _ = match (&self.verdict, &self.first_corrupt) {
            (Verdict::Failed, _) => write!(
                text,
                "{} errors; {} connections failed, {} were lost; {} messages timed out, {} were lost",
                self.errors.values().sum::<u64>(),
                self.connections.failed,
                self.connections.lost,
                self.messages.timed_out,
                self.messages.lost
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
        if self.busy_poll_s.is_some() {
            f.write_str(", polling without sleep")?;
        }
        write!(f, "; seed {}", self.seed)
    }
}

/// In which unit to print times, and its microseconds.
fn unit(times: &Times) -> (&'static str, f64) {
    match times.p50 {
        ..10_000.0 => ("us", 1.0),
        ..10_000_000.0 => ("ms", 1e3),
        _ => ("s", 1e6),
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
