//! SIGINT and SIGTERM end the run early.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use echoloop::load::Stopper;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// A signal that follows the first one this fast is the same request: timeout(1), for example, signals
/// the process and then its group.
const SAME_REQUEST: Duration = Duration::from_millis(100);

/// Handles signals on a thread of its own from now on. The first signal ends the run through the
/// stopper, once that is set. A signal before that, or a second one, ends the process with the status
/// that a shell gives it, 128 and the number of the signal.
///
/// # Errors
/// The handlers could not be installed, or the thread could not be started.
pub fn handle() -> io::Result<Arc<OnceLock<Stopper>>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stopper = Arc::new(OnceLock::<Stopper>::new());
    let shared = Arc::clone(&stopper);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut first = None;
        for signal in signals.forever() {
            match (shared.get(), first) {
                (Some(stopper), None) => {
                    stopper.stop();
                    first = Some(Instant::now());
                }
                (Some(_), Some(first)) if Instant::elapsed(&first) < SAME_REQUEST => {}
                _ => low_level::exit(128 + signal),
            }
        }
    })?;
    Ok(stopper)
}
