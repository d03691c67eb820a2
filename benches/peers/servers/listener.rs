//! What all peers share: the listener, and the size of their buffers.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// As many bytes as the daemon receives at once.
pub const BUFFER: usize = 64 * 1024;

/// The same as the daemon's. With the 128 of the standard library, a measurement would show how SYNs
/// are sent again.
const BACKLOG: i32 = 4096;

/// Listens, and prints the address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    println!("tcp://{}", listener.local_addr()?);
    Ok(listener)
}
