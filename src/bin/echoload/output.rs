//! The output of the report. It is written on a thread of its own: a pipe that nobody reads must not hold
//! up the run or its signals.

use std::io::{self, ErrorKind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use echoloop::load::results::json;
use echoloop::load::{Interval, Stopper};
use echoloop::process::threads;

use crate::destination::Destination;
use crate::progress::complain;

/// Number of intervals that may wait to be written.
const INTERVALS: usize = 32;

/// How long the report may wait for its reader without a word.
const SILENCE: Duration = Duration::from_secs(1);

/// Intervals, which are left out if their reader is slow, and the report, which never is.
#[derive(Debug)]
pub struct Output {
    name: String,
    intervals: SyncSender<Interval>,
    report: Sender<Vec<u8>>,
    written: Receiver<io::Result<()>>,
    left_out: u64,
}

impl Output {
    /// Starts the thread. A reader that has gone ends the run through the stopper: nobody would ever see
    /// its report.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(destination: Destination, stopper: Stopper) -> io::Result<Output> {
        let name = destination.name().to_owned();
        let (intervals, interval_receiver) = mpsc::sync_channel(INTERVALS);
        let (report, report_receiver) = mpsc::channel();
        let (result, written) = mpsc::channel();
        let write = move || {
            let written = write(destination, &interval_receiver, &report_receiver, &stopper);
            let _ = result.send(written);
        };
        threads::spawn("output", write)?;
        Ok(Output { name, intervals, report, written, left_out: 0 })
    }

    /// Writes an interval, if the ones before it have been written.
    pub fn offer(&mut self, interval: &Interval) {
        self.left_out += u64::from(self.intervals.try_send(interval.clone()).is_err());
    }

    /// Returns the number of intervals that are not written.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Writes the report behind the intervals, and returns what is left to wait for.
    pub fn report(self, report: Vec<u8>) -> Writing {
        let _ = self.report.send(report);
        Writing { name: self.name, written: self.written }
    }
}

/// A report that is being written.
#[derive(Debug)]
pub struct Writing {
    name: String,
    written: Receiver<io::Result<()>>,
}

impl Writing {
    /// Waits until all is written, however long its reader takes.
    ///
    /// # Errors
    /// Those of the output.
    pub fn wait(self) -> io::Result<()> {
        let panicked = || Err(io::Error::other("its thread panicked"));
        let written = match self.written.recv_timeout(SILENCE) {
            Err(RecvTimeoutError::Timeout) => {
                complain(&format!(
                    "the report waits until {} is read; another signal ends without it",
                    self.name
                ));
                self.written.recv().unwrap_or_else(|_| panicked())
            }
            Err(RecvTimeoutError::Disconnected) => panicked(),
            Ok(written) => written,
        };
        written.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.name)))
    }
}

fn write(
    destination: Destination,
    intervals: &Receiver<Interval>,
    report: &Receiver<Vec<u8>>,
    stopper: &Stopper,
) -> io::Result<()> {
    let written = intervals.iter().try_for_each(|interval| {
        let mut line = Vec::new();
        json::write_interval(&mut line, &interval)?;
        destination.write_all(&line)
    });
    if let Err(e) = &written
        && matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
    {
        stopper.stop();
        let error = format!("{e}: its reader is gone, so the run was ended");
        return Err(io::Error::new(e.kind(), error));
    }
    // The rest of the intervals is left out. There may be room again for the report.
    intervals.iter().for_each(drop);
    let Ok(mut report) = report.recv() else { return Ok(()) };
    if written.is_err() {
        // The line before it may be cut.
        report.insert(0, b'\n');
    }
    written.and(destination.complete(&report))
}
