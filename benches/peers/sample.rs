//! Figures of one server in one round, and how rounds are summed up.

use serde::Serialize;

/// One server in one round, or the medians of all its rounds.
#[derive(Clone, Copy, Serialize)]
pub struct Sample {
    pub messages_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Processor time of the server for each echo.
    pub cpu_us: f64,
}

impl Sample {
    /// The median of each figure.
    pub fn median(rounds: &[Sample]) -> Sample {
        let of = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure).collect());
        Sample {
            messages_per_s: of(|sample| sample.messages_per_s),
            p50_us: of(|sample| sample.p50_us),
            p99_us: of(|sample| sample.p99_us),
            cpu_us: of(|sample| sample.cpu_us),
        }
    }
}

/// The median of the ratios of rates, each taken within one round. Whatever slows down a whole round
/// affects both rates.
pub fn median_ratio(rounds: &[Sample], others: &[Sample]) -> f64 {
    let pairs = rounds.iter().zip(others);
    median(pairs.map(|(one, other)| one.messages_per_s / other.messages_per_s).collect())
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let (low, high) = (figures.len().saturating_sub(1) / 2, figures.len() / 2);
    figures
        .get(low)
        .zip(figures.get(high))
        .map_or(f64::NAN, |(low, high)| f64::midpoint(*low, *high))
}
