//! Where log lines go: a bounded queue, and a thread that writes it to stderr.
//!
//! A terminal that is paused, a pipe that nobody reads, a full disk: to write a log line can take for
//! ever, and the loop has other things to do. What the queue has no room for is dropped and counted,
//! and what cannot be written is no reason to die.

use std::collections::VecDeque;
use std::env;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use env_logger::Target;
use log::{LevelFilter, warn};

use crate::cli;

/// Lines that may wait.
const LINES: usize = 1024;

/// How long the end of the program may be held up by its last lines.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The daemon's log, from [`install`] on.
#[derive(Clone)]
pub struct LogSink(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    dropped: u64,
    /// A line has left the queue and is not yet written.
    writing: bool,
}

/// Sends the log to stderr, from `level` up. `RUST_LOG`, where set, wins.
///
/// # Errors
/// No thread could be started.
pub fn install(level: LevelFilter) -> io::Result<LogSink> {
    let sink = LogSink(Arc::default());
    let mut logger = env_logger::Builder::new();
    logger.format_timestamp_millis().target(Target::Pipe(Box::new(sink.clone())));
    // Not by way of the logger's own reading, which would print what is wrong with it where a stderr
    // that nobody reads may hold it for ever.
    let spec = env::var("RUST_LOG").ok();
    let wrong = spec.as_ref().and_then(|spec| env_filter::Builder::new().try_parse(spec).err());
    match spec.filter(|spec| wrong.is_none() && !spec.trim().is_empty()) {
        Some(spec) => logger.parse_filters(&spec),
        // What mio says at its lowest level repeats what we say.
        None => logger.filter_level(level).filter_module("mio", level.min(LevelFilter::Info)),
    };
    logger.init();
    let writer = sink.clone();
    thread::Builder::new().name("log".into()).spawn(move || writer.write_to(io::stderr()))?;
    if let Some(e) = wrong {
        warn!("RUST_LOG is left out: {e}");
    }
    Ok(sink)
}

impl LogSink {
    /// Waits until what was logged is written, but not for long.
    pub fn wait_until_written(&self) {
        let unfinished =
            |queue: &mut Queue| queue.writing || queue.dropped > 0 || !queue.lines.is_empty();
        drop(self.0.changed.wait_timeout_while(self.lock(), LAST_WORDS, unfinished));
    }

    fn write_to(&self, mut out: impl Write) {
        loop {
            let mut queue = self.lock();
            if let Some(line) = queue.lines.pop_front() {
                queue.writing = true;
                drop(queue);
                // A log that cannot be written is lost; there is nobody left to tell.
                let _ = out.write_all(&line);
                self.lock().writing = false;
                self.0.changed.notify_all();
            } else if queue.dropped > 0 {
                let dropped = mem::take(&mut queue.dropped);
                queue.writing = true;
                drop(queue);
                // Not through the logger, whose level or whose full queue might drop this line too.
                let line =
                    format!("{dropped} log lines were dropped, stderr was too slow for them\n");
                let _ = out.write_all(line.as_bytes());
                self.lock().writing = false;
                self.0.changed.notify_all();
            } else {
                drop(self.0.changed.wait(queue));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call is one line: the logger formats it whole before it writes.
impl Write for LogSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.lock();
        if queue.lines.len() < LINES {
            // Whatever it quotes, it stays one line, and leaves a terminal alone.
            let line = cli::one_line(&String::from_utf8_lossy(line));
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
