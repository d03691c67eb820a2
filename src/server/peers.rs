//! Who is connected, kept only while somebody wants to know.
//!
//! The loop itself knows a connection by its key and needs no more. What a limit per address or the
//! debug log asks of a connection is kept here, beside it, so that without them an idle connection
//! does not pay for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use log::{Level, debug, log_enabled};

use crate::net::endpoint::Address;
use crate::server::counters::{Cause, Counters};

/// The peers of one server. Both lists are by the connection's key.
#[derive(Debug)]
pub(crate) struct Peers {
    max_per_ip: Option<usize>,
    per_ip: HashMap<IpAddr, usize>,
    /// For the limit; empty without one.
    ips: Vec<Option<IpAddr>>,
    /// For the debug log; empty without it.
    visits: Vec<Option<Visit>>,
}

#[derive(Debug)]
struct Visit {
    peer: Address,
    since: Instant,
    bytes_in: u64,
    bytes_out: u64,
}

impl Peers {
    pub(crate) fn new(max_per_ip: Option<usize>) -> Peers {
        Peers { max_per_ip, per_ip: HashMap::new(), ips: Vec::new(), visits: Vec::new() }
    }

    /// Whether its address may have one more connection. Who has no address is not limited.
    pub(crate) fn admit(&self, peer: &Address) -> bool {
        let Some((max, ip)) = self.max_per_ip.zip(ip(peer)) else { return true };
        let admitted = self.per_ip.get(&ip).is_none_or(|&n| n < max);
        if !admitted {
            debug!("refused {peer}: its address has {max} connections");
        }
        admitted
    }

    pub(crate) fn arrive(&mut self, key: usize, peer: Address, now: Instant) {
        if let Some(ip) = ip(&peer).filter(|_| self.max_per_ip.is_some()) {
            *self.per_ip.entry(ip).or_default() += 1;
            put(&mut self.ips, key, ip);
        }
        if log_enabled!(Level::Debug) {
            debug!("connection {key} from {peer}");
            put(&mut self.visits, key, Visit { peer, since: now, bytes_in: 0, bytes_out: 0 });
        }
    }

    /// What was counted since `before` is this connection's.
    pub(crate) fn moved(&mut self, key: usize, before: (u64, u64), counters: &Counters) {
        if let Some(Some(visit)) = self.visits.get_mut(key) {
            visit.bytes_in += counters.bytes_in - before.0;
            visit.bytes_out += counters.bytes_out - before.1;
        }
    }

    pub(crate) fn leave(&mut self, key: usize, cause: &Cause, now: Instant) {
        if let Some(ip) = self.ips.get_mut(key).and_then(Option::take)
            && let Some(n) = self.per_ip.get_mut(&ip)
        {
            *n -= 1;
            if *n == 0 {
                self.per_ip.remove(&ip);
            }
        }
        if let Some(visit) = self.visits.get_mut(key).and_then(Option::take) {
            let Visit { peer, since, bytes_in, bytes_out } = visit;
            let stayed = now.saturating_duration_since(since);
            debug!(
                "connection {key} from {peer} closed after {stayed:.1?}, {bytes_in} bytes in, \
                 {bytes_out} bytes out: {cause}"
            );
        }
    }
}

fn put<T>(list: &mut Vec<Option<T>>, key: usize, value: T) {
    if list.len() <= key {
        list.resize_with(key + 1, || None);
    }
    list[key] = Some(value);
}

/// An IPv4 address is the same one when it comes by way of IPv6.
fn ip(peer: &Address) -> Option<IpAddr> {
    peer.as_tcp().map(|address| address.ip().to_canonical())
}
