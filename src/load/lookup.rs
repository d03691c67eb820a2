//! Looks the name of the target up again while the load runs.
//!
//! A lookup waits, and nobody knows for how long (getaddrinfo(3)). So each has a thread of its own, and no
//! loop waits for it: the loops take its answer when they next connect. A lookup that never ends costs one
//! thread, and no other is begun.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::net::address::Address;
use crate::net::endpoint::Endpoint;

/// The least time between the beginnings of two lookups.
const PAUSE: Duration = Duration::from_secs(1);

/// A name, and what the last lookup of it has found.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// `None` if the target has no name.
    name: Option<Endpoint>,
    begun: Mutex<Option<Begun>>,
    found: Arc<Found>,
}

#[derive(Debug)]
struct Begun {
    at: Instant,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Found {
    /// Number of answers.
    version: AtomicUsize,
    addresses: Mutex<Vec<Address>>,
}

impl Lookup {
    pub(crate) fn new(name: Option<Endpoint>) -> Lookup {
        Lookup { name, begun: Mutex::default(), found: Arc::default() }
    }

    /// Begins a lookup, unless the last one began within a second or has not ended.
    pub(crate) fn ask(&self, now: Instant) {
        let Some(name) = &self.name else { return };
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let is_busy = begun.as_ref().is_some_and(|last| {
            let is_running = last.thread.as_ref().is_some_and(|thread| !thread.is_finished());
            is_running || now.saturating_duration_since(last.at) < PAUSE
        });
        if is_busy {
            return;
        }
        let (name, found) = (name.clone(), Arc::clone(&self.found));
        let look_up = move || {
            // A name that cannot be looked up now keeps the addresses that are known.
            if let Ok(addresses) = name.resolve() {
                *found.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
                found.version.fetch_add(1, Ordering::Release);
            }
        };
        // It shares the file table of the loop: a copy would keep open what the loop closes.
        let thread = thread::Builder::new().name("lookup".into()).spawn(look_up).ok();
        *begun = Some(Begun { at: now, thread });
    }

    /// Returns the addresses that were found, if they are newer than `version`, and updates that.
    pub(crate) fn newer(&self, version: &mut usize) -> Option<Vec<Address>> {
        let latest = self.found.version.load(Ordering::Acquire);
        if latest == *version {
            return None;
        }
        *version = latest;
        Some(self.found.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_on_a_thread_of_its_own_and_at_most_every_second() {
        let lookup = Lookup::new(Some("localhost:7".parse().expect("an endpoint")));
        let (mut version, mut found) = (0, None);
        assert_eq!(lookup.newer(&mut version), None);
        let begun = Instant::now();
        lookup.ask(begun);
        while found.is_none() && begun.elapsed() < Duration::from_secs(60) {
            thread::yield_now();
            found = lookup.newer(&mut version);
        }
        assert!(found.is_some_and(|addresses| !addresses.is_empty()));
        lookup.ask(begun + PAUSE / 2);
        assert_eq!(lookup.begun.lock().unwrap().as_ref().unwrap().at, begun);
        lookup.ask(begun + PAUSE);
        assert_ne!(lookup.begun.lock().unwrap().as_ref().unwrap().at, begun);
    }

    #[test]
    fn a_target_without_a_name_is_not_looked_up() {
        let lookup = Lookup::new(None);
        lookup.ask(Instant::now());
        assert!(lookup.begun.lock().unwrap().is_none());
    }
}
