//! The counters over HTTP, in Prometheus's text format.
//!
//! An event source with a listener and a few connections of its own. They are those of the server, with
//! another protocol: HTTP, of which each response ends its connection.
//!
//! Sources: RFC 9112 (HTTP/1.1), and "Exposition formats" and "Metric and label naming" in Prometheus's
//! documentation.

mod exposition;
mod http;
mod service;

pub use service::{CLIENTS, Metrics};
