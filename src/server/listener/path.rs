//! The path of a Unix server socket.
//!
//! Unlike a port, a path stays when the process that bound it is killed, and is in the way of the next
//! one. But a path may also be somebody's file, or a server that is alive. So a path that is taken is
//! examined before it is removed, and at the end only a path that this process has bound is removed.

use std::cell::Cell;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use log::warn;
use rustix::fs::{FlockOperation, Mode, RawMode, fchmod, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::address::Address;

/// How often to look whether a lock is free.
const LOOK: Duration = Duration::from_millis(5);

/// How long a start waits for other processes that start in the same folders, in all.
#[derive(Debug)]
pub(crate) struct Patience(Cell<Duration>);

impl Default for Patience {
    fn default() -> Patience {
        Patience(Cell::new(Duration::from_secs(1)))
    }
}

/// A path at which a socket was bound. Dropping the value, once the socket is closed, removes the path if
/// it still is that socket and nobody listens there: the socket may live on in another process (fork(2)).
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    pub(crate) bound: Metadata,
    /// The process that has bound it.
    process: u32,
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| is_same(&now, &self.bound))
            && let Ok(address) = SockAddr::unix(&self.path)
        {
            // If it cannot be removed, nothing is lost: the next start finds a dead socket.
            let _ = remove_dead(&self.path, &address);
        }
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
        let (path, bound) = (path.to_owned(), fs::symlink_metadata(path)?);
        Ok(BoundPath { path, bound, process: process::id() })
    }

    /// Returns whether this process has bound it, and not one of which this is a fork(2).
    pub(crate) fn is_bound_here(&self) -> bool {
        self.process == process::id()
    }

    /// Removes the path while the socket still listens.
    pub(crate) fn remove(self) {
        let _ = remove_if_same(&self.path, &self.bound);
    }

    /// Sets the permissions. On Linux nearly always [`mode_at_bind`] has done so. Where it could not, they
    /// are set on the socket itself: by now there may be a link at its path, to somebody else's file.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let found = self.bound.mode() & 0o777;
        if found == mode {
            return Ok(());
        }
        match self.change_mode(mode) {
            // No /proc, by way of which a socket is changed. The umask has taken some of the permissions.
            Err(e) if e.kind() == ErrorKind::NotFound && found & !mode == 0 => {
                let path = Address::Unix(self.path.clone());
                warn!(
                    target: "echoloop",
                    "{path} has the permissions {found:o} instead of {mode:o}, since /proc is missing: mount it, or \
                     start with another umask"
                );
                Ok(())
            }
            changed => changed,
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn change_mode(&self, mode: u32) -> io::Result<()> {
        use rustix::fs::{OFlags, open};
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
    fn change_mode(&self, mode: u32) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;

        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }
}

/// Has a bind give the path these permissions, less the umask: Linux takes them from the socket (unix(7)
/// does not say so). Elsewhere the answer is an error, and [`BoundPath::set_mode`] sets them.
pub(crate) fn mode_at_bind(socket: &Socket, mode: u32) {
    let _ = fchmod(socket, Mode::from_raw_mode(mode as RawMode));
}

/// Locks the folder of the path with flock(2), until the file is dropped. While several processes start on
/// one path, none of them then takes the socket of another, which does not listen yet, for a dead one.
///
/// Returns `None` where the folder cannot be locked: anybody who can read the folder can keep the lock, and
/// must not keep us from starting.
pub(crate) fn lock_folder(path: &Path, Patience(left): &Patience) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).ok()?;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::WOULDBLOCK) if !left.get().is_zero() => {
                thread::sleep(LOOK);
                left.set(left.get().saturating_sub(LOOK));
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
