//! Conditions that make a run without errors fail: `p99>5ms`, `rate<100k`, `errors>0`.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use crate::cli::units::{self, UnitError};
use crate::load::results::whole_run::Results;

/// A figure, a comparison and a limit. The run fails if the comparison is true.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    text: String,
    metric: Metric,
    comparison: Comparison,
    /// The limit in nanoseconds, in messages a second, or as a count.
    limit: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Metric {
    /// Times of the latency, in nanoseconds.
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

const METRICS: [(&str, Metric); 9] = [
    ("min", Metric::Min),
    ("mean", Metric::Mean),
    ("max", Metric::Max),
    ("rate", Metric::Rate),
    ("errors", Metric::Errors),
    ("failed", Metric::Failed),
    ("lost", Metric::Lost),
    ("corrupt", Metric::Corrupt),
    ("timed_out", Metric::TimedOut),
];

impl Threshold {
    /// Returns the measured figure with its unit.
    pub fn measured_text(&self, results: &Results) -> String {
        let value = self.metric.value(results);
        match self.metric {
            metric if metric.is_a_time() => format!("{:.3}us", value / 1e3),
            Metric::Rate => format!("{value:.1}"),
            _ => format!("{value}"),
        }
    }

    /// Returns whether the comparison is true.
    pub fn is_crossed(&self, results: &Results) -> bool {
        let value = self.metric.value(results);
        match self.comparison {
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
        }
    }
}

impl Metric {
    fn parse(text: &str) -> Option<Metric> {
        if let Some(&(_, metric)) = METRICS.iter().find(|&&(name, _)| name == text) {
            return Some(metric);
        }
        let percent = text.strip_prefix('p')?.parse::<f64>().ok()?;
        (0.0..=100.0).contains(&percent).then_some(Metric::Quantile(percent / 100.0))
    }

    fn value(self, results: &Results) -> f64 {
        let latency = &results.latency;
        match self {
            Metric::Quantile(part) => latency.quantile(part) as f64,
            Metric::Mean => latency.mean(),
            Metric::Min => latency.min() as f64,
            Metric::Max => latency.max() as f64,
            Metric::Rate => results.rate(),
            Metric::Errors => results.error_count() as f64,
            Metric::Failed => results.connections.failed as f64,
            Metric::Lost => results.connections.lost as f64,
            Metric::Corrupt => results.messages.corrupt as f64,
            Metric::TimedOut => results.messages.timed_out as f64,
        }
    }

    fn is_a_time(self) -> bool {
        matches!(self, Metric::Quantile(_) | Metric::Mean | Metric::Min | Metric::Max)
    }
}

/// A text that is not a threshold. It prints as the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThresholdError(String);

impl fmt::Display for ThresholdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ThresholdError {}

impl From<UnitError> for ThresholdError {
    fn from(e: UnitError) -> ThresholdError {
        ThresholdError(e.to_string())
    }
}

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Threshold, ThresholdError> {
        let no_comparison = || ThresholdError("no < or >, expected something like p99>5ms".into());
        let (name, rest) = text.split_at(text.find(['<', '>']).ok_or_else(no_comparison)?);
        let name = name.trim();
        let metric = Metric::parse(name).ok_or_else(|| {
            let names = METRICS.map(|(name, _)| name).join(", ");
            let expected = format!("expected pNN (as in p99.9) or one of {names}");
            ThresholdError(format!("unknown metric `{name}`, {expected}"))
        })?;
        let (comparison, limit) = match (rest.strip_prefix(">="), rest.strip_prefix("<=")) {
            (Some(limit), _) => (Comparison::AtLeast, limit),
            (_, Some(limit)) => (Comparison::AtMost, limit),
            _ if rest.starts_with('>') => (Comparison::Above, &rest[1..]),
            _ => (Comparison::Below, &rest[1..]),
        };
        let limit = match limit.trim() {
            limit if metric.is_a_time() => units::duration(limit)?.as_nanos() as f64,
            "0" => 0.0,
            limit if metric == Metric::Rate => units::rate(limit)? as f64 / 1e3,
            limit => units::count(limit)? as f64,
        };
        Ok(Threshold { text: text.to_owned(), metric, comparison, limit })
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
    use crate::load::messages::InFlight;
    use crate::load::plan::Plan;
    use crate::load::results::statistics::Statistics;
    use crate::net::address::Address;

    fn results() -> Results {
        let mut statistics = Statistics::default();
        for ms in 1..=100 {
            statistics.latencies.record(InFlight { due: 0, sent: ms }, ms * 1_000_000);
        }
        statistics.messages.arrived = 100;
        statistics.count_error("connection refused");
        let target = Address::Tcp(([127, 0, 0, 1], 7).into());
        let plan = Plan::builder(vec![target]).build().unwrap();
        Results { elapsed: Duration::from_secs(2), ..Results::new(plan, statistics) }
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
            assert_eq!(threshold.is_crossed(&results()), holds, "{text}");
        }
    }

    #[test]
    fn what_is_no_threshold_is_named_in_the_error() {
        for (text, why) in [
            ("p99", "no < or >"),
            ("p101>5ms", "unknown metric `p101`"),
            ("speed<5", "unknown metric `speed`"),
            ("p99>5", "a duration"),
            ("rate<5ms", "a rate"),
            ("", "no < or >"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
