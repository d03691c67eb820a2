//! What the daemon serves: streams by the server, datagrams by an event source beside it.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use echoloop::process::systemd::Inherited;
use echoloop::sources::udp::{UdpEcho, UdpOptions};
use echoloop::{Address, Config, Endpoint, Protocol, Server};

/// What is to be served, sorted by kind. The endpoints of streams are in the configuration of the server.
pub struct Sorted {
    /// Whether it is of UDP, for each socket handed over and then for each endpoint.
    is_udp: Vec<bool>,
    streams: Vec<OwnedFd>,
    datagrams: Vec<UdpSocket>,
    udp_endpoints: Vec<Endpoint>,
}

/// Number of files that the lock of a folder or the lookup of a name takes for a while.
const PASSING_FILES: usize = 2;

/// Returns the number of files that it takes to bind these endpoints, as far as that is known before a name
/// is looked up. Most names have an address of each family.
pub fn files<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> usize {
    let files = |endpoint: &Endpoint| endpoint.address_count().unwrap_or(2);
    PASSING_FILES + endpoints.into_iter().map(files).sum::<usize>()
}

/// Returns the endpoints of streams.
pub fn streams(endpoints: &[Endpoint]) -> impl Iterator<Item = Endpoint> {
    endpoints.iter().filter(|endpoint| !endpoint.is_udp()).cloned()
}

impl Sorted {
    pub fn new(inherited: Vec<Inherited>, endpoints: &[Endpoint]) -> Sorted {
        let is_inherited_udp = inherited.iter().map(|socket| matches!(socket, Inherited::Udp(_)));
        let is_udp = is_inherited_udp.chain(endpoints.iter().map(Endpoint::is_udp)).collect();
        let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
        for socket in inherited {
            match socket {
                Inherited::Stream(socket) => streams.push(socket),
                Inherited::Udp(socket) => datagrams.push(socket),
            }
        }
        let udp_endpoints = endpoints.iter().filter(|endpoint| endpoint.is_udp()).cloned();
        Sorted { is_udp, streams, datagrams, udp_endpoints: udp_endpoints.collect() }
    }

    /// Binds all endpoints, and adopts what was handed over. Also returns the addresses, in the order of what
    /// was handed over and of the endpoints.
    pub fn bind<P: Protocol>(
        self,
        protocol: P,
        config: &Config,
        options: &UdpOptions,
    ) -> io::Result<(Server<P>, Vec<Address>)> {
        let mut server = Server::adopt(protocol, self.streams, config)?;
        if !self.is_udp.contains(&true) {
            let addresses = server.local_addrs();
            return Ok((server, addresses));
        }
        let udp = UdpEcho::adopt(self.datagrams, &self.udp_endpoints, options)?;
        let mut streams = server.endpoint_addrs().into_iter();
        let mut datagrams = udp.endpoint_addrs().into_iter();
        let next = |is_udp| if is_udp { datagrams.next() } else { streams.next() };
        let addresses = self.is_udp.into_iter().filter_map(next).flatten().collect();
        server.add_source(Box::new(udp))?;
        Ok((server, addresses))
    }
}
