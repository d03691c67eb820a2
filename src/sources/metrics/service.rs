//! The event source: a listener, and a few connections.

use std::io;
use std::time::{Duration, Instant};

use log::debug;
use mio::Interest;
use slab::Slab;

use crate::net::address::Address;
use crate::net::endpoint::Endpoint;
use crate::net::ready::{self, Readiness};
use crate::net::socket::Socket;
use crate::server::connection::{Connection, Progress};
use crate::server::context::Context;
use crate::server::listener::{ListenOptions, Listeners};
use crate::server::source::{Action, EventSource, LoopHandle, Notification};
use crate::sources::metrics::http::Http;

/// Number of clients at once. More wait in the backlog. Their files are taken from those of the daemon's own
/// clients, so they are few.
pub const CLIENTS: usize = 4;

/// Number of the first client. The numbers below it are those of the listeners.
const FIRST_CLIENT: usize = 64;

/// How long a client may take, from accept to its end.
const TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a client that has not sent its request, or has had its response, keeps its place when
/// another one waits. A request comes directly behind the connect, so this is long; and short enough that
/// many who never ask delay a scrape by a fraction of a second.
const GRACE: Duration = Duration::from_millis(100);

/// Most bytes of a response, and more than a request may have.
const BUFFER: usize = 64 * 1024;

/// Serves the counters at `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    listeners: Listeners,
    clients: Slab<Client>,
    context: Context<Http>,
    /// A time in the past, for what is due at once.
    start: Instant,
}

#[derive(Debug)]
struct Client {
    connection: Connection<Socket, Http>,
    since: Instant,
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
        let start = Instant::now();
        let context = Context::new(Http::default(), BUFFER, start);
        Ok(Metrics { listeners, clients: Slab::new(), context, start })
    }

    /// Returns the addresses of the listener.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.addresses()
    }

    /// Accepts while there is a place. When all are taken, a newcomer gets that of the oldest client that
    /// gives way.
    fn accept(&mut self, handle: &LoopHandle<'_>) {
        self.listeners.begin_turn();
        loop {
            let giving_way = match self.clients.len() {
                ..CLIENTS => None,
                _ => match self.giving_way() {
                    Some((since, key)) if since + GRACE <= handle.now => Some(key),
                    _ => break,
                },
            };
            let Some((mut socket, peer)) = self.listeners.accept(handle.now) else { break };
            if let Some(key) = giving_way {
                debug!("metrics: a client without a request gives way to {peer}");
                self.close(key);
            }
            let entry = self.clients.vacant_entry();
            let number = FIRST_CLIENT + entry.key();
            if let Err(e) = handle.register(&mut socket, number, ready::interest()) {
                debug!("metrics: cannot watch the connection of {peer}: {e}");
                continue;
            }
            let connection = Connection::new(socket, handle.now);
            entry.insert(Client { connection, since: handle.now });
        }
    }

    /// Returns the oldest client that is owed nothing, and since when it is here: it has not sent a whole
    /// request, or it has been answered.
    fn giving_way(&self) -> Option<(Instant, usize)> {
        let owed_nothing = self.clients.iter().filter(|(_, client)| client.connection.is_settled());
        owed_nothing.map(|(key, client)| (client.since, key)).min()
    }

    fn ready(&mut self, number: usize, readiness: Readiness, handle: &LoopHandle<'_>) {
        match number.checked_sub(FIRST_CLIENT) {
            None => self.listeners.latch(number),
            Some(key) => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.connection.latch(readiness);
                    self.drive(key, handle);
                }
            }
        }
    }

    fn drive(&mut self, key: usize, handle: &LoopHandle<'_>) {
        self.context.now = handle.now;
        self.context.protocol.counters = handle.counters.clone();
        self.context.protocol.of_sources = handle.source_counters();
        match self.clients[key].connection.drive(&mut self.context) {
            Ok(Progress::Blocked | Progress::Lingering | Progress::Again) => {}
            Ok(Progress::Done) => self.close(key),
            Err(e) => {
                debug!("metrics: {e}");
                self.close(key);
            }
        }
    }

    /// Drives the clients that can go on without an event, closes those that are late, and accepts.
    fn serve(&mut self, handle: &LoopHandle<'_>) {
        for key in self.keys(|client| client.connection.is_runnable()) {
            self.drive(key, handle);
        }
        for key in self.keys(|client| client.since + TIMEOUT <= handle.now) {
            self.close(key);
        }
        self.accept(handle);
    }

    fn keys(&self, wanted: impl Fn(&Client) -> bool) -> Vec<usize> {
        self.clients.iter().filter(|(_, client)| wanted(client)).map(|(key, _)| key).collect()
    }

    fn close(&mut self, key: usize) {
        self.clients.remove(key).connection.close(&mut self.context);
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
            Notification::Due | Notification::Again => self.serve(handle),
            Notification::Woken | Notification::Drain => {}
        }
        let is_runnable = |(_, client): (usize, &Client)| client.connection.is_runnable();
        Ok(if self.clients.iter().any(is_runnable) { Action::Again } else { Action::Continue })
    }

    fn due(&self) -> Option<Instant> {
        let place = match self.clients.len() {
            ..CLIENTS => Some(self.start),
            _ => self.giving_way().map(|(since, _)| since + GRACE),
        };
        let accept = self.listeners.due(self.start).zip(place).map(|(owed, place)| owed.max(place));
        self.clients.iter().map(|(_, client)| client.since + TIMEOUT).chain(accept).min()
    }
}
