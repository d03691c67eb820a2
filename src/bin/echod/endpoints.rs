//! What the daemon serves: streams by the server, datagrams by an event source beside it.

use std::io::{self, Write};

use echoloop::process::systemd::Inherited;
use echoloop::protocol::Echo;
use echoloop::sources::udp::{UdpEcho, UdpOptions};
use echoloop::{Address, Config, Endpoint, Server};

/// Everything that is bound.
pub struct Bound {
    pub server: Server,
    /// None if there is no UDP socket.
    pub udp: Option<UdpEcho>,
    /// The addresses in the order of what was handed over and of the endpoints.
    pub addresses: Vec<Address>,
}

/// Binds the endpoints, and adopts what was handed over. The configuration has the endpoints of streams.
pub fn bind(
    config: &Config,
    inherited: Vec<Inherited>,
    endpoints: &[Endpoint],
    options: &UdpOptions,
) -> io::Result<Bound> {
    let is_inherited_udp = inherited.iter().map(|socket| matches!(socket, Inherited::Udp(_)));
    let is_udp = is_inherited_udp.chain(endpoints.iter().map(Endpoint::is_udp));
    let is_udp: Vec<bool> = is_udp.collect();
    let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
    for socket in inherited {
        match socket {
            Inherited::Stream(socket) => streams.push(socket),
            Inherited::Udp(socket) => datagrams.push(socket),
        }
    }
    let server = Server::adopt(Echo, streams, config)?;
    if !is_udp.contains(&true) {
        return Ok(Bound { addresses: server.local_addrs(), server, udp: None });
    }
    let of_udp = endpoints.iter().filter(|endpoint| endpoint.is_udp()).cloned();
    let udp = UdpEcho::adopt(datagrams, &of_udp.collect::<Vec<_>>(), options)?;
    let mut streams = server.endpoint_addrs().into_iter();
    let mut datagrams = udp.endpoint_addrs().into_iter();
    let next = |is_udp| if is_udp { datagrams.next() } else { streams.next() };
    let addresses = is_udp.into_iter().filter_map(next).flatten().collect();
    Ok(Bound { server, udp: Some(udp), addresses })
}

/// Returns the endpoints of streams.
pub fn streams(endpoints: &[Endpoint]) -> impl Iterator<Item = Endpoint> {
    endpoints.iter().filter(|endpoint| !endpoint.is_udp()).cloned()
}

/// Prints all addresses in one write, so that a program which has read the first line can read them all.
pub fn print(addresses: &[Address]) -> io::Result<()> {
    let mut lines = Vec::new();
    for address in addresses {
        writeln!(lines, "{address}")?;
    }
    let mut stdout = io::stdout();
    stdout.write_all(&lines)?;
    stdout.flush()
}
