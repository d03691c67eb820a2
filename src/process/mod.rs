//! What an operator needs of a process, and no socket does: limits, the log, the service manager.

pub mod limits;
pub mod log_sink;
pub mod systemd;
