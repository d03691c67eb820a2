//! What the daemon says when all is bound: the addresses on stdout, and `READY=1` to the service manager.
//! Both may wait, so each has a thread of its own.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use log::warn;
use rustix::stdio::stdout;

use echoloop::Address;
use echoloop::cli::output::write_all;
use echoloop::process::systemd::ServiceManager;
use echoloop::process::threads;

/// How long `READY=1` waits for the addresses. A stdout that nobody reads must not make the manager take the
/// start for a failure.
const PRINT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the end of the process waits for a message that is not out yet.
const END_TIMEOUT: Duration = Duration::from_millis(100);

/// Messages that are on their way. Each thread drops its sender when it is done.
pub struct Announcement {
    printed: Receiver<()>,
    heard: Receiver<()>,
}

/// Begins to print the addresses and to notify the manager. All addresses are one write, so that a program
/// which has read the first line can read them all.
pub fn announce(addresses: &[Address], manager: ServiceManager) -> io::Result<Announcement> {
    let mut lines = Vec::new();
    for address in addresses {
        writeln!(lines, "{address}")?;
    }
    let (printing, printed) = mpsc::channel();
    let (first_printing, first_printed) = mpsc::channel();
    threads::spawn("addresses", move || {
        if let Err(e) = write_all(stdout(), &lines) {
            warn!("cannot print the addresses: {e}");
        }
        drop((printing, first_printing));
    })?;
    let (telling, heard) = mpsc::channel();
    if manager.is_there() {
        threads::spawn("service manager", move || {
            let _: Result<(), _> = first_printed.recv_timeout(PRINT_TIMEOUT);
            manager.ready();
            drop(telling);
        })?;
    }
    Ok(Announcement { printed, heard })
}

impl Announcement {
    /// Warns of messages that are not out yet.
    pub fn end(&self) {
        if is_unfinished(&self.printed) {
            warn!("cannot print the addresses: nobody reads stdout");
        }
        if is_unfinished(&self.heard) {
            warn!("cannot notify the service manager: it has not taken READY=1 yet");
        }
    }
}

fn is_unfinished(thread: &Receiver<()>) -> bool {
    thread.recv_timeout(END_TIMEOUT) == Err(RecvTimeoutError::Timeout)
}
