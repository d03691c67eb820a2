//! What an operator needs of a process, and no socket does: signals at the start, limits, memory, the log,
//! the service manager, threads for what may wait.
//!
//! For the programs of this package. It is not part of the library's interface and may change.

pub mod limits;
pub mod log_sink;
pub mod memory;
pub mod start;
pub mod systemd;
pub mod threads;
