//! Progress on stderr.

use std::io::{self, IsTerminal, Write};

use echoloop::load::Interval;
use indicatif::{ProgressBar, ProgressStyle};

use crate::options::Options;

/// One line that is rewritten on a terminal; otherwise lines, if an interval was asked for.
pub enum Progress {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Progress {
    pub fn new(options: &Options) -> Progress {
        if options.quiet {
            Progress::Silent
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            Progress::Bar(bar)
        } else if options.interval.is_some() {
            Progress::Lines
        } else {
            Progress::Silent
        }
    }

    pub fn show(&self, interval: &Interval) {
        match self {
            Progress::Bar(bar) => bar.set_message(interval.to_string()),
            // The run goes on even if its progress cannot be written.
            Progress::Lines => drop(writeln!(io::stderr(), "{interval}")),
            Progress::Silent => {}
        }
    }

    pub fn finish(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
