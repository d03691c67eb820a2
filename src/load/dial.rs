//! Nonblocking connects: from which address, to which address, and how many at a time.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use crate::load::client::Dialed;

/// Connections from one source address. There are some 28,000 ports, and past half of them the
/// kernel's search for a free one slows down.
const PER_SOURCE: u64 = 13_000;

/// Addresses 127.0.0.x that may be used.
const LOOPBACK_SOURCES: u64 = 250;

/// Where connections come from and go to.
#[derive(Debug, Clone)]
pub struct Dialer {
    targets: Vec<SocketAddr>,
    sources: Vec<IpAddr>,
    /// Addresses of 127.0.0.0/8 given up because no port of theirs was free.
    used_up: u64,
}

impl Dialer {
    /// To one of the targets, from the sources in turn. Without sources the kernel chooses, but to a
    /// loopback target the many addresses of 127.0.0.0/8 serve when one runs short of ports.
    pub fn new(targets: Vec<SocketAddr>, sources: Vec<IpAddr>) -> Dialer {
        Dialer { targets, sources, used_up: 0 }
    }

    /// How many addresses a connection may try.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Begins a connect to the target with this index. `count` numbers all connects of the run.
    ///
    /// # Errors
    /// No files, no ports, no route.
    pub fn dial(&self, target: usize, count: u64) -> io::Result<TcpStream> {
        let target = self.targets[target];
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = self.source(target.ip(), count) {
            late_port(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into()).map_err(|e| {
                io::Error::new(e.kind(), format!("cannot connect from {source}: {e}"))
            })?;
        }
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
            Err(e) => return Err(e),
        }
        Ok(TcpStream::from_std(socket.into()))
    }

    /// No port was free: whether another source address may have one. Ports in `TIME_WAIT`, of earlier
    /// runs too, are not free.
    pub fn use_next_source(&mut self) -> bool {
        self.used_up += 1;
        let loopback = self.targets.iter().any(|target| target.ip().is_loopback());
        self.sources.is_empty() && loopback && self.used_up < LOOPBACK_SOURCES
    }

    fn source(&self, target: IpAddr, count: u64) -> Option<IpAddr> {
        let nth = count / PER_SOURCE + self.used_up;
        if !self.sources.is_empty() {
            let fitting = self.sources.iter().filter(|ip| ip.is_ipv4() == target.is_ipv4());
            let fitting: Vec<&IpAddr> = fitting.collect();
            let at = usize::try_from(count).ok()?.checked_rem(fitting.len())?;
            return Some(*fitting[at]);
        }
        let IpAddr::V4(v4) = target else { return None };
        let last = u8::try_from(1 + nth % LOOPBACK_SOURCES).ok()?;
        (v4.is_loopback() && nth > 0).then(|| Ipv4Addr::new(127, 0, 0, last).into())
    }
}

/// The port is to be chosen at connect, where it need be free for this target only: bind alone would
/// have to find one that is free for all.
fn late_port(socket: &Socket) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
    Ok(())
}

impl Dialed for TcpStream {
    fn is_connected(&self) -> io::Result<bool> {
        if let Some(e) = self.take_error()? {
            return Err(e);
        }
        match self.peer_addr() {
            // On loopback a connect to a free port may happen to choose that very port as its own,
            // and then stands, with itself: an echo server that is not there.
            Ok(peer) if peer == self.local_addr()? => {
                let why = "connected to itself: nobody listens there";
                Err(io::Error::new(ErrorKind::AddrInUse, why))
            }
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_loopback_target_is_dialed_from_more_addresses_as_ports_run_short() {
        let mut dialer = Dialer::new(vec![(LOOPBACK, 7).into()], Vec::new());
        assert_eq!(dialer.source(LOOPBACK, PER_SOURCE - 1), None);
        let second = Some(IpAddr::from([127, 0, 0, 2]));
        assert_eq!(dialer.source(LOOPBACK, PER_SOURCE), second);
        assert_eq!(dialer.source(LOOPBACK, 250 * PER_SOURCE), Some(LOOPBACK));
        assert_eq!(dialer.source([192, 0, 2, 1].into(), PER_SOURCE), None);
        assert!(dialer.use_next_source());
        assert_eq!(dialer.source(LOOPBACK, 0), second);
    }

    #[test]
    fn sources_that_were_given_take_turns_and_keep_to_their_family() {
        let sources = vec![[127, 0, 0, 5].into(), "::1".parse().unwrap(), [127, 0, 0, 6].into()];
        let dialer = Dialer::new(Vec::new(), sources.clone());
        assert_eq!(dialer.source(LOOPBACK, 0), Some(sources[0]));
        assert_eq!(dialer.source(LOOPBACK, 1), Some(sources[2]));
        assert_eq!(dialer.source(LOOPBACK, 2), Some(sources[0]));
        assert_eq!(dialer.source("::1".parse().unwrap(), 7), Some(sources[1]));
    }
}
