//! The whole pattern in one file: a TCP echo server as one nonblocking, edge-triggered event loop.
//!
//! Python's Socket Programming HOWTO says of nonblocking sockets: "if you do it right, your app will
//! be almost inside-out". A blocking program waits inside `recv`. Here only `Poll::poll` waits; every
//! other call returns at once. What a blocking program keeps on its stack while it waits, each
//! connection keeps as data, in a `Slab`; its key there is the token of its events. The library adds
//! limits, timeouts, a drain, and a budget for accept. Run it: `cargo run --example minimal [HOST:PORT]`.
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);
/// Calls of `recv` in one drive. After that it is the turn of the other connections.
const BUDGET: usize = 16;
/// How long an idle loop waits before it tries `accept` again after an error.
const PAUSE: Duration = Duration::from_millis(100);

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:65432".into());
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    writeln!(io::stdout(), "tcp://{}", listener.local_addr()?)?;
    serve(TcpListener::from_std(listener))
}

fn serve(mut listener: TcpListener) -> io::Result<()> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: Slab<Connection> = Slab::new();
    let (mut run_queue, mut accept_owed) = (Vec::new(), false);
    let mut page = vec![0; 64 * 1024];
    loop {
        // 1. Wait, but not if there is work that no event will announce.
        let timeout = match (run_queue.is_empty(), accept_owed) {
            (false, _) => Some(Duration::ZERO),
            (true, true) => Some(PAUSE),
            (true, false) => None,
        };
        answer(|| poll.poll(&mut events, timeout))?;
        // 2. Events only set bits. Whether they are true, the calls will tell.
        for event in &events {
            let Token(key) = event.token();
            if event.token() == LISTENER {
                accept_owed = true;
            } else if let Some(connection) = connections.get_mut(key) {
                connection.latch(event);
                if !std::mem::replace(&mut connection.queued, true) {
                    run_queue.push(key);
                }
            }
        }
        // 3. Drive each queued connection once. An error ends that connection and no other.
        for key in std::mem::take(&mut run_queue) {
            match connections[key].drive(&mut page) {
                Ok(Progress::Blocked) => connections[key].queued = false,
                Ok(Progress::Again) => run_queue.push(key),
                Ok(Progress::Done) | Err(_) => drop(connections.remove(key)),
            }
        }
        // 4. Accept, last: so no event of this turn can meet a new connection under an old key.
        accept_owed = accept_owed && accept_all(&listener, &mut connections, &poll);
    }
}

/// Accepts until the call would block. Returns whether accept is still owed.
fn accept_all(listener: &TcpListener, connections: &mut Slab<Connection>, poll: &Poll) -> bool {
    loop {
        match answer(|| listener.accept()) {
            Ok(Some((stream, _))) => add(stream, connections, poll),
            Ok(None) => return false,
            // This client gave up while it waited. The next one may be well.
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
            // Out of files, for example (EMFILE). The client stays in the backlog, and no event will
            // announce it again. If we asked again at once, we would spin; if we forgot it, we would never
            // accept again.
            Err(_) => return true,
        }
    }
}

/// Registers the socket once, for both directions. With edges, readiness is reported only when it
/// changes, so to ask for writable costs nothing. A loop on the HOWTO's `select` must not ask for it
/// all the time: a socket is nearly always writable, so `select` would never wait.
fn add(mut stream: TcpStream, connections: &mut Slab<Connection>, poll: &Poll) {
    let entry = connections.vacant_entry();
    let (token, both) = (Token(entry.key()), Interest::READABLE | Interest::WRITABLE);
    // On an error the stream is dropped: one connection ends.
    if poll.registry().register(&mut stream, token, both).is_ok() {
        // Writable from the start: try to send before an event says that we may.
        entry.insert(Connection {
            stream,
            owed: Vec::new(),
            sent: 0,
            readable: false,
            writable: true,
            queued: false,
        });
    }
}

/// A nonblocking call can also answer "would block", here `None`. EINTR is no answer: call again.
fn answer<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            result => return result.map(Some),
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// Bytes to send back. The first `sent` are gone: a send may take fewer than it is offered.
    owed: Vec<u8>,
    sent: usize,
    /// A recv, or a send, is worth a call. An edge is reported once, so this remembers it: an event
    /// sets the bit, and only "would block" clears it.
    readable: bool,
    writable: bool,
    /// It is in the run queue, where each connection is at most once.
    queued: bool,
}

enum Progress {
    /// Nothing can be done before the next event.
    Blocked,
    /// The budget is spent and there may be more to do. No event will say so.
    Again,
    /// The peer has ended its direction, and all is sent back.
    Done,
}

impl Connection {
    /// Bytes can stand before an error or a hang-up, so these do not end a connection: the calls do.
    fn latch(&mut self, event: &Event) {
        let ask_both = event.is_error() || event.is_read_closed() || event.is_write_closed();
        self.readable |= event.is_readable() || ask_both;
        self.writable |= event.is_writable() || ask_both;
    }

    fn drive(&mut self, page: &mut [u8]) -> io::Result<Progress> {
        for _ in 0..BUDGET {
            // Back-pressure: no recv while bytes are owed. The kernel's buffers fill, and TCP slows
            // the peer down to the speed at which it reads.
            while self.sent < self.owed.len() {
                if !self.writable {
                    return Ok(Progress::Blocked);
                }
                match answer(|| self.stream.write(&self.owed[self.sent..]))? {
                    Some(0) => return Err(ErrorKind::WriteZero.into()),
                    Some(n) => self.sent += n,
                    None => self.writable = false,
                }
            }
            (self.owed, self.sent) = (Vec::new(), 0);
            if !self.readable {
                return Ok(Progress::Blocked);
            }
            match answer(|| self.stream.read(page))? {
                // Half-close: the peer sends no more but may still read. Nothing is owed here, so
                // it has everything.
                Some(0) => return Ok(Progress::Done),
                Some(n) => self.owed = page[..n].to_vec(),
                None => self.readable = false,
            }
        }
        Ok(Progress::Again)
    }
}
