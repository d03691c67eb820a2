//! One nonblocking call and its answers, and what both loops build on it: latched readiness, sockets,
//! buffers, deadlines, endpoints.

pub mod buffer;
pub mod deadline;
pub mod endpoint;
pub mod nonblocking;
pub mod ready;
pub mod socket;
pub mod wait;
