//! A TCP echo server as one nonblocking event loop.

pub mod buffer;
pub mod config;
pub mod connection;
#[cfg(feature = "cli")]
pub mod daemon;
pub mod deadline;
pub mod endpoint;
pub mod guest;
pub mod listener;
pub mod nonblocking;
pub mod server;
mod throttle;
pub mod units;

pub use config::Config;
pub use endpoint::Endpoint;
pub use guest::{Guest, Wish};
pub use server::{Ended, Server, Stopper};
