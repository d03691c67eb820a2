//! Unix server sockets.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use socket2::{Domain, Socket, Type};

use crate::server::listener::options::ListenOptions;
use crate::server::listener::path::{BoundPath, lock_folder};
use crate::server::listener::socket::Listener;

/// Binds the path and listens.
pub(crate) fn listen(path: &Path, options: &ListenOptions) -> io::Result<Listener> {
    let _lock = lock_folder(path);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let path = BoundPath::bind(&socket, path)?;
    // Set before the socket listens, so that nobody connects who may not.
    path.set_mode(options.unix_mode.unwrap_or(path.bound.mode() & 0o666))?;
    socket.listen(options.backlog())?;
    Listener::unix(socket, Some(path))
}
