//! TCP server sockets, and the options that their connections inherit.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Protocol, Socket, TcpKeepalive, Type};

use crate::net::bind::socket_for;
use crate::server::listener::options::ListenOptions;
use crate::server::listener::socket::Listener;

/// Binds and listens, with what mio's own bind leaves out: the backlog, IPv6 beside IPv4 on one port, and
/// several processes on one port.
///
/// The HOWTO says of `listen(5)`: "If the rest of the code is written properly, that should be plenty."
/// That is no longer so. When a thousand clients come at once, a backlog of 128 (mio's) overflows too, and
/// each client that is dropped waits a second before it tries again.
pub(crate) fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<Listener> {
    let socket = socket_for(address, Type::STREAM, Protocol::TCP)?;
    // Without it a restart must wait until the connections of the last run have left TIME_WAIT.
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    set_inherited_options(&socket, options)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog())?;
    Listener::tcp(socket)
}

/// Sets the options that connections inherit from their server socket, which saves each of them the
/// system calls (tcp(7)).
pub(crate) fn set_inherited_options(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    // An answer is sent as soon as it is there. Nagle's algorithm would hold a small one back until the
    // peer has acknowledged the one before.
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = &options.congestion {
        set_congestion(socket, name)?;
    }
    match options.keepalive {
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
        let reason = format!("the kernel refuses the congestion control `{name}`: {e}; {advice}");
        io::Error::other(reason)
    })
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn set_congestion(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::Error::new(
        ErrorKind::Unsupported,
        "congestion control cannot be chosen on this system",
    ))
}

/// A peer that vanished says nothing. After `idle` without a byte the kernel sends three probes, a third of
/// `idle` apart (tcp(7)), and then ends the connection. In the same time it ends a connection whose peer
/// takes nothing of what it is owed, even if it keeps answering with a closed window (`TCP_USER_TIMEOUT`,
/// RFC 5482).
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
