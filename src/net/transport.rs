//! The transports over IP.

use std::io;
use std::net::SocketAddr;

use dns_lookup::{AddrInfoHints, getaddrinfo};
use socket2::Type;

use crate::net::address::Address;

/// A transport over IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// Returns the scheme of its endpoints.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }

    pub(crate) fn address(self, address: SocketAddr) -> Address {
        match self {
            Transport::Tcp => Address::Tcp(address),
            Transport::Udp => Address::Udp(address),
        }
    }

    /// Looks up with getaddrinfo(3). The standard library's lookup knows no services and no zones. A
    /// service may be known for one transport only.
    pub(crate) fn look_up(self, host: Option<&str>, service: &str) -> io::Result<Vec<SocketAddr>> {
        let socktype = match self {
            Transport::Tcp => Type::STREAM,
            Transport::Udp => Type::DGRAM,
        };
        let hints = AddrInfoHints { socktype: socktype.into(), ..AddrInfoHints::default() };
        let found = getaddrinfo(host, Some(service), Some(hints))?;
        found.map(|found| Ok(found?.sockaddr)).collect()
    }
}
