//! What an operator needs of a daemon, and the pattern does not.

pub mod limits;
pub mod log_sink;
pub mod metrics;
pub mod signals;
pub mod stats;
pub mod systemd;
