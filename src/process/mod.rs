//! What an operator needs of a process, and no socket does: limits, memory, the log, the service manager.
//!
//! For the programs of this package. It is not part of the library's interface and may change.

pub mod limits;
pub mod log_sink;
pub mod memory;
pub mod systemd;
