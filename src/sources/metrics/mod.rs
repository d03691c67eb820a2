//! The counters over HTTP, in Prometheus's text format.
//!
//! An event source with a listener and a few clients of its own, driven by readiness as the server's
//! connections are. Each response ends its connection.
//!
//! Sources: RFC 9112 (HTTP/1.1), and "Exposition formats" and "Metric and label naming" in Prometheus's
//! documentation.

mod client;
mod exposition;
mod http;
mod service;

pub use service::{CLIENTS, Metrics};
