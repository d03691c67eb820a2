//! Threads for what may wait, so that the loop need not.

use std::io;
use std::thread;

/// Stack of such a thread. It does little, and address space may be limited.
const STACK: usize = 128 * 1024;

/// Starts a thread. What it does must be fit to be cut off by the end of the process.
///
/// # Errors
/// Names the thread, and says what to do.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    thread.spawn(run).map(drop).map_err(|e| {
        let reason = format!(
            "cannot start the thread for the {name}: {e}; raise the limit of threads (ulimit -u, \
             pids.max) or of memory"
        );
        io::Error::new(e.kind(), reason)
    })
}
