//! Where log lines go: a bounded queue, and a thread that writes it to stderr.
//!
//! Writing a line can take forever: a paused terminal, a pipe that nobody reads, a full disk. The loop must
//! not wait for that. Lines for which the queue has no room, and lines that cannot be written, are dropped and
//! counted, and the process goes on.

use std::collections::VecDeque;
use std::env;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use env_logger::Target;
use log::{LevelFilter, warn};
use rustix::stdio::stderr;

use crate::cli::output::write_all;
use crate::net::escape::one_line;
use crate::process::threads;

/// Number of lines that may wait.
const LINES: usize = 1024;

/// How long the end of the process waits for its last lines.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// The log of the process, from [`install`] on.
#[derive(Debug, Clone)]
pub struct LogSink(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    dropped: u64,
    /// The last write failed. Until one succeeds, what was dropped is not told: it could not be.
    is_failing: bool,
    /// A line has left the queue and is not written yet.
    is_writing: bool,
}

/// Sends the log to stderr, from `level` up. `RUST_LOG`, where set, wins.
///
/// # Errors
/// The thread could not be started.
pub fn install(level: LevelFilter) -> io::Result<LogSink> {
    let sink = LogSink(Arc::default());
    let mut logger = env_logger::Builder::new();
    logger.format_timestamp_millis().target(Target::Pipe(Box::new(sink.clone())));
    // Checked here: the logger would print its complaint to a stderr that may block forever.
    let spec = env::var("RUST_LOG").ok();
    let error = spec.as_ref().and_then(|spec| env_filter::Builder::new().try_parse(spec).err());
    match spec.filter(|spec| error.is_none() && !spec.trim().is_empty()) {
        Some(spec) => logger.parse_filters(&spec),
        // Mio's trace repeats ours.
        None => logger.filter_level(level).filter_module("mio", level.min(LevelFilter::Info)),
    };
    logger.init();
    let writer = sink.clone();
    threads::spawn("log", move || writer.write_lines())?;
    if let Some(e) = error {
        warn!("RUST_LOG is left out: {e}");
    }
    Ok(sink)
}

impl LogSink {
    /// Waits until all lines are written, but not for long.
    pub fn wait_until_written(&self) {
        let is_unfinished = |queue: &mut Queue| queue.is_writing || queue.has_more();
        drop(self.0.changed.wait_timeout_while(self.lock(), END_TIMEOUT, is_unfinished));
    }

    fn write_lines(&self) {
        loop {
            let (line, dropped) = self.next_line();
            let is_failing = write_all(stderr(), &line).is_err();
            let mut queue = self.lock();
            queue.is_writing = false;
            queue.is_failing = is_failing;
            if is_failing {
                queue.dropped += dropped.unwrap_or(1);
            }
            self.0.changed.notify_all();
        }
    }

    /// Waits for the next line. Where lines were dropped, that is a line which says how many, behind those
    /// that were not. It does not go through the logger, whose level or full queue could drop it too.
    fn next_line(&self) -> (Vec<u8>, Option<u64>) {
        let is_idle = |queue: &mut Queue| !queue.has_more();
        let waited = self.0.changed.wait_while(self.lock(), is_idle);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.is_writing = true;
        if let Some(line) = queue.lines.pop_front() {
            return (line, None);
        }
        let dropped = mem::take(&mut queue.dropped);
        let line =
            format!("{dropped} log lines were dropped, stderr was too slow for them or failed\n");
        (line.into(), Some(dropped))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn has_more(&self) -> bool {
        !self.lines.is_empty() || (self.dropped > 0 && !self.is_failing)
    }
}

/// One call is one line: the logger formats it whole before it writes.
impl Write for LogSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.lock();
        if queue.lines.len() < LINES {
            let line = one_line(&String::from_utf8_lossy(line));
            queue.lines.push_back((line + "\n").into());
            self.0.changed.notify_all();
        } else {
            queue.dropped += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
