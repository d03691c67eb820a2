//! Signals as events.
//!
//! A signal may come between any two instructions, where next to nothing is allowed. The self-pipe
//! trick turns it into something that a loop can wait for: the handler writes a byte into a pipe, and
//! the pipe becomes readable.

use std::io;

use mio::event::Event;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals as SignalPipe;

use crate::guest::{Guest, Wish};

/// SIGTERM and SIGINT: the first one drains, the second one stops at once with the status that a
/// shell gives a process that a signal ended, 128 and its number.
///
/// They are installed explicitly, which a process that runs as PID 1 needs: the kernel gives that one
/// no default action.
pub struct Signals {
    pipe: SignalPipe,
    draining: bool,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// Those of sigaction(2), or no more files.
    pub fn install() -> io::Result<Signals> {
        Ok(Signals { pipe: SignalPipe::new([SIGTERM, SIGINT])?, draining: false })
    }
}

impl Guest for Signals {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.pipe, token, Interest::READABLE)
    }

    fn ready(&mut self, registry: &Registry, event: &Event) -> io::Result<Wish> {
        let mut wish = Wish::Nothing;
        for signal in self.pipe.pending() {
            let status = u8::try_from(128 + signal).unwrap_or(u8::MAX);
            wish = if self.draining { Wish::Stop(status) } else { Wish::Drain };
            self.draining = true;
        }
        // The pipe is emptied behind mio's back: over poll(2), which mio arms again only when it has
        // seen a would-block, a second signal would not be heard.
        registry.reregister(&mut self.pipe, event.token(), Interest::READABLE)?;
        Ok(wish)
    }
}
