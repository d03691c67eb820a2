//! The path of a Unix server socket.
//!
//! Unlike a port, a path stays when the process that bound it is killed, and is in the way of the next
//! one. But a path may also be somebody's file, or a server that is alive. So a path that is taken is
//! examined before it is removed, and at the end only a path that this process has bound is removed.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

/// How long to wait for another process that starts in the same folder.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A path at which this process has bound a socket. Dropping the value removes the path, if it still is
/// that socket.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    pub(crate) bound: Metadata,
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        // If it cannot be removed, nothing is lost: the next start finds a dead socket.
        let _ = remove_if_same(&self.path, &self.bound);
    }
}

impl BoundPath {
    /// Binds the socket to the path. A dead socket at the path is replaced.
    pub(crate) fn bind(socket: &Socket, path: &Path) -> io::Result<BoundPath> {
        let address = SockAddr::unix(path)?;
        if let Err(e) = socket.bind(&address) {
            if e.kind() != ErrorKind::AddrInUse {
                return Err(e);
            }
            remove_dead(path, &address)?;
            socket.bind(&address)?;
        }
        Ok(BoundPath { path: path.to_owned(), bound: fs::symlink_metadata(path)? })
    }

    /// Sets the permissions of the socket itself: by now there may be a link at its path, to somebody else's
    /// file.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        use rustix::fs::{Mode, OFlags, open};
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::PermissionsExt;

        let handle = File::from(open(
            &self.path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
        if !is_same(&handle.metadata()?, &self.bound) {
            return taken("something else has taken its place");
        }
        let itself = format!("/proc/self/fd/{}", handle.as_raw_fd());
        fs::set_permissions(itself, fs::Permissions::from_mode(mode))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;

        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }
}

/// Locks the folder of the path with flock(2), until the file is dropped. While several processes start on
/// one path, none of them then takes the socket of another, which does not listen yet, for a dead one.
///
/// Returns `None` where the folder cannot be locked: anybody who can read the folder can keep the lock, and
/// must not keep us from starting.
pub(crate) fn lock_folder(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).ok()?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}

/// Removes what is at the path, if it is a socket on which nobody listens.
fn remove_dead(path: &Path, address: &SockAddr) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return taken("a file is there that is no socket: remove it, or choose another path");
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => remove_if_same(path, &found),
        // Would-block means a full backlog, so a server is alive.
        Err(e) if e.kind() != ErrorKind::WouldBlock => {
            let reason = format!("a socket is there, and whether it is dead cannot be told: {e}");
            Err(io::Error::new(e.kind(), reason))
        }
        _ => taken("another server listens there: stop it, or choose another path"),
    }
}

fn taken<T>(reason: &str) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::AddrInUse, reason))
}

fn remove_if_same(path: &Path, before: &Metadata) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(now) if is_same(&now, before) => fs::remove_file(path),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Device and inode identify a file.
fn is_same(now: &Metadata, before: &Metadata) -> bool {
    (now.dev(), now.ino()) == (before.dev(), before.ino())
}
