//! Limits that the system sets a process.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of files that a daemon keeps for itself at least, unless that is more than half of all.
const OWN_FILES: usize = 16;

/// Raises the soft limit of open files to the hard limit, and returns it. It may be a billion, so nothing may be
/// allocated in proportion to it.
pub fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // macOS calls its hard limit unlimited and refuses to set that. The soft limit then stays.
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

/// Returns the number of connections for which the limit leaves room, beside the files that are open now and
/// `later` more that are opened for other purposes.
///
/// # Errors
/// There is no room for one connection. The error says how many files are needed.
pub fn connections(file_limit: usize, later: usize) -> io::Result<usize> {
    connections_within(file_limit, open_files(file_limit) + later)
}

fn connections_within(files: usize, needed: usize) -> io::Result<usize> {
    let own = needed.max(OWN_FILES.min(files / 2));
    match files.saturating_sub(own) {
        0 => Err(io::Error::other(format!(
            "the limit of open files is {files}, which is too low: at least {} are needed; raise it \
             (ulimit -n, LimitNOFILE= of systemd)",
            needed + 1
        ))),
        connections => Ok(connections),
    }
}

/// Counts the open files that the limit applies to: those with a number below it, inherited ones included.
fn open_files(limit: usize) -> usize {
    let is_limited = |name: &str| name.parse().is_ok_and(|number: usize| number < limit);
    let listed = fs::read_dir("/dev/fd").map_or(0, |files| {
        let names = files.flatten().map(|file| file.file_name());
        // The folder itself is one of them.
        names.filter(|name| name.to_str().is_some_and(is_limited)).count().saturating_sub(1)
    });
    // Where the folder is missing or tells nothing, as without /proc, the lowest free number is what is known.
    let lowest =
        File::open("/").map_or(limit, |file| usize::try_from(file.as_raw_fd()).unwrap_or(0));
    listed.max(lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_room_for_our_own_files_or_says_how_many_are_needed() {
        let room = |files, needed| connections_within(files, needed).map_err(|e| e.to_string());
        assert_eq!(room(20_000, 12), Ok(19_984));
        assert_eq!(room(20_000, 9_010), Ok(10_990));
        assert_eq!(room(20, 12), Ok(8));
        assert_eq!(room(13, 12), Ok(1));
        assert_eq!(room(usize::MAX, 12), Ok(usize::MAX - 16));
        for files in [0, 3, 12] {
            assert!(room(files, 12).unwrap_err().contains("at least 13"), "{files}");
        }
    }

    #[test]
    fn a_file_that_is_opened_is_counted() {
        let before = open_files(usize::MAX);
        let more: Vec<_> = (0..50).map(|_| File::open("/").unwrap()).collect();
        // Other tests of this process open and close files meanwhile.
        assert!(open_files(usize::MAX) >= before.max(50));
        drop(more);
    }
}
