//! A limit on the connections from one IP address.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::net::address::Address;
use crate::net::memory;

/// Number of connections of each IP address, and the most that one may have.
#[derive(Debug)]
pub(crate) struct AddressLimit {
    max: usize,
    count: HashMap<IpAddr, usize>,
    /// The address of each connection, by the connection's key.
    by_key: Vec<Option<IpAddr>>,
}

impl AddressLimit {
    pub(crate) fn new(max: usize) -> AddressLimit {
        AddressLimit { max, count: HashMap::new(), by_key: Vec::new() }
    }

    /// Number of bytes that a connection takes, beside its address if that is new.
    pub(crate) const BYTES_PER_KEY: usize = size_of::<Option<IpAddr>>();

    /// Makes room for connections with keys below `keys`.
    pub(crate) fn reserve(&mut self, keys: usize) {
        memory::reserve(&mut self.by_key, keys);
    }

    /// Makes room for one more address, and returns whether there is memory for it.
    pub(crate) fn reserve_address(&mut self) -> bool {
        self.count.try_reserve(1).is_ok()
    }

    /// Returns whether the peer's address may have one more connection. A peer without an IP address is
    /// not limited.
    pub(crate) fn admits(&self, peer: &Address) -> bool {
        let count = ip(peer).and_then(|ip| self.count.get(&ip));
        count.is_none_or(|&count| count < self.max)
    }

    pub(crate) fn opened(&mut self, key: usize, peer: &Address) {
        let Some(ip) = ip(peer) else { return };
        *self.count.entry(ip).or_default() += 1;
        if self.by_key.len() <= key {
            self.by_key.resize(key + 1, None);
        }
        debug_assert!(self.by_key[key].is_none(), "a key is in use once");
        self.by_key[key] = Some(ip);
    }

    pub(crate) fn closed(&mut self, key: usize) {
        let Some(ip) = self.by_key.get_mut(key).and_then(Option::take) else { return };
        if let Some(count) = self.count.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.count.remove(&ip);
            }
        }
    }
}

/// Returns the IP address of a TCP peer. An IPv4 address is the same address when it comes by way of an
/// IPv6 socket.
fn ip(peer: &Address) -> Option<IpAddr> {
    peer.as_tcp().map(|address| address.ip().to_canonical())
}
