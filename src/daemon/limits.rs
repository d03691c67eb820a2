//! The limits that the system sets a process.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that a process has beside its clients' sockets: the standard three, the poll, the waker, the
/// signals' pipe, the listeners.
const OWN_FILES: u64 = 16;

/// Raises the soft limit of open files to the hard one, and returns how many connections that leaves
/// room for. The limit may be a billion: a number to count up to, never one to allocate.
///
/// # Errors
/// Those of getrlimit(2).
pub fn raise_file_limit() -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // macOS calls its hard limit unlimited and refuses to grant that: then the soft one stays.
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    Ok(connections_within(limit))
}

fn connections_within(files: u64) -> usize {
    usize::try_from(files.saturating_sub(OWN_FILES).max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_room_for_our_own_files_and_for_one_client_at_least() {
        assert_eq!(connections_within(20_000), 19_984);
        assert_eq!(connections_within(10), 1);
        assert_eq!(connections_within(u64::MAX), usize::MAX - 16);
    }
}
