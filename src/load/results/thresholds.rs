//! Conditions that make a run without errors fail: `p99>5ms`, `rate<100k`, `errors>0`, `errors>1%`.

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
    /// The limit in nanoseconds, in messages a second, as a count, or in percent.
    limit: f64,
    /// Whether the figure is taken in percent of the messages.
    is_percentage: bool,
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
    Unsent,
    /// The longest outage.
    Outage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

const METRICS: [(&str, Metric); 11] = [
    ("min", Metric::Min),
    ("mean", Metric::Mean),
    ("max", Metric::Max),
    ("rate", Metric::Rate),
    ("errors", Metric::Errors),
    ("failed", Metric::Failed),
    ("lost", Metric::Lost),
    ("corrupt", Metric::Corrupt),
    ("timed_out", Metric::TimedOut),
    ("unsent", Metric::Unsent),
    ("outage", Metric::Outage),
];

impl Threshold {
    /// Returns the measured figure with its unit, if there is one.
    pub fn measured_text(&self, results: &Results) -> Option<String> {
        let value = self.measured(results)?;
        Some(match self.metric {
            _ if self.is_percentage => format!("{value:.3}%"),
            metric if metric.is_a_time() => format!("{:.3}us", value / 1e3),
            Metric::Rate => format!("{value:.1}"),
            _ => format!("{value}"),
        })
    }

    fn measured(&self, results: &Results) -> Option<f64> {
        let value = self.metric.value(results)?;
        match results.messages.sent {
            _ if !self.is_percentage => Some(value),
            0 => None,
            sent => Some(value / sent as f64 * 100.0),
        }
    }

    /// Returns whether the comparison is true. Where nothing was measured, nothing tells that it is not.
    pub fn is_crossed(&self, results: &Results) -> bool {
        let Some(value) = self.measured(results) else { return true };
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

    fn value(self, results: &Results) -> Option<f64> {
        let latency = &results.latency;
        let is_out = self == Metric::Outage && results.outages.count > 0;
        if self.is_a_time() && latency.is_empty() && !is_out {
            return None;
        }
        Some(match self {
            Metric::Quantile(part) => latency.quantile(part) as f64,
            Metric::Mean => latency.mean(),
            Metric::Min => latency.min() as f64,
            Metric::Max => latency.max() as f64,
            Metric::Rate => return results.rate(),
            Metric::Errors => results.error_count() as f64,
            Metric::Failed => results.connections.failed as f64,
            Metric::Lost => results.connections.lost as f64,
            Metric::Corrupt => results.messages.corrupt as f64,
            Metric::TimedOut => results.messages.timed_out as f64,
            Metric::Unsent => results.messages.unsent as f64,
            Metric::Outage => results.outages.longest.as_nanos() as f64,
        })
    }

    /// Parses a limit, and returns whether it is in percent.
    fn limit(self, text: &str) -> Result<(f64, bool), ThresholdError> {
        let limit = match text.strip_suffix('%') {
            Some(percent) if self.is_of_messages() => {
                let percent = if percent == "0" { 0 } else { units::rate(percent)? };
                return Ok((percent as f64 / 1e3, true));
            }
            Some(_) => {
                let error =
                    "only errors, corrupt, timed_out and unsent can be in %, of the messages";
                return Err(ThresholdError(error.into()));
            }
            None if self.is_a_time() => units::duration(text)?.as_nanos() as f64,
            None if text == "0" => 0.0,
            None if self == Metric::Rate => units::rate(text)? as f64 / 1e3,
            None => units::count(text)? as f64,
        };
        Ok((limit, false))
    }

    fn is_of_messages(self) -> bool {
        matches!(self, Metric::Errors | Metric::Corrupt | Metric::TimedOut | Metric::Unsent)
    }

    fn is_a_time(self) -> bool {
        matches!(
            self,
            Metric::Quantile(_) | Metric::Mean | Metric::Min | Metric::Max | Metric::Outage
        )
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
        let (limit, is_percentage) = metric.limit(limit.trim())?;
        Ok(Threshold { text: text.to_owned(), metric, comparison, limit, is_percentage })
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
        statistics.messages.sent = 100;
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
            ("errors>=1%", true),
            ("errors>1%", false),
            ("errors>0.5%", true),
            ("timed_out>0%", false),
            ("unsent>0%", false),
            ("p99>98.5ms", true),
            ("p99>1m30s", false),
            ("rate<0.05k", false),
            ("rate<50.5", true),
            ("lost>0", false),
            ("corrupt<=0", true),
        ] {
            let threshold: Threshold = text.parse().unwrap();
            assert_eq!(threshold.is_crossed(&results()), holds, "{text}");
        }
    }

    #[test]
    fn nothing_measured_crosses_every_threshold_on_it() {
        let target = Address::Tcp(([127, 0, 0, 1], 7).into());
        let plan = Plan::builder(vec![target]).build().unwrap();
        let results = Results::new(plan, Statistics::default());
        for text in
            ["p99>1h", "p50<1h", "max>1h", "mean>1h", "min<1us", "rate<1", "errors>1%", "outage>1h"]
        {
            let threshold: Threshold = text.parse().unwrap();
            assert!(threshold.is_crossed(&results), "{text}");
            assert_eq!(threshold.measured_text(&results), None, "{text}");
        }
        assert!(!"errors>0".parse::<Threshold>().unwrap().is_crossed(&results));
    }

    #[test]
    fn a_latency_of_hours_crosses_what_is_below_it_only() {
        const HOUR: u64 = 3_600_000_000_000;
        let mut statistics = Statistics::default();
        statistics.latencies.record(InFlight { due: 0, sent: 0 }, 2 * HOUR);
        let target = Address::Tcp(([127, 0, 0, 1], 7).into());
        let results = Results::new(Plan::builder(vec![target]).build().unwrap(), statistics);
        for (text, holds) in [("p99>90m", true), ("p99>1h59m", true), ("max>2h1m", false)] {
            assert_eq!(text.parse::<Threshold>().unwrap().is_crossed(&results), holds, "{text}");
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
            ("p99>5%", "only errors"),
            ("rate<5%", "only errors"),
            ("errors>1.5", "a count"),
            ("errors>%", "a rate"),
            ("", "no < or >"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
