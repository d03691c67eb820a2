//! The counters over HTTP, in Prometheus's text format.
//!
//! A guest on the server's loop: it has a listener and a few clients of its own, driven like the
//! server's by readiness. They ask for one thing, and get it once: each response ends the connection.
//!
//! Sources: RFC 9112 (HTTP/1.1), and Prometheus's "Exposition formats" and "Metric and label naming".

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use log::debug;
use mio::event::Event;
use mio::{Registry, Token};
use slab::Slab;

use crate::config::Config;
use crate::counters::Counters;
use crate::endpoint::{Address, Endpoint};
use crate::guest::{Guest, TOKENS, Wish};
use crate::listener::{Listeners, Turn};
use crate::nonblocking::{self, Received, Sent, Stream};
use crate::ready;
use crate::socket::Socket;

/// Clients at once; more wait in the backlog. They are few so that with the daemon's own files they
/// stay within what its limit of connections leaves free.
const CLIENTS: usize = 4;

/// The tokens in front of the clients' are the listeners'.
const FIRST_CLIENT: usize = TOKENS - CLIENTS;

/// From the accept to the end of a client. Who takes longer is in the way of the others.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a request, its head included.
const REQUEST: usize = 8 * 1024;

const HEADERS: usize = 64;

/// Bytes discarded behind a request at most.
const DISCARD: usize = 64 * 1024;

/// Serves `/metrics`.
pub struct Metrics {
    listeners: Listeners,
    clients: Slab<Client>,
    registry: Option<Registry>,
    first_token: usize,
    /// When it was last called.
    now: Instant,
}

struct Client {
    socket: Socket,
    stage: Stage,
    deadline: Instant,
}

enum Stage {
    Asking(Vec<u8>),
    /// For the counters, or just for the head of their response.
    Asked {
        head_only: bool,
    },
    Answering {
        response: Vec<u8>,
        sent: usize,
    },
    /// As the server's connections do, so that a reset does not overtake the response.
    Lingering {
        discard: usize,
    },
}

impl Metrics {
    /// Binds its listener.
    ///
    /// # Errors
    /// Those of [`Listeners::bind`].
    pub fn bind(endpoint: Endpoint) -> io::Result<Metrics> {
        let config = Config { endpoints: vec![endpoint], ..Config::default() };
        let listeners = Listeners::bind(&config)?;
        if listeners.addresses().len() > FIRST_CLIENT {
            return Err(io::Error::other("the name has too many addresses for the metrics"));
        }
        let (clients, now) = (Slab::new(), Instant::now());
        Ok(Metrics { listeners, clients, registry: None, first_token: 0, now })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.addresses()
    }

    fn accept(&mut self) {
        let Some(registry) = &self.registry else { return };
        let mut turn = Turn::default();
        while self.clients.len() < CLIENTS {
            let Some((mut socket, peer)) = self.listeners.accept(&mut turn, self.now) else {
                break;
            };
            let entry = self.clients.vacant_entry();
            let token = Token(self.first_token + FIRST_CLIENT + entry.key());
            match registry.register(&mut socket, token, ready::interest()) {
                Ok(()) => drop(entry.insert(Client {
                    socket,
                    stage: Stage::Asking(Vec::new()),
                    deadline: self.now + PATIENCE,
                })),
                Err(e) => debug!("metrics: cannot watch the connection of {peer}: {e}"),
            }
        }
    }

    fn drive(&mut self, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        match client.drive() {
            Ok(false) => {}
            Ok(true) => self.close(key),
            Err(e) => {
                debug!("metrics: {e}");
                self.close(key);
            }
        }
    }

    fn close(&mut self, key: usize) {
        self.clients.remove(key);
        self.listeners.end_pause();
    }

    fn wish(&self) -> Wish {
        let asked = |client: &Client| matches!(client.stage, Stage::Asked { .. });
        if self.clients.iter().any(|(_, client)| asked(client)) {
            Wish::Report
        } else {
            Wish::Nothing
        }
    }
}

impl Guest for Metrics {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.first_token = token.0;
        self.registry = Some(registry.try_clone()?);
        self.listeners.register(registry, token.0)
    }

    fn ready(&mut self, _: &Registry, event: &Event) -> io::Result<Wish> {
        self.now = Instant::now();
        match (event.token().0 - self.first_token).checked_sub(FIRST_CLIENT) {
            None => self.listeners.latch(event.token()),
            Some(key) => self.drive(key),
        }
        // Last, as the server does it: a key that has just become free may have an event under way,
        // which does the newcomer no harm but a call in vain.
        self.accept();
        Ok(self.wish())
    }

    fn due(&self) -> Option<Instant> {
        let accept = self.listeners.due(self.now).filter(|_| self.clients.len() < CLIENTS);
        self.clients.iter().map(|(_, client)| client.deadline).chain(accept).min()
    }

    fn on_due(&mut self, now: Instant) -> Wish {
        self.now = now;
        self.clients.retain(|_, client| client.deadline > now);
        self.accept();
        Wish::Nothing
    }

    fn report(&mut self, counters: &Counters) {
        let keys: Vec<usize> = self.clients.iter().map(|(key, _)| key).collect();
        for key in keys {
            let client = &mut self.clients[key];
            if let Stage::Asked { head_only } = client.stage {
                client.answer(response("200 OK", &exposition(counters), head_only));
                self.drive(key);
            }
        }
        self.accept();
    }
}

