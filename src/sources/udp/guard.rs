//! Which datagrams get an answer.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use crate::sources::udp::counters::Cause;
use crate::sources::udp::rate::RateLimit;

/// The first port that any user may bind. Those below it are services.
const FIRST_USER_PORT: u16 = 1024;

/// Decides which sources get an answer.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The addresses that this daemon serves.
    own: Vec<SocketAddr>,
    rate: RateLimit,
}

impl Guard {
    pub(crate) fn new(own: Vec<SocketAddr>, rate: RateLimit) -> Guard {
        Guard { own, rate }
    }

    /// Returns why the source gets no answer, or `None` if it may have one.
    pub(crate) fn refusal(&mut self, source: SocketAddr, now: Instant) -> Option<Cause> {
        // A socket for both families reports an IPv4 source as an IPv6 address.
        let ip = source.ip().to_canonical();
        if !is_one_host(ip) {
            Some(Cause::Address)
        } else if source.port() < FIRST_USER_PORT {
            Some(Cause::Port)
        } else if self.is_own(ip, source) {
            Some(Cause::Own)
        } else if !self.rate.admits(ip, now) {
            Some(Cause::Rate)
        } else {
            None
        }
    }

    fn is_own(&self, ip: IpAddr, source: SocketAddr) -> bool {
        self.own.iter().filter(|own| own.port() == source.port()).any(|own| {
            let own = own.ip().to_canonical();
            own == ip || own.is_unspecified() && is_local(source)
        })
    }
}

/// Returns whether the address can be that of one host. Of the broadcast addresses only one is known without
/// the netmask: the kernel refuses to send to the others (`SO_BROADCAST`, socket(7)).
fn is_one_host(ip: IpAddr) -> bool {
    !(ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST)
}

/// Returns whether the address is one of this machine. The kernel knows: no other can be bound. Only sources
/// whose port is one of ours get here.
fn is_local(mut source: SocketAddr) -> bool {
    source.set_port(0);
    let bound = UdpSocket::bind(source);
    // Without a file to try it with, better no answer than a loop.
    bound.map_or_else(|e| e.kind() != ErrorKind::AddrNotAvailable, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> Option<Cause> {
        let now = Instant::now();
        let own = ["127.0.0.1:7000", "0.0.0.0:8000", "[::]:9000"];
        let own = own.map(|address| address.parse().unwrap()).into();
        let mut guard = Guard::new(own, RateLimit::new(1, now));
        guard.refusal(source.parse().unwrap(), now)
    }

    #[test]
    fn sources_that_are_no_client_get_no_answer() {
        for (source, cause) in [
            ("127.0.0.1:1024", None),
            ("192.0.2.1:65535", None),
            ("[2001:db8::1]:5000", None),
            ("127.0.0.1:0", Some(Cause::Port)),
            ("127.0.0.1:7", Some(Cause::Port)),
            ("[::ffff:192.0.2.1]:1023", Some(Cause::Port)),
            ("0.0.0.0:5000", Some(Cause::Address)),
            ("[::]:5000", Some(Cause::Address)),
            ("255.255.255.255:5000", Some(Cause::Address)),
            ("224.0.0.1:5000", Some(Cause::Address)),
            ("[ff02::1]:5000", Some(Cause::Address)),
            ("[::ffff:255.255.255.255]:5000", Some(Cause::Address)),
        ] {
            assert_eq!(refusal(source), cause, "{source}");
        }
    }

    #[test]
    fn our_own_endpoints_get_no_answer_also_through_a_wildcard() {
        for (source, cause) in [
            ("127.0.0.1:7000", Some(Cause::Own)),
            ("[::ffff:127.0.0.1]:7000", Some(Cause::Own)),
            ("127.0.0.2:7000", None),
            ("127.0.0.1:8000", Some(Cause::Own)),
            ("127.0.0.2:8000", Some(Cause::Own)),
            ("[::ffff:127.0.0.2]:8000", Some(Cause::Own)),
            ("192.0.2.1:8000", None),
            ("[2001:db8::1]:9000", None),
        ] {
            assert_eq!(refusal(source), cause, "{source}");
        }
    }
}
