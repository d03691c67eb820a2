//! What both loops build on: one nonblocking call and its answers, latched readiness, sockets, buffers
//! and their pages, deadlines, addresses and how they are bound, the wait and the waker.
//!
//! Nothing here decides what a server or a client does.

pub mod address;
pub(crate) mod bind;
pub mod buffer;
pub mod deadline;
pub mod endpoint;
pub mod escape;
pub(crate) mod failure;
pub(crate) mod memory;
pub mod nonblocking;
#[cfg(target_os = "linux")]
pub(crate) mod option;
pub mod pool;
pub mod ready;
pub mod socket;
mod transport;
pub mod wait;
pub mod waker;
