//! What all clients of a loop share.

use std::sync::Arc;

use crate::load::payload::Payload;

/// The most bytes that one send or one receive handles.
pub(crate) const CHUNK: usize = 64 * 1024;

/// The messages of a client, the same for all clients of a run.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// Number of bytes of a message, at least 1.
    pub length: u64,
    /// Most messages in flight, at least 1.
    pub pipeline: usize,
    /// Whether to shut down the sending direction right after the last message.
    pub half_close: bool,
}

/// The payload, the options, and a buffer for the bytes of one call.
#[derive(Debug)]
pub struct Context {
    /// The bytes to send.
    pub payload: Arc<Payload>,
    /// The messages to make of them.
    pub options: ClientOptions,
    pub(crate) chunk: Box<[u8]>,
}

impl Context {
    /// Returns a context with a new buffer.
    pub fn new(payload: impl Into<Arc<Payload>>, options: ClientOptions) -> Context {
        Context { payload: payload.into(), options, chunk: vec![0; CHUNK].into() }
    }
}
