//! Nonblocking connects: from which address, and to which; and the slots that wait for theirs.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UdpSocket, UnixStream};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket as Unconnected, Type};

use crate::load::clock::Nanos;
use crate::load::lookup::Lookup;
use crate::load::plan::Plan;
use crate::load::rate::Rate;
use crate::load::worker::targets::Targets;
use crate::net::address::Address;
use crate::net::deadline::after;
use crate::net::socket::Socket;

/// Number of connections from one source address. There are some 28,000 ports, and when half of them
/// are in use, the kernel takes longer to find a free one.
const PER_SOURCE: u64 = 13_000;

/// Number of addresses 127.0.0.x that may be used.
const LOOPBACK_SOURCES: u64 = 250;

/// The addresses that connections are made from and to.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(super) targets: Targets,
    sources: Vec<IpAddr>,
    /// The lookup that the targets are of.
    version: usize,
    /// Number of addresses 127.0.0.x that had no free port.
    used_up: u64,
}

impl Connector {
    /// Returns a connector to the targets, from the sources in turn. Without sources the kernel chooses, but to a loopback target other addresses 127.0.0.x are used when ports run short.
    pub(super) fn new(plan: &Plan, thread: usize, now: Instant) -> Connector {
        let (targets, sources) = (Targets::new(plan, thread, now), plan.source_ips.clone());
        Connector { targets, sources, version: 0, used_up: 0 }
    }

    /// Takes what a lookup has found since the last one.
    pub(super) fn look_up(&mut self, lookup: &Lookup, now: Instant) {
        if let Some(found) = lookup.newer(&mut self.version) {
            self.targets.list(&found, now);
        }
    }

