//! What the two commands share: how options are read and how errors are reported.

mod command;
pub mod output;
pub mod units;

pub use command::{complain, complain_within, fail, main, parse, usage};
