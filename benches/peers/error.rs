//! The error of every step: a message, with whatever caused it.

pub type Error = Box<dyn std::error::Error>;
