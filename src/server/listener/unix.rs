//! Unix server sockets.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use socket2::{Domain, Socket, Type};

use crate::server::listener::inherited;
use crate::server::listener::options::ListenOptions;
use crate::server::listener::path::{BoundPath, Patience, lock_folder, mode_at_bind};
use crate::server::listener::socket::Listener;

/// The permissions that nobody has asked for, less the umask. Who may write may connect, so with the usual
/// umask that is the owner alone.
const MODE: u32 = 0o666;

/// Binds the path and listens.
pub(crate) fn listen(
    path: &Path,
    options: &ListenOptions,
    patience: &Patience,
) -> io::Result<Listener> {
    let _lock = lock_folder(path, patience);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    mode_at_bind(&socket, options.unix_mode.unwrap_or(MODE));
    let path = BoundPath::bind(&socket, path)?;
    // Set before the socket listens, so that nobody connects who may not.
    path.set_mode(options.unix_mode.unwrap_or(path.bound.mode() & MODE))?;
    inherited::refuse_files(&socket)?;
    socket.listen(options.backlog())?;
    Listener::unix(socket, Some(path))
}
