//! How a server socket is made: bound here, or handed over by the process that started us.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};

use log::warn;
use socket2::{Socket, Type};

use crate::net::address::Address;
use crate::net::endpoint::Endpoint;
use crate::server::listener::options::ListenOptions;
use crate::server::listener::socket::Listener;
use crate::server::listener::{tcp, unix};

/// How often to look for a port that is free on several addresses.
const PORTS_TRIED: usize = 32;

/// Binds every address of the endpoint, all on one port.
pub(crate) fn bind(endpoint: &Endpoint, options: &ListenOptions) -> io::Result<Vec<Listener>> {
    let failed = |tried: &str, e: io::Error, advice: &str| {
        io::Error::new(e.kind(), format!("cannot {tried} {endpoint}: {e}{advice}"))
    };
    let addresses = endpoint.resolve().map_err(|e| failed("resolve", e, ""))?;
    let any_tcp = addresses.iter().any(|address| address.as_tcp().is_some());
    let any_port = addresses.iter().all(|a| a.as_tcp().is_some_and(|a| a.port() == 0));
    let mut tries = if any_port && addresses.len() > 1 { PORTS_TRIED } else { 1 };
    loop {
        tries -= 1;
        match bind_addresses(&addresses, options) {
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

/// Skips an address that the machine lacks, if another one is left: a machine without IPv6 has no `::1`,
/// and can still serve 127.0.0.1.
fn bind_addresses(addresses: &[Address], options: &ListenOptions) -> io::Result<Vec<Listener>> {
    let mut bound: Vec<Listener> = Vec::new();
    let mut skipped = Vec::new();
    for address in addresses {
        let listener = match address {
            Address::Unix(path) => unix::listen(path, options),
            Address::Udp(_) => {
                let reason = "a server serves streams, and datagrams are for an event source";
                Err(io::Error::new(ErrorKind::InvalidInput, reason))
            }
            &Address::Tcp(mut address) => {
                if let Some(first) = bound.first().and_then(|first| first.address().as_tcp()) {
                    address.set_port(first.port());
                }
                tcp::listen(address, options)
            }
        };
        match listener {
            Ok(listener) => bound.push(listener),
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

/// Takes a socket that another process has bound and keeps. What waits in its backlog when we end is left
/// to that process.
pub(crate) fn adopt(socket: OwnedFd, options: &ListenOptions) -> io::Result<Listener> {
    let number = socket.as_raw_fd();
    adopt_socket(Socket::from(socket), options).map_err(|e| {
        let reason = format!("cannot serve file {number}, which was handed over: {e}");
        io::Error::new(e.kind(), reason)
    })
}

fn adopt_socket(socket: Socket, options: &ListenOptions) -> io::Result<Listener> {
    if !is_listener(&socket)? {
        let reason = "it is no stream socket that listens; with systemd it must be ListenStream and \
                      Accept=no";
        return Err(io::Error::new(ErrorKind::InvalidInput, reason));
    }
    // It may block: then the first accept from an empty backlog would stop the loop.
    socket.set_nonblocking(true)?;
    if socket.local_addr()?.is_unix() {
        return Listener::unix(socket, None);
    }
    tcp::set_inherited_options(&socket, options)?;
    Listener::tcp(socket)
}

/// Asks the kernel. Calling listen(2) to find out would change the backlog that the socket's owner has
/// chosen.
fn is_listener(socket: &Socket) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    let listens = socket.is_listener()?;
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let listens = true;
    Ok(listens && socket.r#type()? == Type::STREAM)
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
