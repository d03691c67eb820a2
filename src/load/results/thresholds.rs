//! Conditions under which a run that went well has still failed: `p99>5ms`, `rate<100k`, `errors>0`.

use std::fmt;
use std::str::FromStr;

use crate::cli::units;
use crate::load::Measured;

/// One such condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    text: String,
    metric: Metric,
    comparison: Comparison,
    /// Nanoseconds, messages a second, or a count.
    limit: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Metric {
    /// Of the latency.
    Quantile(f64),
    Mean,
    Min,
    Max,
    Rate,
    Errors,
    Failed,
    Lost,
    Corrupt,
    TimedOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

const METRICS: &str =
    "pNN (as in p99.9), min, mean, max, rate, errors, failed, lost, corrupt or timed_out";

impl Threshold {
    /// What its figure came to, in the unit that people read.
    pub fn figure(&self, measured: &Measured) -> String {
        let value = self.metric.of(measured);
        match self.metric {
            metric if metric.is_a_time() => format!("{:.3}us", value / 1e3),
            Metric::Rate => format!("{value:.1}"),
            _ => format!("{value}"),
        }
    }

    /// Whether it holds, and so the run has failed.
    pub fn holds(&self, measured: &Measured) -> bool {
        let value = self.metric.of(measured);
        match self.comparison {
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
        }
    }
}

impl Metric {
    fn of(self, measured: &Measured) -> f64 {
        let tally = &measured.tally;
        let latency = tally.times.latency();
        match self {
            Metric::Quantile(quantile) => latency.value_at_quantile(quantile) as f64,
            Metric::Mean => latency.mean(),
            Metric::Min => latency.min() as f64,
            Metric::Max => latency.max() as f64,
            Metric::Rate => measured.rate(),
            Metric::Errors => tally.errors.values().sum::<u64>() as f64,
            Metric::Failed => tally.failed as f64,
            Metric::Lost => tally.lost as f64,
            Metric::Corrupt => tally.corrupt as f64,
            Metric::TimedOut => tally.timed_out as f64,
        }
    }

    fn is_a_time(self) -> bool {
        matches!(self, Metric::Quantile(_) | Metric::Mean | Metric::Min | Metric::Max)
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Threshold, String> {
        let at = text.find(['<', '>']).ok_or("no < or >, expected something like p99>5ms")?;
        let (metric, rest) = text.split_at(at);
        let metric = metric.trim().parse()?;
        let (comparison, limit) = match (rest.strip_prefix(">="), rest.strip_prefix("<=")) {
            (Some(limit), _) => (Comparison::AtLeast, limit),
            (_, Some(limit)) => (Comparison::AtMost, limit),
            _ if rest.starts_with('>') => (Comparison::Above, &rest[1..]),
            _ => (Comparison::Below, &rest[1..]),
        };
        let limit = limit.trim();
        let limit = match metric {
            metric if Metric::is_a_time(metric) => units::duration(limit)?.as_nanos() as f64,
            _ if limit == "0" => 0.0,
            _ => units::count(limit)? as f64,
        };
        Ok(Threshold { text: text.to_owned(), metric, comparison, limit })
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Metric, String> {
        Ok(match text {
            "min" => Metric::Min,
            "mean" => Metric::Mean,
            "max" => Metric::Max,
            "rate" => Metric::Rate,
            "errors" => Metric::Errors,
            "failed" => Metric::Failed,
            "lost" => Metric::Lost,
            "corrupt" => Metric::Corrupt,
            "timed_out" => Metric::TimedOut,
            _ => {
                let percent = text.strip_prefix('p').and_then(|p| p.parse::<f64>().ok());
                let percent = percent.filter(|p| (0.0..=100.0).contains(p));
                let percent = percent
                    .ok_or_else(|| format!("unknown metric `{text}`, expected {METRICS}"))?;
                Metric::Quantile(percent / 100.0)
            }
        })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::client::Flight;
    use crate::load::results::statistics::Tally;

    fn measured() -> Measured {
        let mut tally = Tally::new(1);
        for ms in 1..=100 {
            tally.times.record(Flight { due: 0, sent: ms }, ms * 1_000_000);
        }
        tally.arrived = 100;
        tally.error("connection refused");
        Measured {
            tally,
            elapsed: Duration::from_secs(2),
            cpu: 0.5,
            demand: 0.5,
            interrupted: false,
        }
    }

    #[test]
    fn a_threshold_holds_when_the_figure_is_past_it() {
        for (text, holds) in [
            ("p99>98ms", true),
            ("p99>100ms", false),
            ("p50 < 51ms", true),
            ("p99.9>=99ms", true),
            ("max<=99ms", false),
            ("mean>50ms", true),
            ("min>999us", true),
            ("rate<51", true),
            ("rate<50", false),
            ("rate<1k", true),
            ("errors>0", true),
            ("errors>1", false),
            ("lost>0", false),
            ("corrupt<=0", true),
        ] {
            let threshold: Threshold = text.parse().unwrap();
            assert_eq!(threshold.holds(&measured()), holds, "{text}");
        }
    }

    #[test]
    fn what_is_no_threshold_is_named_in_the_error() {
        for (text, why) in [
            ("p99", "no < or >"),
            ("p101>5ms", "unknown metric `p101`"),
            ("speed<5", "unknown metric `speed`"),
            ("p99>5", "a duration"),
            ("rate<5ms", "a count"),
            ("", "no < or >"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
