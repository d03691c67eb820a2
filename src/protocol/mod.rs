//! Protocols: what is done with the bytes that a connection receives.
//!
//! A connection moves bytes; its [`Protocol`] gives them a meaning. [`Echo`] is the smallest one: it
//! returns every byte as it comes. [`Framed`] returns whole messages. The example `uppercase` is a protocol
//! of one's own.
//!
//! # Where does a message end?
//!
//! "There is no EOT (End of Transfer) on a socket", says the HOWTO. The bytes of one send may arrive in
//! several recvs, and the bytes of several sends in one recv. So the bytes themselves have to say where a
//! message ends. The HOWTO names the ways. All but the last are a [`Framing`] here:
//!
//! | messages are | type | text form | the HOWTO says |
//! |---|---|---|---|
//! | of a fixed length | [`Fixed`] | `fixed:64` | "yuck" |
//! | delimited | [`Line`] | `line` | "shrug" |
//! | counted: their length is in front | [`Prefix`] | `length:ascii5`, `length:u16`, `length:u32` | "much better" |
//! | typed: their type tells the length | [`Typed`] | `typed:A=4,B=16` | "the easiest enhancement" |
//! | ended by shutting down the connection | | `raw` | |
//!
//! # The start of the next message is already in your buffer
//!
//! A recv does not stop at the end of a message. It may return one message and the start of the next, and
//! no later recv returns those bytes again. "You'll need to put that aside and hold onto it, until it's
//! needed": a protocol answers the whole messages of its input, and leaves the rest there until more bytes
//! come. A blocking program can avoid this if it asks for no more bytes than its message still lacks, as
//! `examples/blocking_client.rs` does. That costs it two recvs for each message.
//!
//! # Network byte order
//!
//! Machines differ in the order in which they keep the bytes of a number. On the network the most
//! significant byte comes first (big-endian): 258 is the bytes 1, 2, while most processors keep it as 2, 1.
//! [`u16::to_be_bytes`] and [`u16::from_be_bytes`] convert numbers, like `htons` and `ntohs` in C.
//!
//! # Chosen when the program is compiled, or when it runs
//!
//! A server of one protocol is compiled for it:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{Shutdown, TcpStream};
//!
//! use echoloop::protocol::{Framed, Line};
//! use echoloop::{Config, Server};
//!
//! # fn main() -> std::io::Result<()> {
//! let config = Config::builder().endpoint("tcp://127.0.0.1:0".parse()?).build()?;
//! let server = Server::with_protocol(Framed(Line), &config)?;
//! # let address = server.local_addrs()[0].as_tcp().expect("a TCP address");
//! # let stopper = server.stopper();
//! # let running = std::thread::spawn(move || server.run());
//!
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"one line\nhalf a li")?;
//! let mut line = [0; 9];
//! client.read_exact(&mut line)?;
//! assert_eq!(&line, b"one line\n");
//! client.shutdown(Shutdown::Write)?;
//! # let mut rest = Vec::new();
//! # client.read_to_end(&mut rest)?;
//! # assert_eq!(rest, b"half a li");
//! # stopper.stop()?;
//! # running.join().expect("no panic")?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Kind`] leaves the choice to the user, for a branch with each message. The daemon does this for
//! `--framing`, except for `raw`, which is [`Echo`]:
//!
//! ```
//! use echoloop::protocol::{Framed, Kind};
//! use echoloop::{Config, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kind: Kind = "length:u16".parse()?;
//! let config = Config::builder().endpoint("tcp://127.0.0.1:0".parse()?).build()?;
//! kind.check(config.max_buffer())?;
//! let server = Server::with_protocol(Framed(kind), &config)?;
//! # drop(server);
//! # Ok(())
//! # }
//! ```

mod contract;
mod echo;
mod exchange;
mod fixed;
mod framing;
mod kind;
mod length;
mod line;
mod typed;

#[cfg(test)]
mod tests;

pub use contract::{Malformed, Next, Protocol};
pub use echo::Echo;
pub use exchange::Exchange;
pub use fixed::Fixed;
pub use framing::{Framed, Framing};
pub use kind::{Kind, KindError};
pub use length::Prefix;
pub use line::Line;
pub use typed::Typed;
