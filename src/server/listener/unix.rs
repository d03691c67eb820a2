//! A Unix socket's listener, and its path.
//!
//! Unlike a port, a path stays behind when the process that bound it is killed, and is in the way of
//! the next one. But a path may also be somebody's file, or a server that is alive. So a taken path is
//! looked at before it is removed, and at the end only what we have put there ourselves goes.

#[cfg(any(target_os = "linux", target_os = "android"))]
use std::fs::OpenOptions;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{ListenSocket, Listener};
use crate::net::endpoint::Address;
use crate::server::config::Config;

/// How long to wait for a start that is under way on another path of the same folder.
const LOCK: Duration = Duration::from_secs(5);

/// A path at which this process has bound a socket; removed with this value, if it still is that one.
#[derive(Debug)]
pub(super) struct OwnPath {
    path: PathBuf,
    bound: Metadata,
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        // Nothing is lost if it cannot be removed: the next start finds a dead socket.
        let _ = remove_if_same(&self.path, &self.bound);
    }
}

/// Binds, and listens. The folder is locked meanwhile, so that of several starts on one path none
/// takes another's socket, which does not listen yet, for a dead one.
pub(super) fn listen(path: &Path, config: &Config) -> io::Result<Listener> {
    let address = SockAddr::unix(path)?;
    let _lock = lock_folder(path);
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
    set_mode(&own, config.unix_mode.unwrap_or(own.bound.mode() & 0o666))?;
    socket.listen(config.backlog())?;
    let listener = adopt(socket)?;
    Ok(Listener { path: Some(own), ..listener })
}

/// An advisory lock, flock(2), that goes with the file; none where a folder cannot be locked. Whoever
/// may read the folder can hold it for ever, and must not keep us from starting.
fn lock_folder(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).ok()?;
    let patience = Instant::now() + LOCK;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::WOULDBLOCK) if Instant::now() < patience => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}

/// Of the socket itself: at its path there may be a link by now, to a file of somebody else's.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_mode(own: &OwnPath, mode: u32) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let handle = OpenOptions::new().read(true).custom_flags(flags).open(&own.path)?;
    if !is_same(&handle.metadata()?, &own.bound) {
        return taken("something else has taken its place");
    }
    let itself = format!("/proc/self/fd/{}", handle.as_raw_fd());
    fs::set_permissions(itself, Permissions::from_mode(mode))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_mode(own: &OwnPath, mode: u32) -> io::Result<()> {
    fs::set_permissions(&own.path, Permissions::from_mode(mode))
}

/// A socket that somebody else has bound: its path is theirs.
pub(super) fn adopt(socket: Socket) -> io::Result<Listener> {
    let address = Address::from(&socket.local_addr()?);
    let socket = UnixStream::from_std(socket.into());
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
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => remove_if_same(path, &found),
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

fn remove_if_same(path: &Path, before: &Metadata) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(now) if is_same(&now, before) => fs::remove_file(path),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
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
