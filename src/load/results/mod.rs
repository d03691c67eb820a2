//! What was measured, and one writer for each output format: [`text`] and [`json`]; the
//! percentiles are written by [`Histogram::write_hdr`].

pub mod addresses;
pub mod histogram;
pub mod json;
mod outages;
pub mod pauses;
pub mod report;
pub mod series;
pub mod statistics;
pub mod text;
pub mod thresholds;
pub(crate) mod whole_run;
mod words;

pub use histogram::{Histogram, Summary};
pub use report::{Report, Unwritten, Verdict};
pub use series::{Connecting, Interval, Update};
pub use thresholds::{Threshold, ThresholdError};
pub use whole_run::{Generator, Results};
