//! Signals as events.
//!
//! A signal can arrive between any two instructions, where a handler may do next to nothing. The self-pipe
//! trick makes an event of it: the handler writes a byte to a pipe, and the pipe becomes readable.

use std::fmt;
use std::io;
use std::time::Instant;

use log::info;
use mio::Interest;
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXCPU};
use signal_hook_mio::v1_0::Signals as SignalPipe;

use crate::net::failure::cannot;
use crate::process::start::{SAME_WISH, Starting};
use crate::process::systemd::ServiceManager;
use crate::server::source::{Action, EventSource, LoopHandle, Notification};

/// Number of children reaped in one turn.
const REAPED: usize = 256;

/// The signals of a daemon; the table of decisions is at [`start`](crate::process::start). SIGTERM and SIGINT:
/// the first one drains, a second one ends at once with the status that a shell reports for a process that a
/// signal has ended, 128 plus its number.
///
/// It reaps every child that ends. A program that has children of its own cannot use it.
pub struct Signals {
    pipe: SignalPipe,
    starting: Starting,
    manager: ServiceManager,
    draining_since: Option<Instant>,
}

impl Signals {
    /// Installs the handlers. The service manager is told of the drain. The start ends when the source is
    /// added to a server, on the thread that does it.
    ///
    /// # Errors
    /// Those of sigaction(2), or no more files.
    pub fn install(starting: Starting, manager: ServiceManager) -> io::Result<Signals> {
        let taken = [SIGTERM, SIGINT, SIGALRM, SIGXCPU, SIGHUP, SIGUSR1, SIGCHLD];
        let pipe = SignalPipe::new(taken)
            .map_err(|e| cannot("make a pipe for the signals, with their handlers", &e))?;
        Ok(Signals { pipe, starting, manager, draining_since: None })
    }

    fn handle(&mut self, signal: i32, handle: &LoopHandle<'_>) -> Action {
        let is_second = |first| handle.now.saturating_duration_since(first) >= SAME_WISH;
        match signal {
            SIGUSR1 => info!("{handle}"),
            SIGHUP => info!("SIGHUP: there is no configuration to read again, nothing changes"),
            SIGCHLD => return reap(),
            _ if self.draining_since.is_none() => {
                self.draining_since = Some(handle.now);
                self.manager.stopping();
                return Action::Drain;
            }
            SIGTERM | SIGINT if self.draining_since.is_some_and(is_second) => {
                return Action::Stop(u8::try_from(128 + signal).unwrap_or(u8::MAX));
            }
            // The same wish, or a time limit, which comes again by itself.
            _ => {}
        }
        Action::Continue
    }
}

/// Reaps children that have ended: a first process is given all orphans, and each would stay a zombie.
fn reap() -> Action {
    for _ in 0..REAPED {
        let Ok(Some(_)) = wait(WaitOptions::NOHANG) else { return Action::Continue };
    }
    Action::Again
}

impl EventSource for Signals {
    fn register(&mut self, handle: &LoopHandle<'_>) -> io::Result<()> {
        handle.register(&mut self.pipe, 0, Interest::READABLE)?;
        // Those that ended before this program began have sent their signal to another one.
        reap();
        self.starting.end()
    }

    fn notify(&mut self, what: Notification, handle: &LoopHandle<'_>) -> io::Result<Action> {
        let number = match what {
            Notification::Ready { number, .. } => number,
            Notification::Again => return Ok(reap()),
            _ => return Ok(Action::Continue),
        };
        let pending: Vec<i32> = self.pipe.pending().collect();
        let actions = pending.into_iter().map(|signal| self.handle(signal, handle));
        let strongest = actions.fold(Action::Continue, Action::stronger);
        // The pipe was emptied without a would-block that mio has seen. Over poll(2) it must be armed again,
        // or a second signal would not be heard.
        handle.reregister(&mut self.pipe, number, Interest::READABLE)?;
        Ok(strongest)
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let draining_since = &self.draining_since;
        f.debug_struct("Signals").field("draining_since", draining_since).finish_non_exhaustive()
    }
}
