//! The event source: a listener, and a few clients.

use std::io;
use std::time::{Duration, Instant};

use log::debug;
use mio::Interest;
use slab::Slab;

use crate::net::address::Address;
use crate::net::endpoint::Endpoint;
use crate::net::ready::{self, Readiness};
use crate::server::listener::{ListenOptions, Listeners};
use crate::server::source::{Action, EventSource, LoopHandle, Notification};
use crate::sources::metrics::client::Client;
use crate::sources::metrics::exposition;

/// Number of clients at once. More wait in the backlog. Their files are taken from those of the daemon's own
/// clients, so they are few.
pub const CLIENTS: usize = 4;

/// Number of the first client. The numbers below it are those of the listeners.
const FIRST_CLIENT: usize = 64;

/// How long a client may take, from accept to its end. A slower one is in the way of the others.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Serves the counters at `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    listeners: Listeners,
    clients: Slab<Client>,
    /// A time that has passed: what is due then is due at once.
    start: Instant,
}

impl Metrics {
    /// Binds the listener.
    ///
    /// # Errors
    /// Those of [`Listeners::bind`].
    pub fn bind(endpoint: Endpoint) -> io::Result<Metrics> {
        let listeners = Listeners::bind(&[endpoint], &ListenOptions::default())?;
        if listeners.addresses().len() > FIRST_CLIENT {
            return Err(io::Error::other("the name has too many addresses for the metrics"));
        }
        Ok(Metrics { listeners, clients: Slab::new(), start: Instant::now() })
    }

    /// Returns the addresses of the listener.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.addresses()
    }

    fn accept(&mut self, handle: &LoopHandle<'_>) {
        self.listeners.begin_turn();
        while self.clients.len() < CLIENTS {
            let Some((mut socket, peer)) = self.listeners.accept(handle.now) else { break };
            let entry = self.clients.vacant_entry();
            let number = FIRST_CLIENT + entry.key();
            match handle.register(&mut socket, number, ready::interest()) {
                Ok(()) => drop(entry.insert(Client::new(socket, handle.now + TIMEOUT))),
                Err(e) => debug!("metrics: cannot watch the connection of {peer}: {e}"),
            }
        }
    }

    fn ready(&mut self, number: usize, readiness: Readiness, handle: &LoopHandle<'_>) {
        let Some(key) = number.checked_sub(FIRST_CLIENT) else {
            return self.listeners.latch(number);
        };
        let Some(client) = self.clients.get_mut(key) else { return };
        client.latch(readiness);
        let done = client.drive(|| exposition::write(handle)).unwrap_or_else(|e| {
            debug!("metrics: {e}");
            true
        });
        if done {
            self.close(key);
        }
    }

    fn close_late(&mut self, now: Instant) {
        let late = self.clients.iter().filter(|(_, client)| client.deadline <= now);
        let late: Vec<usize> = late.map(|(key, _)| key).collect();
        for key in late {
            self.close(key);
        }
    }

    fn close(&mut self, key: usize) {
        self.clients.remove(key);
        self.listeners.end_pause();
    }
}

impl EventSource for Metrics {
    fn register(&mut self, handle: &LoopHandle<'_>) -> io::Result<()> {
        self.listeners
            .register(|socket, number| handle.register(socket, number, Interest::READABLE))
    }

    fn notify(&mut self, what: Notification, handle: &LoopHandle<'_>) -> io::Result<Action> {
        match what {
            Notification::Ready { number, readiness } => {
                self.ready(number, readiness, handle);
                // Accept last, as the server does: no key is used again within a batch of events.
                return Ok(Action::Again);
            }
            Notification::Due => {
                self.close_late(handle.now);
                self.accept(handle);
            }
            Notification::Again => self.accept(handle),
            Notification::Woken | Notification::Drain => {}
        }
        Ok(Action::Continue)
    }

    fn due(&self) -> Option<Instant> {
        let accept = self.listeners.due(self.start).filter(|_| self.clients.len() < CLIENTS);
        self.clients.iter().map(|(_, client)| client.deadline).chain(accept).min()
    }
}
