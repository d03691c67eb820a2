//! How a server socket is made: bound here, or handed over by the process that started us.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_setfl};
use socket2::{Socket, Type};

use crate::net::address::Address;
use crate::net::bind::bind_endpoint;
use crate::net::endpoint::Endpoint;
use crate::server::listener::options::ListenOptions;
use crate::server::listener::path::Patience;
use crate::server::listener::socket::Listener;
use crate::server::listener::{inherited, tcp, unix};

/// Binds every address of the endpoint, all on one port.
pub(crate) fn bind(
    endpoint: &Endpoint,
    options: &ListenOptions,
    patience: &Patience,
) -> io::Result<Vec<Listener>> {
    bind_endpoint(endpoint, |address| match address {
        Address::Tcp(address) => tcp::listen(*address, options),
        Address::Unix(path) => unix::listen(path, options, patience),
        Address::Udp(_) => {
            let reason = "a server serves streams, and datagrams are for an event source";
            Err(io::Error::new(ErrorKind::InvalidInput, reason))
        }
    })
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
    // It may block: then the first accept from an empty backlog would stop the loop. And a client that
    // connects may bring a signal (O_ASYNC, fcntl(2)), which ends whoever does not expect it.
    fcntl_setfl(&socket, OFlags::NONBLOCK)?;
    let mut listener = if socket.local_addr()?.is_unix() {
        inherited::refuse_files(&socket)?;
        Listener::unix(socket, None)?
    } else {
        inherited::prepare(&socket, options)?;
        Listener::tcp(socket)?
    };
    listener.until_empty = Some(options.clone());
    Ok(listener)
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
