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
//! 3. [`nonblocking`], what one call can answer, and [`ready`], what is remembered of it;
//! 4. [`buffer`], where bytes wait, and how little an idle connection costs;
//! 5. [`Listeners::accept`], what goes wrong with accept;
//! 6. [`deadline`], how long to sleep, [`counters`], what was done, and [`guest`], what else lives on
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
//! | Creating a Socket: a server socket only produces client sockets | [`listener`] |
//! | Using a Socket: send and recv may do less than asked | [`Sent`], [`Buffer`] |
//! | Using a Socket: "when a recv returns 0 bytes" | [`Received::End`]; the other direction still works |
//! | Disconnecting: shutdown before close | [`Connection::linger`] |
//! | When Sockets Die: nothing may be said at all | [`deadline`], [`Config::keepalive`] |
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
//! use echoload::{Config, Server};
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
//! [`Connection`]: connection::Connection
//! [`Connection::drive`]: connection::Connection::drive
//! [`Connection::linger`]: connection::Connection::linger
//! [`Listeners::accept`]: listener::Listeners::accept
//! [`Sent`]: nonblocking::Sent
//! [`Received::End`]: nonblocking::Received::End
//! [`Buffer`]: buffer::Buffer
#![forbid(unsafe_code)]

pub mod buffer;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod connection;
pub mod counters;
#[cfg(feature = "cli")]
pub mod daemon;
pub mod deadline;
pub mod endpoint;
pub mod guest;
pub mod listener;
#[cfg(feature = "load")]
pub mod load;
pub mod nonblocking;
mod peers;
pub mod ready;
pub mod server;
pub mod socket;
mod throttle;
pub mod units;

pub use config::Config;
pub use counters::Counters;
pub use endpoint::{Address, Endpoint};
pub use guest::{Guest, Host, Wish};
pub use server::{End, Ended, Server, Stopper};
