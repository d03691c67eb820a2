//! Binding every address of an endpoint, on one port.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use log::warn;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::address::Address;
use crate::net::endpoint::Endpoint;
use crate::net::failure::file_advice;

/// How often to look for a port that is free on several addresses.
const PORTS_TRIED: usize = 32;

/// Only a link-local address has a zone: the same address may be on each interface (RFC 4007).
const ZONE_ADVICE: &str = "; a zone goes with a link-local address (fe80::), and names an interface of this \
                           machine: `ip link` lists them";

/// A socket that is bound.
pub(crate) trait Bound {
    /// Returns the address that it is bound to.
    fn address(&self) -> &Address;
}

/// Binds every address of the endpoint with the function `bind`, all on one port.
pub(crate) fn bind_endpoint<B: Bound>(
    endpoint: &Endpoint,
    bind: impl Fn(&Address) -> io::Result<B>,
) -> io::Result<Vec<B>> {
    let failed = |tried: &str, e: io::Error, advice: &str| {
        io::Error::new(e.kind(), format!("cannot {tried} {endpoint}: {e}{advice}"))
    };
    let addresses = endpoint.resolve().map_err(|e| {
        let advice = if endpoint.has_zone() { ZONE_ADVICE } else { file_advice(&e) };
        failed("resolve", e, advice)
    })?;
    let any_port = addresses.iter().all(|address| address.port() == Some(0));
    let mut tries = if any_port && addresses.len() > 1 { PORTS_TRIED } else { 1 };
    loop {
        tries -= 1;
        match bind_addresses(&addresses, &bind) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            result => {
                return result.map_err(|e| {
                    let advice = advice(&e, &addresses);
                    failed("listen on", e, &advice)
                });
            }
        }
    }
}

/// Skips an address that the machine lacks, if another one is left: a machine without IPv6 has no `::1`,
/// and can still serve 127.0.0.1.
fn bind_addresses<B: Bound>(
    addresses: &[Address],
    bind: impl Fn(&Address) -> io::Result<B>,
) -> io::Result<Vec<B>> {
    let mut bound: Vec<B> = Vec::new();
    let mut skipped = Vec::new();
    for address in addresses {
        let port = bound.first().and_then(|first| first.address().port());
        match bind(&port.map_or(address.clone(), |port| address.with_port(port))) {
            Ok(socket) => bound.push(socket),
            Err(e) if e.kind() == ErrorKind::AddrNotAvailable => skipped.push((address, e)),
            Err(e) => return Err(e),
        }
    }
    match skipped.pop() {
        Some((_, e)) if bound.is_empty() => Err(e),
        last => {
            for (address, e) in skipped.iter().chain(&last) {
                warn!("not listening on {address}: {e}");
            }
            Ok(bound)
        }
    }
}

/// Returns what to do about an error.
fn advice(e: &io::Error, addresses: &[Address]) -> String {
    let mut hosts = addresses.iter().filter_map(|a| a.as_tcp().or(a.as_udp()));
    let advice = match e.kind() {
        _ if addresses.iter().any(|address| address.as_unix().is_some()) => file_advice(e),
        ErrorKind::InvalidInput => return hosts.find_map(form_advice).unwrap_or_default(),
        ErrorKind::AddrInUse => {
            "; another program listens there: choose another port, or 0 for a free one"
        }
        ErrorKind::PermissionDenied => {
            "; a port below 1024 takes root or CAP_NET_BIND_SERVICE: choose a higher one"
        }
        ErrorKind::AddrNotAvailable => "; choose an address of this machine, or leave it out",
        _ => file_advice(e),
    };
    advice.to_owned()
}

/// Returns what to write instead of an address that no socket can be bound to.
fn form_advice(address: SocketAddr) -> Option<String> {
    let SocketAddr::V6(v6) = address else { return None };
    let ip = v6.ip();
    if let Some(v4) = ip.to_ipv4_mapped() {
        return Some(format!("; an IPv4 address is written as it is: {v4}"));
    }
    if ip.is_multicast() {
        return Some(
            "; a multicast address belongs to no machine: choose one of this machine".into(),
        );
    }
    let needs_zone = ip.is_unicast_link_local() && v6.scope_id() == 0;
    needs_zone
        .then(|| format!("; a link-local address needs its interface: [{ip}%eth0], for example"))
}

/// Makes a nonblocking socket for an address. One for IPv6 leaves IPv4 to another socket.
pub(crate) fn socket_for(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol)).map_err(|e| {
        match Errno::from_io_error(&e) {
            Some(Errno::AFNOSUPPORT) => io::Error::new(ErrorKind::AddrNotAvailable, e),
            _ => e,
        }
    })?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}
