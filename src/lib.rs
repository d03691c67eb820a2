//! A TCP echo server as one nonblocking event loop on mio, and a load tester on the same pattern: to
//! run, to embed, and to read.
//!
//! # Inside-out
//!
//! Python's [Socket Programming HOWTO] says of nonblocking sockets: "if you do it right, your app
//! will be almost inside-out". A blocking program calls `recv` and waits inside it. Here one place
//! waits, at the top, and everything below it is a short answer to "this socket may be ready now".
//! What a blocking program keeps on its stack, each connection keeps as data, in a slab.
//!
//! ```text
//!                 +------------------- Server::run --------------------+
//!                 | 1 wait      for events, or until the next deadline | <- the only place
//!                 | 2 events    latch readiness, drive                 |    that waits
//!   waker ------> | 3 queue     drive those that had more to do        |
//!   guests -----> | 4 deadlines close what is due                      |
//!   listeners --> | 5 accept    last, and within a budget              |
//!   clients ----> +----------------------------------------------------+
//!                      | latch, drive                 | insert
//!                      v                              v
//!      +----------------------- Slab<Connection> -----------------------+
//!      |  recv -> read_buf --- echo: the buffers change places ---+     |
//!      |  send <- write_buf <-------------------------------------+     |
//!      +----------------------------------------------------------------+
//!                      ^ pages, lent while there are bytes
//!                      v
//!                     Pool
//! ```
//!
//! # Reading order
//!
//! 1. [`Server::run`], the loop, and the steps of a turn;
//! 2. [`Connection::drive`], the state machine, with the table of answers above it;
//! 3. [`nonblocking`](net::nonblocking), what one call can answer, and [`ready`](net::ready), what is remembered of it;
//! 4. [`buffer`](net::buffer), where bytes wait, and how little an idle connection costs;
//! 5. [`Listeners::accept`], what goes wrong with accept;
//! 6. [`deadline`](net::deadline), how long to sleep, [`counters`](server::counters), what was done, and [`source`](server::source), what else lives on
//!    the poll;
//! 7. the drain, in `server/ending.rs`, and `daemon`, what an operator needs: signals, metrics, the
//!    log, the service manager;
//! 8. `load`, the same from the side that connects: `load::client` is the other state machine,
//!    `load::share` says when a message is due.
//!
//! # The HOWTO's sections, and where they are here
//!
//! | section | here |
//! |---|---|
//! | Creating a Socket: a server socket only produces client sockets | [`listener`](server::listener) |
//! | Using a Socket: send and recv may do less than asked | [`Sent`], [`Buffer`] |
//! | Using a Socket: "when a recv returns 0 bytes" | [`Received::End`]; the other direction still works |
//! | Disconnecting: shutdown before close | [`Connection::linger`] |
//! | When Sockets Die: nothing may be said at all | [`deadline`](net::deadline), [`Config::keepalive`] |
//! | Non-blocking Sockets: "inside-out" | [`Server::run`], [`Connection`] |
//! | Non-blocking Sockets: "accept will almost certainly work" | [`Listeners::accept`] |
//! | Non-blocking Sockets: select, and "a nice long timeout" | the wait in [`Server::run`] |
//! | Non-blocking Sockets: "a decent chance that it has connected" | `load::client::Dialed` |
//!
//! The HOWTO's select is level-triggered: it says again and again what is ready. Mio is
//! edge-triggered: it says once that something has changed, and then relies on us to go on until the
//! call would block, or to remember that we did not. Nearly every subtle line here is due to that.
//!
//! # Embedding
//!
//! ```
//! use echoloop::{Config, Server};
//!
//! # fn main() -> std::io::Result<()> {
//! let endpoints = vec!["tcp://127.0.0.1:0".parse().expect("an endpoint")];
//! let server = Server::bind(&Config { endpoints, ..Config::default() })?;
//! let (addresses, stopper) = (server.local_addrs(), server.stopper());
//! let running = std::thread::spawn(move || server.run());
//!
//! let address = addresses[0].as_tcp().expect("a TCP address");
//! let client = std::net::TcpStream::connect(address)?;
//! # drop(client);
//! stopper.stop()?;
//! running.join().expect("no panic")?;
//! # Ok(())
//! # }
//! ```
//!
//! Without the default features, `default-features = false`, the library is this and nothing else: no
//! command line, no signal handlers, no logger, no thread.
//!
//! [Socket Programming HOWTO]: https://docs.python.org/3/howto/sockets.html
//! [`Connection`]: server::connection::Connection
//! [`Connection::drive`]: server::connection::Connection::drive
//! [`Connection::linger`]: server::connection::Connection::linger
//! [`Listeners::accept`]: server::listener::Listeners::accept
//! [`Sent`]: net::nonblocking::Sent
//! [`Received::End`]: net::nonblocking::Received::End
//! [`Buffer`]: net::buffer::Buffer
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "load")]
pub mod load;
pub mod net;
#[cfg(feature = "cli")]
pub mod process;
pub mod server;
#[cfg(feature = "cli")]
pub mod sources;

pub use net::endpoint::{Address, Endpoint};
pub use server::config::Config;
pub use server::counters::Counters;
pub use server::source::{Guest, Host, Wish};
pub use server::{End, Ended, Server, Stopper};
