//! Progress on stderr. It is written on a thread of its own: a terminal that was stopped must not hold up
//! the run or its signals.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use echoloop::cli;
use echoloop::load::Update;
use echoloop::process::threads;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::options::{NAME, Options};

/// Number of lines that may wait to be written.
const LINES: usize = 8;

/// How long to wait for a stderr that nobody reads.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often to wait for one that has room: it is the machine that is busy.
const TIMES: usize = 20;

/// What of the run is shown while it goes on.
#[derive(Debug)]
pub struct Progress {
    /// `None` where nothing is shown.
    writer: Option<Writer>,
    left_out: u64,
}

#[derive(Debug)]
struct Writer {
    updates: SyncSender<Update>,
    finished: Receiver<()>,
    /// Nobody waits for the last line any more: it would get into the report.
    is_abandoned: Arc<AtomicBool>,
}

/// One line that is rewritten on a terminal; otherwise lines, if an interval was asked for.
enum View {
    Bar(ProgressBar),
    Lines,
}

impl Progress {
    /// Starts the thread, if anything is to be shown.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(options: &Options) -> io::Result<Progress> {
        let writer = View::new(options).map(Writer::start).transpose()?;
        Ok(Progress { writer, left_out: 0 })
    }

    /// Shows an update, if the ones before it have been written.
    pub fn offer(&mut self, update: &Update) {
        if let Some(writer) = &self.writer {
            self.left_out += u64::from(writer.updates.try_send(update.clone()).is_err());
        }
    }

    /// Clears the line on a terminal. Returns the number of updates that were not shown.
    pub fn finish(self) -> u64 {
        if let Some(Writer { updates, finished, is_abandoned }) = self.writer {
            drop(updates);
            if io::stdout().is_terminal() && io::stderr().is_terminal() {
                // The report would wait just as long.
                let _ = finished.recv();
            } else if !is_done(&finished) {
                is_abandoned.store(true, Ordering::Release);
            }
        }
        self.left_out
    }
}

impl Writer {
    fn start(view: View) -> io::Result<Writer> {
        let (updates, receiver) = mpsc::sync_channel(LINES);
        let (done, finished) = mpsc::channel();
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let abandoned = Arc::clone(&is_abandoned);
        let write = move || {
            receiver.iter().take_while(|_| !abandoned.load(Ordering::Acquire)).for_each(|update| {
                view.show(&update);
            });
            if !abandoned.load(Ordering::Acquire) {
                view.finish();
            }
            let _ = done.send(());
        };
        threads::spawn("progress", write)?;
        Ok(Writer { updates, finished, is_abandoned })
    }
}

impl View {
    fn new(options: &Options) -> Option<View> {
        if options.quiet {
            return None;
        }
        let bar = ProgressBar::new_spinner();
        // Hidden where stderr is no terminal, or one that cannot rewrite a line.
        if bar.is_hidden() {
            return options.interval.map(|_| View::Lines);
        }
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Some(View::Bar(bar))
    }

    fn show(&self, update: &Update) {
        match self {
            View::Bar(bar) => bar.set_message(update.to_string()),
            // The run goes on even if its progress cannot be written.
            View::Lines => drop(io::stderr().write_all(format!("{update}\n").as_bytes())),
        }
    }

    fn finish(&self) {
        if let View::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Writes a line about a failure to stderr, and does not wait for long if nobody reads it.
pub fn complain(why: &str) {
    cli::complain_within(NAME, why, PATIENCE);
}

/// Waits until a thread has written to stderr, but not for one that nobody reads.
fn is_done(done: &Receiver<()>) -> bool {
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    for _ in 0..TIMES {
        if done.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
            return true;
        }
        let stderr = io::stderr();
        if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&none)) == Ok(0) {
            return false;
        }
    }
    false
}
