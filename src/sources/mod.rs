//! Event sources of the daemon: signals, a line of statistics, keepalives to the service manager, metrics over
//! HTTP, the echo of datagrams.
//!
//! Each lives on the server's poll, behind the trait [`EventSource`](crate::EventSource). The server knows
//! none of them by name.

pub mod metrics;
pub mod signals;
pub mod statistics;
pub mod udp;
pub mod watchdog;
