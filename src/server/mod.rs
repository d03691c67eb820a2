//! The server: its loop, its connections, and what ends them.
//!
//! It knows four things: its waker, its listeners, its connections, and event sources. It names no event
//! source, and one protocol only, the default of `Server::bind`.

mod address_limit;
pub mod config;
pub mod connection;
mod connection_log;
mod connections;
pub mod context;
pub mod counters;
mod drain;
pub mod event_loop;
pub mod listener;
mod memory_queue;
pub mod source;
mod source_set;
pub mod stop;
mod timeouts;
pub(crate) mod warnings;
