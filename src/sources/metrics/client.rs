//! One client of the metrics.

use std::io;
use std::time::Instant;

use crate::net::nonblocking::{Received, Sent, Stream};
use crate::net::ready::{Latched, Readiness};
use crate::net::socket::Socket;
use crate::sources::metrics::http;

/// Most bytes discarded behind a request.
const DISCARD: usize = 64 * 1024;

/// A connection that asks once and is answered once.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Latched<Socket>,
    stage: Stage,
    pub(crate) deadline: Instant,
}

#[derive(Debug)]
enum Stage {
    Asking {
        request: Vec<u8>,
    },
    Answering {
        response: Vec<u8>,
        sent: usize,
    },
    /// As the server's connections do, so that no reset destroys the response.
    Lingering {
        discard: usize,
    },
}

impl Client {
    pub(crate) fn new(socket: Socket, deadline: Instant) -> Client {
        let stage = Stage::Asking { request: Vec::new() };
        Client { socket: Latched::new(socket), stage, deadline }
    }

    pub(crate) fn latch(&mut self, readiness: Readiness) {
        self.socket.latch(readiness);
    }

    /// Goes on until a call would block. Returns whether the conversation is over. `metrics` writes the body
    /// of the response.
    pub(crate) fn drive(&mut self, metrics: impl Fn() -> String) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        loop {
            match &mut self.stage {
                Stage::Asking { request } => match recv(&mut self.socket, &mut chunk)? {
                    Received::Bytes(n) => {
                        request.extend(&chunk[..n]);
                        if let Some(response) = http::answer(request, &metrics) {
                            self.stage = Stage::Answering { response, sent: 0 };
                        }
                    }
                    Received::EndOfStream => return Ok(true),
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
                    Received::EndOfStream => return Ok(true),
                    Received::WouldBlock => return Ok(false),
                },
            }
        }
    }
}

/// Receives, but only if the socket may be readable. A recv in vain arms mio's poll(2) again, which reports
/// at once that the socket is writable, and so on without end.
fn recv(socket: &mut Latched<Socket>, room: &mut [u8]) -> io::Result<Received> {
    if socket.is_readable() { socket.recv(room) } else { Ok(Received::WouldBlock) }
}
