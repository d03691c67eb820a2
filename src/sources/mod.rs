//! What else lives on the server's poll: signals, a line of statistics, metrics over HTTP.

pub mod metrics;
pub mod signals;
pub mod statistics;
