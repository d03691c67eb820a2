//! How a server socket is made: bound here, or handed over by the one who started us.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use log::warn;
use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::{ListenSocket, Listener, unix};
use crate::net::endpoint::{Address, Endpoint};
use crate::server::config::Config;

/// How often to look for one port that is free on several addresses.
const PORTS_TRIED: usize = 32;

/// Binds every address that the endpoint stands for, on one port.
pub(super) fn bind(endpoint: &Endpoint, config: &Config) -> io::Result<Vec<Listener>> {
    let failed = |tried: &str, e: io::Error, advice: &str| {
        io::Error::new(e.kind(), format!("cannot {tried} {endpoint}: {e}{advice}"))
    };
    let addresses = endpoint.resolve().map_err(|e| failed("resolve", e, ""))?;
    let any_tcp = addresses.iter().any(|address| address.as_tcp().is_some());
    let any_port = addresses.iter().all(|a| a.as_tcp().is_some_and(|a| a.port() == 0));
    let mut tries = if any_port && addresses.len() > 1 { PORTS_TRIED } else { 1 };
    loop {
        tries -= 1;
        match bind_addresses(&addresses, config) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            result => {
                return result.map_err(|e| {
                    let advice = if any_tcp { advice(e.kind()) } else { "" };
                    failed("listen on", e, advice)
                });
            }
        }
    }
}

/// A machine without IPv6 has no `::1` and can still serve 127.0.0.1: an address that is not to be
/// had is skipped if another is left.
fn bind_addresses(addresses: &[Address], config: &Config) -> io::Result<Vec<Listener>> {
    let mut bound: Vec<Listener> = Vec::new();
    let mut lacking = Vec::new();
    for address in addresses {
        let listener = match address {
            Address::Unix(path) => unix::listen(path, config),
            &Address::Tcp(mut address) => {
                if let Some(first) = bound.first().and_then(|first| first.address.as_tcp()) {
                    address.set_port(first.port());
                }
                listen(address, config)
            }
        };
        match listener {
            Ok(listener) => bound.push(listener),
            Err(e) if e.kind() == ErrorKind::AddrNotAvailable => lacking.push((address, e)),
            Err(e) => return Err(e),
        }
    }
    match lacking.pop() {
        Some((_, e)) if bound.is_empty() => Err(e),
        last => {
            for (address, e) in lacking.iter().chain(&last) {
                warn!("not listening on {address}: {e}");
            }
            Ok(bound)
        }
    }
}

/// What mio's own bind leaves out: the backlog (its 128 overflows when a thousand clients come at
/// once, and each one that is dropped waits a second for its next try; the 5 of the HOWTO is long
/// past), IPv6 beside IPv4 on one port, and several processes on one port.
fn listen(address: SocketAddr, config: &Config) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .map_err(|e| match e.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => io::Error::new(ErrorKind::AddrNotAvailable, e),
            _ => e,
        })?;
    socket.set_nonblocking(true)?;
    // A restart must not wait until the last run's connections have left TIME_WAIT.
    socket.set_reuse_address(true)?;
    if config.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    set_inherited(&socket, config)?;
    socket.bind(&address.into())?;
    socket.listen(config.backlog())?;
    tcp(socket)
}

/// A socket that somebody else has bound, and keeps: what waits at it when we end is theirs to serve.
pub(super) fn adopt(socket: OwnedFd, config: &Config) -> io::Result<Listener> {
    let socket = Socket::from(socket);
    if !is_listener(&socket)? {
        let why = "it is no stream socket that listens; with systemd it must be ListenStream and \
                   Accept=no";
        return Err(io::Error::new(ErrorKind::InvalidInput, why));
    }
    // It comes blocking: the first accept from an empty queue would stop the loop.
    socket.set_nonblocking(true)?;
    if socket.local_addr()?.is_unix() {
        return unix::adopt(socket);
    }
    set_inherited(&socket, config)?;
    tcp(socket)
}

/// Not found out by listening: that would change a backlog that its owner has chosen.
fn is_listener(socket: &Socket) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    let listens = socket.is_listener()?;
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let listens = true;
    Ok(listens && socket.r#type()? == Type::STREAM)
}

fn tcp(socket: Socket) -> io::Result<Listener> {
    let socket = TcpListener::from_std(socket.into());
    let address = Address::Tcp(socket.local_addr()?);
    Ok(Listener::new(ListenSocket::Tcp(socket), address, None))
}

/// Options that the client sockets inherit, which spares each of them the system calls (tcp(7)).
fn set_inherited(socket: &Socket, config: &Config) -> io::Result<()> {
    // An echo is sent as it comes: Nagle's algorithm would hold a small one back until the peer has
    // acknowledged the one before.
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = &config.congestion {
        set_congestion(socket, name)?;
    }
    match config.keepalive {
        Some(idle) => set_keepalive(socket, idle),
        None => Ok(()),
    }
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn set_congestion(socket: &Socket, name: &str) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes()).map_err(|e| {
        let advice = match e.kind() {
            ErrorKind::NotFound => {
                "those that it has are in net.ipv4.tcp_available_congestion_control"
            }
            _ => "those that anybody may use are in net.ipv4.tcp_allowed_congestion_control",
        };
        let why = format!("the kernel refuses the congestion control `{name}`: {e}; {advice}");
        io::Error::other(why)
    })
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn set_congestion(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::Error::new(
        ErrorKind::Unsupported,
        "congestion control cannot be chosen on this system",
    ))
}

/// A peer that vanishes says nothing. After `idle` without a byte the kernel asks, three times, a
/// third of `idle` apart (tcp(7)), and ends a connection that has said nothing for twice as long as
/// `idle`. In the same time one ends whose peer takes nothing of what it is owed, be it that its
/// window stays shut (`TCP_USER_TIMEOUT`, RFC 5482).
fn set_keepalive(socket: &Socket, idle: Duration) -> io::Result<()> {
    const PROBES: u32 = 3;
    let interval = (idle / PROBES).max(Duration::from_secs(1));
    let keepalive =
        TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(idle + interval * PROBES))?;
    Ok(())
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrInUse => {
            "; another program listens there: choose another port, or 0 for a free one"
        }
        ErrorKind::PermissionDenied => {
            "; a port below 1024 takes root or CAP_NET_BIND_SERVICE: choose a higher one"
        }
        ErrorKind::AddrNotAvailable => "; choose an address of this machine, or leave it out",
        _ => "",
    }
}
