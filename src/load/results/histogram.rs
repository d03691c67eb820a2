//! Times, and how they are distributed.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::load::clock::Nanos;

/// Up to this time a histogram needs no more memory than at its start: an hour.
const USUAL: Nanos = 3_600_000_000_000;

/// The longest time that is told apart from longer ones, and the longest that the histogram can hold: more
/// than a century.
const LONGEST: Nanos = Nanos::MAX / 4;

/// A histogram of times in nanoseconds, to three digits. Its memory does not grow with the number of times:
/// it is about 300 KiB, and at most 450 KiB if a time is longer than an hour.
#[derive(Clone)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

/// The figures of a histogram that a report shows, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are the usual ones")]
pub struct Summary {
    pub min: f64,
    pub mean: f64,
    pub stdev: f64,
    pub p50: f64,
    pub p75: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub p99_99: f64,
    pub max: f64,
}

impl Histogram {
    /// Returns an empty histogram.
    pub fn new() -> Histogram {
        Histogram::default()
    }

    /// Adds a time.
    #[inline]
    pub fn record(&mut self, time: Nanos) {
        let recorded = self.0.record(time.min(LONGEST));
        debug_assert!(recorded.is_ok(), "it grows up to the longest time: {recorded:?}");
    }

    /// Adds all times of another histogram.
    pub fn add(&mut self, other: &Histogram) {
        self.0 += &other.0;
    }

    /// Removes the times of another histogram.
    ///
    /// # Panics
    /// A time of the other histogram is not in this one.
    pub fn subtract(&mut self, other: &Histogram) {
        self.0.subtract(&other.0).expect("every time is in both histograms");
    }

    /// Returns the number of times.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns whether no time was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the shortest time.
    pub fn min(&self) -> Nanos {
        self.0.min()
    }

    /// Returns the longest time.
    pub fn max(&self) -> Nanos {
        self.0.max()
    }

    /// Returns the mean, in nanoseconds.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// Returns the standard deviation, in nanoseconds.
    pub fn stdev(&self) -> f64 {
        self.0.stdev()
    }

    /// Returns the time that a part of all times, from 0 to 1, do not exceed.
    pub fn quantile(&self, part: f64) -> Nanos {
        self.0.value_at_quantile(part)
    }

    /// Writes the distribution, in microseconds, in the text format of the `HdrHistogram` tools: five
    /// steps for each halving of the part that is left.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_hdr(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "       Value     Percentile TotalCount 1/(1-Percentile)\n")?;
        let mut count = 0;
        for step in self.0.iter_quantiles(5) {
            count += step.count_since_last_iteration();
            let (value, quantile) = (micros(step.value_iterated_to()), step.quantile_iterated_to());
            write!(out, "{value:12.3} {quantile:14.12} {count:10}")?;
            match 1.0 - quantile {
                rest if rest > 0.0 => writeln!(out, " {:14.2}", 1.0 / rest)?,
                _ => writeln!(out)?,
            }
        }
        let (mean, stdev) = (self.mean() / 1e3, self.stdev() / 1e3);
        let (max, count) = (micros(self.max()), self.len());
        writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {stdev:12.3}]")?;
        writeln!(out, "#[Max     = {max:12.3}, Total count    = {count:12}]")?;
        out.flush()
    }

    /// Returns the figures for a report, if there is any time.
    pub fn summary(&self) -> Option<Summary> {
        let at = |part| micros(self.quantile(part));
        (!self.is_empty()).then(|| Summary {
            min: micros(self.min()),
            mean: self.mean() / 1e3,
            stdev: self.stdev() / 1e3,
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: micros(self.max()),
        })
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        let histogram = hdrhistogram::Histogram::new_with_bounds(1, USUAL, 3);
        let mut histogram = histogram.expect("the bounds are in order");
        histogram.auto(true);
        Histogram(histogram)
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut histogram = f.debug_struct("Histogram");
        histogram.field("len", &self.len()).field("min", &self.min()).field("max", &self.max());
        histogram.finish_non_exhaustive()
    }
}

/// Returns a time in microseconds.
pub(crate) fn micros(time: Nanos) -> f64 {
    time as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl Iterator<Item = Nanos>) -> Histogram {
        let mut histogram = Histogram::new();
        times.for_each(|time| histogram.record(time));
        histogram
    }

    #[test]
    fn a_sum_is_the_histogram_of_all_times_and_a_difference_takes_them_out_again() {
        let (odd, even) = (of((1..1000).step_by(2)), of((0..1000).step_by(2)));
        let mut all = odd.clone();
        all.add(&even);
        assert_eq!(all.summary(), of(0..1000).summary());
        assert_eq!(all.len(), odd.len() + even.len());
        all.subtract(&even);
        assert_eq!(all.summary(), odd.summary());
    }

    #[test]
    fn the_text_counts_every_time() {
        let mut text = Vec::new();
        of(1..=1_000_000).write_hdr(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let rows: Vec<Vec<f64>> = text
            .lines()
            .filter(|line| line.starts_with(' '))
            .filter_map(|line| line.split_whitespace().map(|n| n.parse().ok()).collect())
            .collect();
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[2] <= b[2]), "{text}");
        assert!(rows.last().is_some_and(|last| last[1..] == [1.0, 1e6]), "{text}");
    }

    #[test]
    fn a_time_of_hours_is_what_it_is() {
        for time in [USUAL, USUAL * 2, USUAL * 1000, LONGEST] {
            let mut histogram = of([1000, time].into_iter());
            assert!(histogram.max() >= time && histogram.max() < time / 100 * 101, "{time}");
            let mut sum = of([1000].into_iter());
            sum.add(&histogram);
            assert_eq!((sum.len(), sum.max()), (3, histogram.max()));
            sum.subtract(&histogram);
            histogram.subtract(&sum);
            assert_eq!(histogram.len(), 1);
        }
        assert_eq!(of([Nanos::MAX].into_iter()).max(), of([LONGEST].into_iter()).max());
    }

    #[test]
    fn no_time_has_no_figures() {
        assert_eq!(Histogram::new().summary(), None);
    }
}
