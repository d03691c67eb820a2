//! What a generator says that it has done.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Figures {
    /// Messages that came back whole, and the bytes of all that came back.
    pub messages: u64,
    pub bytes: u64,
    pub messages_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}
