//! An echo server for TCP, Unix sockets and UDP as one nonblocking event loop on mio, and a load tester on
//! the same pattern: to run, to embed, and to read.
//!
//! # Inside-out
//!
//! Python's [Socket Programming HOWTO] says of nonblocking sockets: "if you do it right, your app will
//! be almost inside-out". A blocking program calls `recv` and waits inside it. Here one place waits, at
//! the top, and everything below it is a short answer to "this socket may be ready". What a blocking
//! program keeps on its stack, each connection keeps as data, in a slab.
//!
//! ```text
//!     clients     listeners     event sources     waker
//!        |            |               |             |
//!        +------------+-------+-------+-------------+
//!                             | events
//!                             v
//!      +------------- Server::run: one turn --------------+
//!      | 1 wait       for events, or to the next deadline | <- the only place
//!      | 2 events     latch readiness, drive              |    that waits
//!      | 3 run queue  drive those that had more to do     |
//!      | 4 memory     drive those that waited for some    |
//!      | 5 deadlines  close what is due                   |
//!      | 6 sources    notify what is due, or asked again  |
//!      | 7 accept     once slots are free; with a budget  |
//!      | 8 drain      one step, while the server ends     |
//!      | 9 measure    how long the turn took              |
//!      +--------------------------------------------------+
//!            | latch, drive                 | insert
//!            v                              v
//!      +-------------- Slab of connections ---------------+
//!      |                                                  |
//!      |   recv --> input --> protocol --> output --> send|
//!      |            half a                 what is        |
//!      |            message                owed           |
//!      +--------------------------------------------------+
//!                        ^  pages, while there are bytes
//!                        v
//!                      Pool
//! ```
//!
//! # Reading order
//!
//! 0. `examples/minimal.rs`: the whole pattern on mio, in one file;
//! 1. [`Server::run`]: the loop, and the steps of a turn;
//! 2. [`Connection::drive`]: the state machine, with the table of answers above it;
//! 3. [`nonblocking`], the answers of one call, and [`ready`], what is remembered of them;
//! 4. [`protocol`]: what is done with the bytes;
//! 5. [`Listeners::accept`]: what goes wrong with accept;
//! 6. [`deadline`] and [`wait`]: how long to sleep;
//! 7. [`buffer`]: where bytes wait, and why an idle connection has no buffer; [`pool`]: pages, and what
//!    happens when memory is short; `server/memory_queue.rs`: who waits for it;
//! 8. [`counters`], what was done, and [`source`], what else lives on the poll; `sources` has five, and
//!    `sources::udp` is the echo of datagrams;
//! 9. the drain, in `server/drain.rs`, `server/timeouts.rs` and `server/connections/ending.rs`;
//! 10. `load`: the same from the side that connects. `load::client` is the other state machine, for streams,
//!     `load::datagram` the one for datagrams, `load::schedule` says when a message is due, and `load::outage`
//!     what an outage is;
//! 11. `process`, what an operator needs and no socket does: signals at the start, limits, the log, the
//!     service manager. `process::start` decides each signal.
//!
//! # The HOWTO's sections, and where they are here
//!
//! | section | here |
//! |---|---|
//! | Creating a Socket: a server socket only makes client sockets | [`listener`] |
//! | Using a Socket: send and recv may do less than asked | [`Sent`], [`Buffer`] |
//! | Using a Socket: "there is no EOT (End of Transfer) on a socket" | [`protocol`], [`Framing`] |
//! | Using a Socket: "you may end up reading the start of a following message" | [`Framed`] |
//! | Using a Socket: `mysend` and `myreceive` | `examples/blocking_client.rs` |
//! | Binary Data: network byte order | [`Prefix`] |
//! | Using a Socket: "When a `recv` returns 0 bytes" | [`Received::EndOfStream`]; the other direction still works |
//! | Disconnecting: shutdown before close | [`Connection::linger`] |
//! | When Sockets Die: a dead peer says nothing | [`deadline`], [`ConfigBuilder::keepalive`] |
//! | Non-blocking Sockets: "inside-out" | [`Server::run`], [`Connection`] |
//! | Non-blocking Sockets: "your accept will (almost certainly) work" | [`Listeners::accept`] |
//! | Non-blocking Sockets: select, and "a nice long timeout" | [`Wait::wait`] |
//! | Non-blocking Sockets: "a decent chance that it has connected" | `load::client::ConnectingStream` |
//!
//! The HOWTO's select is level-triggered: it reports again and again what is ready. Mio is
//! edge-triggered: it reports once that something has changed. The program must then go on until the call
//! would block, or remember that it did not. Nearly every subtle line here is due to that.
//!
//! # Embedding
//!
//! ```
//! use std::io::{Read, Write};
//!
//! use echoloop::{Config, Server};
//!
//! # fn main() -> std::io::Result<()> {
//! let config = Config::builder().endpoint("tcp://127.0.0.1:0".parse()?).build()?;
//! let server = Server::bind(&config)?;
//! let (addresses, stopper) = (server.local_addrs(), server.stopper());
//! let running = std::thread::spawn(move || server.run());
//!
//! let address = addresses[0].as_tcp().expect("a TCP address");
//! let mut client = std::net::TcpStream::connect(address)?;
//! let mut answer = [0; 5];
//! client.write_all(b"hello")?;
//! client.read_exact(&mut answer)?;
//! assert_eq!(&answer, b"hello");
//!
//! stopper.stop()?;
//! let summary = running.join().expect("no panic")?;
//! assert_eq!(summary.counters.open(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! A protocol of one's own implements [`Protocol`] and is served by [`Server::with_protocol`]; see
//! `examples/uppercase.rs`. Anything else that has events, a timer, a pipe or a socket of its own, is an
//! [`EventSource`] and joins the loop with [`Server::add_source`].
//!
//! Without the default features (`default-features = false`) the library is the server and nothing else:
//! no command line, no signal handlers, no logger, no thread.
//!
//! [Socket Programming HOWTO]: https://docs.python.org/3/howto/sockets.html
//! [`Framing`]: protocol::Framing
//! [`Framed`]: protocol::Framed
//! [`Prefix`]: protocol::Prefix
//! [`Connection`]: server::connection::Connection
//! [`Connection::drive`]: server::connection::Connection::drive
//! [`Connection::linger`]: server::connection::Connection::linger
//! [`Listeners::accept`]: server::listener::Listeners::accept
//! [`Wait::wait`]: net::wait::Wait::wait
//! [`Sent`]: net::nonblocking::Sent
//! [`Received::EndOfStream`]: net::nonblocking::Received::EndOfStream
//! [`Buffer`]: net::buffer::Buffer
//! [`nonblocking`]: net::nonblocking
//! [`ready`]: net::ready
//! [`buffer`]: net::buffer
//! [`pool`]: net::pool
//! [`deadline`]: net::deadline
//! [`wait`]: net::wait
//! [`counters`]: server::counters
//! [`source`]: server::source
//! [`listener`]: server::listener
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "load")]
pub mod load;
pub mod net;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod process;
pub mod protocol;
pub mod server;
#[cfg(feature = "cli")]
pub mod sources;

pub use mio;
pub use net::address::Address;
pub use net::endpoint::{Endpoint, EndpointError};
pub use protocol::Protocol;
pub use server::config::{Config, ConfigBuilder, ConfigError};
pub use server::counters::Counters;
pub use server::event_loop::Server;
pub use server::source::{
    Action, EventSource, LoopHandle, Notification, SourceCounter, SourceWaker,
};
pub use server::stop::{RunError, RunSummary, StopReason, Stopper};
