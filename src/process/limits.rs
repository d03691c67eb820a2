//! Limits that the system sets a process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of files that a process keeps beside its clients' sockets: the standard three, the poll, the
/// waker, the pipe of the signals, and a few listeners.
const OWN_FILES: u64 = 16;

/// Number of listeners among them.
const LISTENING: u64 = 8;

/// Raises the soft limit of open files to the hard limit. Returns the number of connections for which that
/// leaves room beside `others`, the files of all listeners and of the metrics' clients. The limit may be a
/// billion, so nothing may be allocated in proportion to it.
pub fn raise_file_limit(others: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // macOS calls its hard limit unlimited and refuses to set that. The soft limit then stays.
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    connections_within(files.unwrap_or(u64::MAX), others as u64)
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
