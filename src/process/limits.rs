//! The limits that the system sets a process.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that a process keeps beside its clients' sockets: the standard three, the poll, the waker, the
/// signals' pair, and what else it listens with, so far as that is little.
const OWN_FILES: u64 = 16;

/// How many of them are for listening.
const LISTENING: u64 = 8;

/// Raises the soft limit of open files to the hard one, and returns how many connections that leaves
/// room for beside `others`, files of listeners and of whatever else listens. The limit may be a
/// billion: a number to count up to, never one to allocate.
///
/// # Errors
/// Those of getrlimit(2).
pub fn raise_file_limit(others: usize) -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // macOS calls its hard limit unlimited and refuses to grant that: then the soft one stays.
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    Ok(connections_within(limit, others as u64))
}

fn connections_within(files: u64, others: u64) -> usize {
    let own = OWN_FILES + others.saturating_sub(LISTENING);
    usize::try_from(files.saturating_sub(own).max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_room_for_our_own_files_and_for_one_client_at_least() {
        assert_eq!(connections_within(20_000, 2), 19_984);
        assert_eq!(connections_within(20_000, 24), 19_968);
        assert_eq!(connections_within(10, 2), 1);
        assert_eq!(connections_within(u64::MAX, 0), usize::MAX - 16);
    }
}
