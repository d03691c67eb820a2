//! Signals as events.
//!
//! A signal may come between any two instructions, where next to nothing is allowed. The self-pipe
//! trick turns it into something that a loop can wait for: the handler writes a byte into a pipe, and
//! the pipe becomes readable.

use std::io;

use log::info;
use mio::event::Event;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_mio::v1_0::Signals as SignalPipe;

use crate::process::systemd;
use crate::server::counters::Counters;
use crate::server::source::{Guest, Host, Wish};

/// SIGTERM and SIGINT: the first one drains, the second one stops at once with the status that a
/// shell gives a process that a signal ended, 128 and its number.
///
/// They are installed explicitly, which a process that runs as PID 1 needs: the kernel gives that one
/// no default action.
pub struct Signals {
    pipe: SignalPipe,
    /// A service manager hears of the end.
    of_a_daemon: bool,
    draining: bool,
}

impl Signals {
    /// Those that end a program.
    ///
    /// # Errors
    /// Those of sigaction(2), or no more files.
    pub fn that_end() -> io::Result<Signals> {
        let pipe = SignalPipe::new([SIGTERM, SIGINT])?;
        Ok(Signals { pipe, of_a_daemon: false, draining: false })
    }

    /// Those that a daemon hears of: SIGUSR1 logs the counters; SIGHUP would read a configuration
    /// again, if there were one; SIGUSR2, which would end us, is ignored, and so is SIGPIPE, by the
    /// standard library.
    ///
    /// # Errors
    /// Those of sigaction(2), or no more files.
    pub fn of_a_daemon() -> io::Result<Signals> {
        let signals = Signals { of_a_daemon: true, ..Signals::that_end()? };
        for signal in [SIGHUP, SIGUSR1, SIGUSR2] {
            signals.pipe.add_signal(signal)?;
        }
        Ok(signals)
    }

    fn on(&mut self, signal: i32, counters: &Counters) -> Wish {
        match signal {
            SIGUSR1 => {
                info!("{counters}");
                Wish::Nothing
            }
            SIGUSR2 => Wish::Nothing,
            SIGHUP => {
                info!("SIGHUP: there is no configuration to read again, nothing changes");
                Wish::Nothing
            }
            end if self.draining => Wish::Stop(u8::try_from(128 + end).unwrap_or(u8::MAX)),
            _ => {
                self.draining = true;
                if self.of_a_daemon {
                    systemd::stopping();
                }
                Wish::Drain
            }
        }
    }
}

impl Guest for Signals {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.pipe, token, Interest::READABLE)
    }

    fn ready(&mut self, host: &Host<'_>, event: &Event) -> io::Result<Wish> {
        let pending: Vec<i32> = self.pipe.pending().collect();
        // The one that asks for most is granted.
        let wish = pending.into_iter().map(|signal| self.on(signal, host.counters)).max();
        // The pipe is emptied behind mio's back: over poll(2), which mio arms again only when it has
        // seen a would-block, a second signal would not be heard.
        host.registry.reregister(&mut self.pipe, event.token(), Interest::READABLE)?;
        Ok(wish.unwrap_or(Wish::Nothing))
    }
}
