//! Files that are written. A file appears, or replaces the old one, once it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use echoloop::cli::output;

/// Most symbolic links that are followed, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Most files of the same name that an earlier process with the same number can have left.
const MAX_PARTS: u32 = 100;

/// The files that are not complete yet.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file that is being written, or another output: a pipe, a terminal, a device.
#[derive(Debug)]
pub struct Destination {
    name: String,
    file: File,
    /// The file that is written until it is complete, and the one that it then replaces.
    replaces: Option<(PathBuf, PathBuf)>,
}

impl Destination {
    /// Opens a file, or takes stdout where there is no path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: Option<&PathBuf>) -> io::Result<Destination> {
        let Some(path) = path else {
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return Ok(Destination { name: "stdout".into(), file, replaces: None });
        };
        let name = path.display().to_string();
        let opened = locate(path).and_then(|path| open(&path));
        let (file, replaces) = opened.map_err(|e| {
            io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()))
        })?;
        Ok(Destination { name, file, replaces })
    }

    /// Returns its name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes all bytes. An output that another process has made nonblocking is waited for: the flag is shared
    /// with that process, and the report is not dropped.
    ///
    /// # Errors
    /// Those of the system.
    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        output::write_all(self.file.as_fd(), bytes)
    }

    /// Writes until all is complete, and puts the file in its place.
    ///
    /// # Errors
    /// Those of the system. The old file is then as it was.
    pub fn complete(self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        let Some((part, path)) = &self.replaces else { return Ok(()) };
        // The new name could outlive a crash of the machine, and the bytes not.
        self.file.sync_all()?;
        // A file that something is mounted on cannot be replaced.
        fs::rename(part, path).or_else(|_| fs::copy(part, path).map(drop))
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some((part, _)) = &self.replaces {
            // It has its name no more where it has taken its place.
            let _ = fs::remove_file(part);
            unfinished(|parts| parts.retain(|other| other != part));
        }
    }
}

/// Removes what this process has begun to write, before it ends without having completed it.
pub fn remove_unfinished() {
    unfinished(|parts| {
        for part in parts.drain(..) {
            let _ = fs::remove_file(part);
        }
    });
}

fn unfinished(change: impl FnOnce(&mut Vec<PathBuf>)) {
    change(&mut UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Returns whether two paths name one file that cannot take both reports. A device such as /dev/null can.
pub fn are_same(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (locate(one), locate(other)) else { return false };
    match (fs::metadata(&one), fs::metadata(&other)) {
        (Ok(a), Ok(b)) if a.file_type().is_char_device() || b.file_type().is_char_device() => false,
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => one == other,
    }
}

/// Opens the file at a place, or a new one beside it.
fn open(path: &Path) -> io::Result<(File, Option<(PathBuf, PathBuf)>)> {
    let old = fs::metadata(path).ok();
    let is_file = old.as_ref().is_none_or(fs::Metadata::is_file);
    // What stdout is redirected to is another's file: it has its beginning already.
    if !is_file || path.starts_with("/proc") {
        return Ok((OpenOptions::new().append(true).open(path)?, None));
    }
    match create_beside(path) {
        Ok((file, part)) => {
            if let Some(old) = old {
                let _ = file.set_permissions(old.permissions());
            }
            unfinished(|parts| parts.push(part.clone()));
            Ok((file, Some((part, path.to_owned()))))
        }
        // A file may be writable where its directory is not.
        Err(e) if old.is_some() => {
            let in_place = OpenOptions::new().write(true).truncate(true).open(path);
            Ok((in_place.map_err(|_| e)?, None))
        }
        Err(e) => Err(e),
    }
}

fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    for n in 0..MAX_PARTS {
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}-{n}.part", std::process::id()));
        match File::create_new(&part) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            created => return Ok((created?, part.into())),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Returns where a path leads, links followed. The file need not be there. The links of /proc lead to open
/// files, which may have no path, and are not followed.
fn locate(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new(".")).canonicalize()?;
        let place = parent.join(name);
        match fs::read_link(&place) {
            Ok(target) if !place.starts_with("/proc") => path = parent.join(target),
            _ => return Ok(place),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}