    /// Begins a connect to the target with this index. `count` numbers all connects of the run.
    ///
    /// # Errors
    /// There is no file descriptor, no port, or no route. Would-block means that the backlog of a Unix
    /// socket is full: no event tells when it has room again (connect(2), `EAGAIN`).
    pub(super) fn connect(&self, target: usize, count: u64) -> io::Result<Socket> {
        match self.targets.address(target) {
            Address::Tcp(target) => {
                let socket = self.connect_ip(*target, Type::STREAM, count)?;
                Ok(Socket::Tcp(TcpStream::from_std(socket.into())))
            }
            Address::Unix(path) => connect_unix(path).map(Socket::Unix),
            Address::Udp(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Returns a UDP socket that is connected to the target with this index.
    pub(super) fn connect_udp(&self, target: usize, count: u64) -> io::Result<UdpSocket> {
        let target = self.targets.address(target).as_udp().ok_or(ErrorKind::Unsupported)?;
        Ok(UdpSocket::from_std(self.connect_ip(target, Type::DGRAM, count)?.into()))
    }

    fn connect_ip(&self, target: SocketAddr, kind: Type, count: u64) -> io::Result<Unconnected> {
        let socket = Unconnected::new(Domain::for_address(target), kind, None)?;
        socket.set_nonblocking(true)?;
        if kind == Type::STREAM {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(source) = self.source(target.ip(), count) {
            choose_port_at_connect(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into()).map_err(|e| {
                io::Error::new(e.kind(), format!("cannot connect from {source}: {e}"))
            })?;
        }
        match socket.connect(&target.into()) {
            Err(e)
                if e.kind() != ErrorKind::WouldBlock
                    && e.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) =>
            {
                Err(e)
            }
            _ => Ok(socket),
        }
    }

    /// Moves on to the next source address after one that had no free port, and returns whether there
    /// is one. Ports in `TIME_WAIT`, from earlier runs too, are not free.
    pub(super) fn use_next_source(&mut self) -> bool {
        self.used_up += 1;
        let loopback = |target: &Address| {
            target.as_tcp().or(target.as_udp()).is_some_and(|t| t.ip().is_loopback())
        };
        let loopback = self.targets.addresses().any(loopback);
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

fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let socket = Unconnected::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(UnixStream::from_std(socket.into()))
}

/// Lets the kernel choose the port at the connect, where it only has to be free for this target. With
/// the bind, it would have to be free for all targets.
fn choose_port_at_connect(socket: &Unconnected) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
    Ok(())
}

/// How long to wait before another connect to a full backlog.
const BACKLOG_PAUSE: Duration = Duration::from_millis(2);

/// Slots in the order in which they connect, at a rate if the plan gives one.
#[derive(Debug)]
pub(crate) struct ConnectQueue {
    pub(super) slots: VecDeque<usize>,
    /// Number of connects that were begun.
    pub(super) begun: u64,
    /// The same, with those that could have been begun: what the rate counts.
    pub(super) turn: u64,
    /// Number of this loop, and number of loops. They take turns.
    thread: u64,
    threads: u64,
    /// The time between two connects of the whole run.
    pub(super) interval: Option<Duration>,
    pub(super) backlog: Option<FullBacklog>,
}

/// A full backlog of a Unix socket. No event tells when it has room again.
#[derive(Debug, Clone, Copy)]
pub(super) struct FullBacklog {
    since: Instant,
    pub(super) retry_at: Instant,
}

impl ConnectQueue {
    pub(super) fn new(plan: &Plan, thread: usize) -> ConnectQueue {
        ConnectQueue {
            slots: VecDeque::new(),
            begun: 0,
            turn: 0,
            thread: thread as u64,
            threads: plan.threads as u64,
            interval: plan.connect_rate.map(Rate::interval),
            backlog: None,
        }
    }

    /// Returns the number, in the whole run, of the next connect.
    pub(super) fn next_number(&self) -> u64 {
        self.begun * self.threads + self.thread
    }

    /// Returns how long after the start the next connect is due, if connects come at a rate.
    pub(super) fn next_offset(&self) -> Option<Nanos> {
        let number = self.turn.saturating_mul(self.threads).saturating_add(self.thread);
        let offset = self.interval?.as_nanos().saturating_mul(number.into());
        Some(Nanos::try_from(offset).unwrap_or(Nanos::MAX))
    }

    /// Forgets the connects that could have been begun until now, this long after the start, while no slot
    /// waited: they would be made up for in one burst.
    pub(super) fn catch_up(&mut self, elapsed: Nanos) {
        let Some(interval) = self.interval.filter(|_| self.slots.is_empty()) else { return };
        let turns = u128::from(elapsed) / interval.as_nanos().max(1) / u128::from(self.threads);
        self.turn = self.turn.max(u64::try_from(turns).unwrap_or(u64::MAX));
    }

    /// Puts a slot back after it found the backlog full. Returns false if the backlog has been full for
    /// longer than the timeout.
    pub(super) fn wait_for_backlog(
        &mut self,
        slot: usize,
        now: Instant,
        timeout: Option<Duration>,
    ) -> bool {
        let since = self.backlog.map_or(now, |backlog| backlog.since);
        let waits = after(since, timeout).is_none_or(|end| end > now);
        let retry_at = if waits { now + BACKLOG_PAUSE } else { now };
        self.backlog = Some(FullBacklog { since, retry_at });
        if waits {
            self.slots.push_front(slot);
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn connector(sources: Vec<IpAddr>) -> Connector {
        let addresses = [LOOPBACK, "::1".parse().unwrap()];
        let targets = addresses.map(|ip| Address::Tcp((ip, 7).into()));
        let plan = Plan::builder(targets.into()).source_ips(sources).build().unwrap();
        Connector::new(&plan, 0, Instant::now())
    }

    #[test]
    fn connects_at_a_rate_are_not_made_up_for_when_none_was_wanted() {
        let target = Address::Tcp((LOOPBACK, 7).into());
        let plan = Plan::builder(vec![target]).connect_rate(Rate::from(10));
        let mut queue = ConnectQueue::new(&plan.build().unwrap(), 0);
        queue.slots.push_back(0);
        queue.catch_up(5_000_000_000);
        assert_eq!(queue.next_offset(), Some(0), "one has waited since the start");
        queue.slots.clear();
        queue.catch_up(5_000_000_000);
        assert_eq!(queue.next_offset(), Some(5_000_000_000));
        queue.catch_up(1_000_000_000);
        assert_eq!(queue.next_offset(), Some(5_000_000_000));
    }

    #[test]
    fn a_loopback_target_is_connected_to_from_more_addresses_as_ports_run_short() {
        let mut connector = connector(Vec::new());
        assert_eq!(connector.source(LOOPBACK, PER_SOURCE - 1), None);
        let second = Some(IpAddr::from([127, 0, 0, 2]));
        assert_eq!(connector.source(LOOPBACK, PER_SOURCE), second);
        assert_eq!(connector.source(LOOPBACK, 250 * PER_SOURCE), Some(LOOPBACK));
        assert_eq!(connector.source([192, 0, 2, 1].into(), PER_SOURCE), None);
        assert!(connector.use_next_source());
        assert_eq!(connector.source(LOOPBACK, 0), second);
    }

    #[test]
    fn sources_that_were_given_take_turns_and_keep_to_their_family() {
        let sources = vec![[127, 0, 0, 5].into(), "::1".parse().unwrap(), [127, 0, 0, 6].into()];
        let connector = connector(sources.clone());
        assert_eq!(connector.source(LOOPBACK, 0), Some(sources[0]));
        assert_eq!(connector.source(LOOPBACK, 1), Some(sources[2]));
        assert_eq!(connector.source(LOOPBACK, 2), Some(sources[0]));
        assert_eq!(connector.source("::1".parse().unwrap(), 7), Some(sources[1]));
    }
}
