//! The writer of the percentile distribution in the text format of the `HdrHistogram` tools.

use std::io::{self, Write};

use crate::load::results::histogram::{Histogram, micros};

/// Writes the distribution of a histogram, in microseconds.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, histogram: &Histogram) -> io::Result<()> {
    writeln!(out, "       Value     Percentile TotalCount 1/(1-Percentile)\n")?;
    for step in histogram.steps() {
        let value = micros(step.value);
        write!(out, "{value:12.3} {:14.12} {:10}", step.quantile, step.count)?;
        match 1.0 - step.quantile {
            rest if rest > 0.0 => writeln!(out, " {:14.2}", 1.0 / rest)?,
            _ => writeln!(out)?,
        }
    }
    let (mean, stdev) = (histogram.mean() / 1e3, histogram.stdev() / 1e3);
    let (max, count) = (micros(histogram.max()), histogram.len());
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {stdev:12.3}]")?;
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {count:12}]")?;
    out.flush()
}
