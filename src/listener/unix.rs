//! A Unix socket's listener, and its path.
//!
//! Unlike a port, a path stays behind when the process that bound it is killed, and is in the way of
//! the next one. But a path may also be somebody's file, or a server that is alive. So a taken path is
//! looked at before it is removed, and at the end only what we have put there ourselves goes.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::net::UnixListener;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{ListenSocket, Listener};
use crate::config::Config;
use crate::endpoint::Address;

/// A path at which this process has bound a socket; removed with this value, if it still is that one.
#[derive(Debug)]
pub(super) struct OwnPath {
    path: PathBuf,
    bound: Metadata,
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        // Nothing is lost if it cannot be removed: the next start finds a dead socket.
        let _ = remove_if(&self.path, |now| is_same(now, &self.bound));
    }
}

/// Binds, and listens.
pub(super) fn listen(path: &Path, config: &Config) -> io::Result<Listener> {
    let address = SockAddr::unix(path)?;
    let socket = stream()?;
    if let Err(e) = socket.bind(&address) {
        if e.kind() != ErrorKind::AddrInUse {
            return Err(e);
        }
        remove_dead(path, &address)?;
        socket.bind(&address)?;
    }
    let own = OwnPath { path: path.to_owned(), bound: fs::symlink_metadata(path)? };
    // Before it listens, so that nobody connects meanwhile who may not.
    let mode = config.unix_mode.unwrap_or(own.bound.mode() & 0o666);
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(config.backlog())?;
    // Another start may have found it before it listened, and taken it for dead.
    if !fs::symlink_metadata(path).is_ok_and(|now| is_same(&now, &own.bound)) {
        return taken("another server has taken the path at the same time");
    }
    let listener = adopt(socket)?;
    Ok(Listener { path: Some(own), ..listener })
}

/// A socket that somebody else has bound: its path is theirs.
pub(super) fn adopt(socket: Socket) -> io::Result<Listener> {
    let socket = UnixListener::from_std(socket.into());
    let address: Address = socket.local_addr()?.into();
    Ok(Listener::new(ListenSocket::Unix(socket), address, None))
}

/// Makes way at a path that is taken, if what is there is a socket behind which nobody listens.
fn remove_dead(path: &Path, address: &SockAddr) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return taken("a file is there that is no socket: remove it, or choose another path");
    }
    match stream()?.connect(address) {
        // Nobody holds it open: where another start has removed it meanwhile, that one's socket may
        // have got its inode.
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => remove_if(path, |now| {
            is_same(now, &found) && now.modified().ok() == found.modified().ok()
        }),
        // Would-block is a queue that is full: that of a living server.
        Err(e) if e.kind() != ErrorKind::WouldBlock => {
            let why = format!("a socket is there, and whether it is dead cannot be told: {e}");
            Err(io::Error::new(e.kind(), why))
        }
        _ => taken("another server listens there: stop it, or choose another path"),
    }
}

fn taken<T>(why: &str) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::AddrInUse, why))
}

/// Sees to it that what is found at the path is not there any more.
fn remove_if(path: &Path, is_it: impl Fn(&Metadata) -> bool) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(now) if !is_it(&now) => Ok(()),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    // Somebody else was faster.
    removed.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Whether a path still is what it was is told by the device and the inode.
fn is_same(now: &Metadata, before: &Metadata) -> bool {
    (now.dev(), now.ino()) == (before.dev(), before.ino())
}

fn stream() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
