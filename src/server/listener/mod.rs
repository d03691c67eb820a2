//! Server sockets: how they are bound, and how they accept.
//!
//! A server socket neither sends nor receives. It only makes client sockets ("Creating a Socket" in the
//! Socket Programming HOWTO).

mod accept;
mod bind;
mod inherited;
mod options;
mod path;
mod socket;
mod tcp;
mod unix;

pub use accept::Listeners;
pub use options::ListenOptions;
