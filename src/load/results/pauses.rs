//! The pauses of the load tester itself, for both reports, and whether they reached into the figures.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

/// What the load tester itself used needs this much measured time to mean anything.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// Gaps that make up this part of the measured time reach into its figures.
const MANY_GAPS: f64 = 0.05;

/// So does stolen processor time of this part.
const MUCH_STOLEN: f64 = 0.05;

/// The time in which the load tester could not run, in the measured time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pauses {
    /// The longest gap between two turns of a loop: by so much a turn came later than it should have. Gaps of
    /// less than 10 ms do not count.
    #[serde(rename = "longest_gap_us", serialize_with = "micros")]
    pub longest_gap: Duration,
    /// The sum of the gaps, of the loop that has the largest one.
    #[serde(rename = "gaps_us", serialize_with = "micros")]
    pub gaps: Duration,
    /// How long the machine was suspended since the messages began.
    #[serde(rename = "suspended_us", serialize_with = "micros")]
    pub suspended: Duration,
    /// The part of the machine's processor time since then that its hypervisor gave to others. `None` where
    /// the system does not tell.
    pub stolen: Option<f64>,
}

impl Pauses {
    /// Adds the pauses of another loop.
    pub(crate) fn add(&mut self, other: &Pauses) {
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        self.gaps = self.gaps.max(other.gaps);
        self.suspended = self.suspended.max(other.suspended);
        // All loops have measured the same machine.
        self.stolen = self.stolen.or(other.stolen);
    }

    /// Returns what was paused, with its length, if it reached into the figures: a single gap that is half of
    /// the longest latency or more, many of them, a suspended machine, or stolen time. In a short measured time
    /// only a long pause tells anything.
    pub(crate) fn reached(&self, measured: Duration, longest_latency: Duration) -> Option<String> {
        if measured.max(self.longest_gap).max(self.suspended) < SHORT {
            return None;
        }
        let seconds = |time: Duration| time.as_secs_f64();
        if !self.suspended.is_zero() {
            return Some(format!("the machine was suspended for {:.3} s", seconds(self.suspended)));
        }
        if !self.longest_gap.is_zero() && self.longest_gap * 2 >= longest_latency {
            let (longest, all) = (seconds(self.longest_gap), seconds(self.gaps));
            return Some(format!(
                "the load tester was held up for {longest:.3} s in one piece, {all:.3} s in all"
            ));
        }
        if seconds(self.gaps) > MANY_GAPS * seconds(measured) {
            let gaps = seconds(self.gaps);
            return Some(format!("the load tester was held up for {gaps:.3} s in all"));
        }
        let stolen = self.stolen.filter(|&stolen| stolen >= MUCH_STOLEN)?;
        Some(format!("the machine was without {:.0}% of its processor time", stolen * 100.0))
    }
}

/// Writes a line if there was a pause, and another one if it reached into the figures.
pub(super) fn text(
    out: &mut impl Write,
    pauses: &Pauses,
    reached: Option<String>,
) -> io::Result<()> {
    let Pauses { longest_gap, gaps, .. } = *pauses;
    if !longest_gap.is_zero() {
        let (longest, all) = (longest_gap.as_secs_f64(), gaps.as_secs_f64());
        writeln!(out, "gaps         {all:.3} s in all, the longest {longest:.3} s")?;
    }
    if let Some(pause) = reached {
        writeln!(out, "             {pause}: the figures above have this in them")?;
    }
    Ok(())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn micros<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_nanos() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::messages::InFlight;
    use crate::load::plan::Plan;
    use crate::load::results::statistics::Statistics;
    use crate::load::results::whole_run::Results;
    use crate::net::address::Address;

    #[test]
    fn a_pause_that_reached_into_the_figures_makes_the_load_tester_the_limit() {
        let ms = Duration::from_millis;
        let none = Pauses::default();
        let gap = |longest_gap, gaps| Pauses { longest_gap, gaps, ..none };
        let suspended = |suspended| Pauses { suspended, ..none };
        let stolen = |stolen| Pauses { stolen: Some(stolen), ..none };
        let (long, short) = (ms(10_000), ms(99));
        for (elapsed, pauses, reached) in [
            (long, none, None),
            // The longest latency is 100 ms.
            (long, gap(ms(49), ms(49)), None),
            (long, gap(ms(51), ms(51)), Some("held up for 0.051 s in one piece")),
            (long, gap(ms(20), ms(510)), Some("held up for 0.510 s in all")),
            (long, suspended(ms(2000)), Some("suspended for 2.000 s")),
            (long, stolen(0.04), None),
            (long, stolen(0.06), Some("without 6% of its processor time")),
            (short, gap(ms(99), ms(99)), None),
            (short, gap(ms(100), ms(100)), Some("held up for 0.100 s in one piece")),
            (short, suspended(ms(2000)), Some("suspended for 2.000 s")),
            (short, stolen(0.06), None),
        ] {
            let mut statistics = Statistics::default();
            statistics.latencies.record(InFlight { due: 0, sent: 0 }, 100_000_000);
            let target = Address::Tcp(([127, 0, 0, 1], 7).into());
            let plan = Plan::builder(vec![target]).build().unwrap();
            let mut results = Results::new(plan, statistics);
            results.elapsed = elapsed;
            results.generator.pauses = pauses;
            let found = results.pause();
            assert_eq!(found.is_some(), reached.is_some(), "{pauses:?}: {found:?}");
            assert!(found.unwrap_or_default().contains(reached.unwrap_or_default()), "{pauses:?}");
            assert_eq!(results.is_limited(), reached.is_some(), "{pauses:?}");
        }
    }
}
