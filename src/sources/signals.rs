//! Signals as events.
//!
//! A signal can arrive between any two instructions, where a handler may do next to nothing. The self-pipe
//! trick makes an event of it: the handler writes a byte to a pipe, and the pipe becomes readable.

use std::fmt;
use std::io;

use log::info;
use mio::Interest;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_mio::v1_0::Signals as SignalPipe;

use crate::process::systemd::ServiceManager;
use crate::server::source::{Action, EventSource, LoopHandle, Notification};

/// The signals of a daemon. SIGTERM and SIGINT: the first one drains, the second one ends at once with the
/// status that a shell reports for a process that a signal has ended, 128 plus its number. SIGUSR1 logs the
/// line of counters. SIGHUP is logged and changes nothing, since there is no configuration file. SIGUSR2,
/// which would end the process, is ignored, and the standard library ignores SIGPIPE.
///
/// The handlers are installed also where the process is PID 1, for which the kernel has no default action.
pub struct Signals {
    pipe: SignalPipe,
    manager: ServiceManager,
    draining: bool,
}

impl Signals {
    /// Installs the handlers. The service manager is told of the drain.
    ///
    /// # Errors
    /// Those of sigaction(2), or no more files.
    pub fn install(manager: ServiceManager) -> io::Result<Signals> {
        let pipe = SignalPipe::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
        Ok(Signals { pipe, manager, draining: false })
    }

    fn handle(&mut self, signal: i32, handle: &LoopHandle<'_>) -> Action {
        match signal {
            SIGUSR1 => info!("{handle}"),
            SIGUSR2 => {}
            SIGHUP => info!("SIGHUP: there is no configuration to read again, nothing changes"),
            end if self.draining => {
                return Action::Stop(u8::try_from(128 + end).unwrap_or(u8::MAX));
            }
            _ => {
                self.draining = true;
                self.manager.stopping();
                return Action::Drain;
            }
        }
        Action::Continue
    }
}

impl EventSource for Signals {
    fn register(&mut self, handle: &LoopHandle<'_>) -> io::Result<()> {
        handle.register(&mut self.pipe, 0, Interest::READABLE)
    }

    fn notify(&mut self, what: Notification, handle: &LoopHandle<'_>) -> io::Result<Action> {
        let Notification::Ready { number, .. } = what else { return Ok(Action::Continue) };
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
        f.debug_struct("Signals").field("draining", &self.draining).finish_non_exhaustive()
    }
}
