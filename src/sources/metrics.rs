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

use crate::net::endpoint::{Address, Endpoint};
use crate::net::nonblocking::{Received, Sent, Stream};
use crate::net::ready::{self, Latched, Readiness};
use crate::net::socket::Socket;
use crate::server::config::Config;
use crate::server::counters::Counters;
use crate::server::listener::{Allowance, Listeners};
use crate::server::source::{Guest, Host, TOKENS, Wish};

/// Clients at once; more wait in the backlog. Their files are not the daemon's clients' to use, so they
/// are few.
pub const CLIENTS: usize = 4;

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
    first_token: usize,
    /// Some moment that has gone by: due then is due at once.
    bound: Instant,
}

struct Client {
    socket: Latched<Socket>,
    stage: Stage,
    deadline: Instant,
}

enum Stage {
    Asking(Vec<u8>),
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
        Ok(Metrics { listeners, clients: Slab::new(), first_token: 0, bound: Instant::now() })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.addresses()
    }

    fn accept(&mut self, host: &Host<'_>) {
        let mut allowance = Allowance::default();
        while self.clients.len() < CLIENTS {
            let Some((mut socket, peer)) = self.listeners.accept(&mut allowance, host.now) else {
                break;
            };
            let entry = self.clients.vacant_entry();
            let token = Token(self.first_token + FIRST_CLIENT + entry.key());
            match host.registry.register(&mut socket, token, ready::interest()) {
                Ok(()) => drop(entry.insert(Client {
                    socket: Latched::new(socket),
                    stage: Stage::Asking(Vec::new()),
                    deadline: host.now + PATIENCE,
                })),
                Err(e) => debug!("metrics: cannot watch the connection of {peer}: {e}"),
            }
        }
    }

    fn drive(&mut self, key: usize, counters: &Counters) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let done = client.drive(counters).unwrap_or_else(|e| {
            debug!("metrics: {e}");
            true
        });
        if done {
            self.close(key);
        }
    }

    fn close(&mut self, key: usize) {
        self.clients.remove(key);
        self.listeners.end_pause();
    }
}

impl Guest for Metrics {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.first_token = token.0;
        self.listeners.register(registry, token.0)
    }

    fn ready(&mut self, host: &Host<'_>, event: &Event) -> io::Result<Wish> {
        match (event.token().0 - self.first_token).checked_sub(FIRST_CLIENT) {
            None => self.listeners.latch(event.token()),
            Some(key) => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.socket.latch(Readiness::from(event));
                }
                self.drive(key, host.counters);
            }
        }
        // Last, as the server does it: a key that has just become free may have an event under way,
        // which does the newcomer no harm but a call in vain.
        self.accept(host);
        Ok(Wish::Nothing)
    }

    fn due(&self) -> Option<Instant> {
        let accept = self.listeners.due(self.bound).filter(|_| self.clients.len() < CLIENTS);
        self.clients.iter().map(|(_, client)| client.deadline).chain(accept).min()
    }

    fn on_due(&mut self, host: &Host<'_>) -> Wish {
        let late = self.clients.iter().filter(|(_, client)| client.deadline <= host.now);
        let late: Vec<usize> = late.map(|(key, _)| key).collect();
        for key in late {
            self.close(key);
        }
        self.accept(host);
        Wish::Nothing
    }
}

impl Client {
    /// Goes on until a call would block. Whether all is said.
    fn drive(&mut self, counters: &Counters) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        loop {
            match &mut self.stage {
                Stage::Asking(request) => match recv(&mut self.socket, &mut chunk)? {
                    Received::Bytes(n) => {
                        request.extend(&chunk[..n]);
                        if let Some(response) = answer(request, counters) {
                            self.stage = Stage::Answering { response, sent: 0 };
                        }
                    }
                    Received::End => return Ok(true),
                    Received::WouldBlock => return Ok(false),
                },
                Stage::Answering { response, sent } => {
                    match self.socket.send(&response[*sent..])? {
                        Sent::Bytes(n) => *sent += n,
                        Sent::WouldBlock => return Ok(false),
                    }
                    if *sent == response.len() {
                        self.socket.stream().shutdown_write()?;
                        self.stage = Stage::Lingering { discard: DISCARD };
                    }
                }
                Stage::Lingering { discard: 0 } => return Ok(true),
                Stage::Lingering { discard } => match recv(&mut self.socket, &mut chunk)? {
                    Received::Bytes(n) => *discard = discard.saturating_sub(n),
                    Received::End => return Ok(true),
                    Received::WouldBlock => return Ok(false),
                },
            }
        }
    }
}

/// Only where there may be something: a recv in vain has poll(2) armed again, which answers at once
/// that the socket is writable, and so on without end.
fn recv(socket: &mut Latched<Socket>, room: &mut [u8]) -> io::Result<Received> {
    if socket.is_readable() { socket.recv(room) } else { Ok(Received::WouldBlock) }
}

/// The response to a request; nothing yet, where it is not whole.
fn answer(request: &[u8], counters: &Counters) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let whole = parsed.parse(request);
    // To a HEAD the head alone, whatever it says (RFC 9110, 9.3.2).
    let head_only = parsed.method == Some("HEAD");
    let refuse = |status: &str| Some(response(status, "", &format!("{status}\n"), head_only));
    match whole {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if request.len() < REQUEST => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return refuse("431 Request Header Fields Too Large");
        }
        Err(_) => return refuse("400 Bad Request"),
    }
    match (path(parsed.path.unwrap_or_default()), parsed.method) {
        ("/metrics", Some("GET" | "HEAD")) => {
            Some(response("200 OK", "", &exposition(counters), head_only))
        }
        ("/metrics", _) => {
            let status = "405 Method Not Allowed";
            Some(response(status, "Allow: GET, HEAD\r\n", &format!("{status}\n"), head_only))
        }
        _ => refuse("404 Not Found"),
    }
}

/// The target's path, without a query, also where it is a whole URI (RFC 9112, 3.2.2).
fn path(target: &str) -> &str {
    let whole = target.strip_prefix("http://").map(|rest| &rest[rest.find('/').unwrap_or(0)..]);
    let path = whole.unwrap_or(target);
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn response(status: &str, header: &str, body: &str, head_only: bool) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{header}\
         Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\n\
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
