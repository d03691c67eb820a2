//! TCP server sockets.

use std::io;
use std::net::SocketAddr;

use socket2::{Protocol, Type};

use crate::net::bind::socket_for;
use crate::server::listener::inherited;
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
    socket.bind(&address.into())?;
    inherited::prepare(&socket, options)?;
    socket.listen(options.backlog())?;
    Listener::tcp(socket)
}