impl Client {
    fn answer(&mut self, response: Vec<u8>) {
        self.stage = Stage::Answering { response, sent: 0 };
    }

    /// Goes on until a call would block, at every event: so there is no readiness to remember. Whether
    /// all is said.
    fn drive(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        loop {
            match &mut self.stage {
                Stage::Asking(request) => match nonblocking::recv(&mut self.socket, &mut chunk)? {
                    Received::Bytes(n) => {
                        request.extend(&chunk[..n]);
                        if let Some(next) = understand(request) {
                            self.stage = next;
                        }
                    }
                    Received::End => return Ok(true),
                    Received::WouldBlock => return Ok(false),
                },
                Stage::Asked { .. } => return Ok(false),
                Stage::Answering { response, sent } => {
                    match nonblocking::send(&mut self.socket, &response[*sent..])? {
                        Sent::Bytes(n) => *sent += n,
                        Sent::WouldBlock => return Ok(false),
                    }
                    if *sent == response.len() {
                        self.socket.shutdown_write()?;
                        self.stage = Stage::Lingering { discard: DISCARD };
                    }
                }
                Stage::Lingering { discard: 0 } => return Ok(true),
                Stage::Lingering { discard } => {
                    match nonblocking::recv(&mut self.socket, &mut chunk)? {
                        Received::Bytes(n) => *discard = discard.saturating_sub(n),
                        Received::End => return Ok(true),
                        Received::WouldBlock => return Ok(false),
                    }
                }
            }
        }
    }
}

/// What a request leads to; nothing yet, where it is not whole.
fn understand(request: &[u8]) -> Option<Stage> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let whole = parsed.parse(request);
    let head_only = parsed.method == Some("HEAD");
    let refuse = |status: &str| {
        let response = response(status, &format!("{status}\n"), head_only);
        Some(Stage::Answering { response, sent: 0 })
    };
    match whole {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if request.len() < REQUEST => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return refuse("431 Request Header Fields Too Large");
        }
        Err(_) => return refuse("400 Bad Request"),
    }
    let target = parsed.path.unwrap_or_default();
    if target.split('?').next() != Some("/metrics") {
        return refuse("404 Not Found");
    }
    match parsed.method {
        Some("GET" | "HEAD") => Some(Stage::Asked { head_only }),
        _ => refuse("405 Method Not Allowed"),
    }
}

fn response(status: &str, body: &str, head_only: bool) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\n\
         Allow: GET, HEAD\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    (head + if head_only { "" } else { body }).into()
}

/// Names end in their unit, and those of counters in `_total`; times are in seconds.
fn exposition(counters: &Counters) -> String {
    let version = format!("{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    let closed = counters.closed().map(|(cause, n)| format!("{{cause=\"{cause}\"}} {n}"));
    let longest_turn = format!(" {}", counters.longest_turn.as_secs_f64());
    let one = |n: u64| vec![format!(" {n}")];
    let mut text = String::new();
    for (name, kind, help, samples) in [
        ("build_info", "gauge", "What is running.", vec![version]),
        ("connections_accepted_total", "counter", "Connections taken on.", one(counters.accepted)),
        ("connections_open", "gauge", "Connections open now.", one(counters.open())),
        (
            "connections_refused_total",
            "counter",
            "Connections closed at once, by the limit per IP address.",
            one(counters.refused),
        ),
        ("connections_closed_total", "counter", "Connections closed, by cause.", closed.into()),
        ("received_bytes_total", "counter", "Bytes received.", one(counters.bytes_in)),
        ("sent_bytes_total", "counter", "Bytes given back.", one(counters.bytes_out)),
        (
            "unsent_bytes_total",
            "counter",
            "Bytes owed to connections when they closed.",
            one(counters.bytes_unsent),
        ),
        (
            "discarded_bytes_total",
            "counter",
            "Bytes that came after our end.",
            one(counters.bytes_discarded),
        ),
        ("accept_errors_total", "counter", "Errors of accept.", one(counters.accept_errors)),
        (
            "longest_turn_seconds",
            "gauge",
            "Most time between two waits since the start.",
            vec![longest_turn],
        ),
    ] {
        let _ = writeln!(text, "# HELP echod_{name} {help}\n# TYPE echod_{name} {kind}");
        for sample in samples {
            let _ = writeln!(text, "echod_{name}{sample}");
        }
    }
    text
}
