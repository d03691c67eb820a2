//! The first step of a program: its signals, whatever it was started with.
//!
//! What is blocked passes through execve(2), and so do timers. A supervisor, a shell or a profiler may have
//! left anything. After the first step the state is known. These are the decisions of a daemon; the load
//! tester shares those on what is blocked for good.
//!
//! | signal | what it does | reason |
//! |---|---|---|
//! | SIGTERM, SIGINT | drains; before the loop runs, ends the process at once with status 0 | nothing is owed yet, and the start may wait for a name server |
//! | SIGALRM, SIGXCPU | drains | a limit of time that whoever started the process has set (alarm(2), `RLIMIT_CPU`); SIGXCPU comes again each second, so neither counts as a second signal |
//! | SIGHUP | is logged | there is no configuration to read again, and a daemon outlives its terminal |
//! | SIGUSR1 | logs the counters | |
//! | SIGCHLD | reaps children | a first process and a subreaper are given orphans, and a shell may leave its children to the program that it becomes |
//! | SIGUSR2 | nothing: blocked | its default is to end the process |
//! | SIGPIPE | nothing: ignored, by the standard library | write(2) answers `EPIPE` |
//! | SIGXFSZ | nothing: blocked | a log file that is full ends no daemon: write(2) answers `EFBIG`, and the line is counted |
//! | SIGTTOU | nothing: blocked | with `stty tostop` a line of the log would stop a daemon in the background, and with it the echo |
//! | SIGVTALRM, SIGPROF | nothing: blocked | timers of a profiler that became this program (setitimer(2)) |
//! | SIGIO | nothing: blocked | a file that is handed over may have `O_ASYNC` |
//! | SIGTSTP, SIGCONT, SIGTTIN, SIGSTOP | stops, continues | Ctrl-Z is meant; stdin is never read |
//! | SIGQUIT, SIGABRT, SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS | ends with a core | asked for, or a fault of the program |
//! | SIGURG, SIGWINCH | nothing: the default | |
//! | SIGPWR, SIGSTKFLT, real-time signals | ends, the default | nobody sends them by accident |
//! | SIGKILL | ends | |

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::flag::register_conditional_shutdown;

/// A signal that follows the first one this fast is the same wish: timeout(1), for example, relays a Ctrl-C
/// that the terminal has sent to the whole group.
pub const SAME_WISH: Duration = Duration::from_millis(300);

/// Blocked for good. A blocked signal interrupts no call, and a write that would raise it goes on.
const UNWANTED: [Signal; 5] =
    [Signal::SIGXFSZ, Signal::SIGTTOU, Signal::SIGVTALRM, Signal::SIGPROF, Signal::SIGIO];

/// They end a daemon whose loop does not run yet.
const ENDING: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

/// Signals that the loop of a daemon takes. They wait until it can.
const DEFERRED: [Signal; 5] =
    [Signal::SIGALRM, Signal::SIGXCPU, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGCHLD];

/// Blocks the signals that no program here wants, and no other. To be called first, since a thread has the
/// mask of the one that starts it.
///
/// # Errors
/// Those of `pthread_sigmask(3)`.
pub fn normalize_mask() -> io::Result<()> {
    set_mask(UNWANTED)
}

/// A daemon whose loop does not run yet. It needs no file, so that those which were handed over keep their
/// numbers to themselves.
#[derive(Debug)]
pub struct Starting(Arc<AtomicBool>);

impl Starting {
    /// Brings the signals to the known state. To be called first: no signal is lost from here on, and none
    /// ends the process but those that are meant to.
    ///
    /// # Errors
    /// Those of `pthread_sigmask(3)` and sigaction(2).
    pub fn begin() -> io::Result<Starting> {
        // Until the handlers are there. A first process has no default action, and would lose them.
        block_also(DEFERRED.into_iter().chain(ENDING))?;
        let starting = Starting(Arc::new(AtomicBool::new(true)));
        for signal in ENDING {
            register_conditional_shutdown(signal as i32, 0, Arc::clone(&starting.0))?;
        }
        block_also(DEFERRED)?;
        Ok(starting)
    }

    /// Leaves all signals to the loop, on this thread. Those that waited come now.
    pub(crate) fn end(&self) -> io::Result<()> {
        self.0.store(false, Ordering::SeqCst);
        block_also([])
    }
}

fn block_also(signals: impl IntoIterator<Item = Signal>) -> io::Result<()> {
    set_mask(UNWANTED.into_iter().chain([Signal::SIGUSR2]).chain(signals))
}

fn set_mask(blocked: impl IntoIterator<Item = Signal>) -> io::Result<()> {
    Ok(blocked.into_iter().collect::<SigSet>().thread_set_mask()?)
}
