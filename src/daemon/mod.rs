//! What an operator needs of a daemon, and the pattern does not.

pub mod limits;
pub mod log_sink;
pub mod signals;
