//! SIGINT, SIGTERM and SIGHUP end the run early.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use echoloop::load::Stopper;
use echoloop::process::start::SAME_WISH;
use echoloop::process::threads;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Iterator;
use signal_hook::low_level;

use crate::destination;
use crate::progress::complain;

/// The signals that end the load tester.
#[derive(Debug, Clone, Default)]
pub struct Signals(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stopper: OnceLock<Stopper>,
    have_come: AtomicBool,
}

impl Signals {
    /// Handles signals on a thread of its own from now on. The first signal ends the run, once there is
    /// one. A signal before that, or a second one, ends the process with the status that a shell gives it,
    /// 128 and the number of the signal.
    ///
    /// # Errors
    /// The handlers could not be installed, or the thread could not be started.
    pub fn handle() -> io::Result<Signals> {
        let mut iterator = Iterator::new([SIGTERM, SIGINT])?;
        if !is_hang_up_ignored() {
            iterator.add_signal(SIGHUP)?;
        }
        let signals = Signals::default();
        let shared = signals.clone();
        let handler = move || {
            let mut first = None;
            for signal in iterator.forever() {
                shared.come(signal, &mut first);
            }
        };
        threads::spawn("signals", handler)?;
        Ok(signals)
    }

    /// From now on the first signal ends this run.
    pub fn stop(&self, stopper: Stopper) {
        let _ = self.0.stopper.set(stopper);
    }

    /// Returns whether a signal has ended the run.
    pub fn have_come(&self) -> bool {
        self.0.have_come.load(Ordering::Acquire)
    }

    fn come(&self, signal: i32, first: &mut Option<Instant>) {
        match (self.0.stopper.get(), *first) {
            (Some(stopper), None) => {
                self.0.have_come.store(true, Ordering::Release);
                stopper.stop();
                *first = Some(Instant::now());
            }
            (Some(_), Some(first)) if first.elapsed() < SAME_WISH => {}
            (stopper, _) => {
                if stopper.is_none() {
                    let name = low_level::signal_name(signal).unwrap_or("a signal");
                    complain(&format!("{name} came before the run began, there is no report"));
                }
                destination::remove_unfinished();
                low_level::exit(128 + signal)
            }
        }
    }
}

/// Returns whether the process was started with SIGHUP ignored, as by nohup(1), which then has its way.
fn is_hang_up_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}
