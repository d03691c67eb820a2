//! The life of each connection, in the debug log.

use std::fmt;
use std::time::Instant;

use log::{Level, debug, log_enabled};

use crate::net::address::Address;
use crate::net::memory;
use crate::server::counters::Traffic;

/// What the debug log says of open connections, by their keys. It is empty while that log is off, so that
/// an idle connection costs no memory here.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLog(Vec<Option<Entry>>);

#[derive(Debug)]
struct Entry {
    peer: Address,
    since: Instant,
    received: u64,
    sent: u64,
}

impl ConnectionLog {
    /// Number of bytes that a connection may take.
    pub(crate) const BYTES_PER_KEY: usize = size_of::<Option<Entry>>();

    /// Makes room for connections with keys below `keys`.
    pub(crate) fn reserve(&mut self, keys: usize) {
        if log_enabled!(Level::Debug) {
            memory::reserve(&mut self.0, keys);
        }
    }

    pub(crate) fn opened(&mut self, key: usize, peer: &Address, now: Instant) {
        if !log_enabled!(Level::Debug) {
            return;
        }
        debug!("connection {key} from {peer}");
        if self.0.len() <= key {
            self.0.resize_with(key + 1, || None);
        }
        self.0[key] = Some(Entry { peer: peer.clone(), since: now, received: 0, sent: 0 });
    }

    #[inline]
    pub(crate) fn moved(&mut self, key: usize, traffic: Traffic) {
        if let Some(Some(entry)) = self.0.get_mut(key) {
            entry.received += traffic.received;
            entry.sent += traffic.sent;
        }
    }

    pub(crate) fn closed(&mut self, key: usize, reason: &dyn fmt::Display, now: Instant) {
        let Some(entry) = self.0.get_mut(key).and_then(Option::take) else { return };
        let Entry { peer, since, received, sent } = entry;
        let time = now.saturating_duration_since(since);
        debug!(
            "connection {key} from {peer} closed after {time:.1?}, {received} bytes in, \
             {sent} bytes out: {reason}"
        );
    }
}
