//! From a datagram to its answer.

use std::io;
use std::mem;
use std::time::Instant;

use log::{debug, trace};

use crate::net::bind::Bound;
use crate::server::source::SourceCounter;
use crate::sources::udp::counters::{Cause, Counters};
use crate::sources::udp::guard::Guard;
use crate::sources::udp::socket::{Datagram, Socket};

/// Number of bytes to receive into. No datagram is longer: its header counts its bytes with 16 bits.
const ROOM: usize = 64 * 1024;

/// What a datagram takes of the budget beside its bytes: the time of its two calls.
const OVERHEAD: usize = 1024;

/// Answers datagrams: what all sockets share.
#[derive(Debug)]
pub(crate) struct Responder {
    guard: Guard,
    counters: Counters,
    room: Box<[u8]>,
}

impl Responder {
    pub(crate) fn new(guard: Guard) -> Responder {
        Responder { guard, counters: Counters::default(), room: vec![0; ROOM].into() }
    }

    pub(crate) fn counters(&self) -> Vec<SourceCounter> {
        self.counters.list()
    }

    /// Answers until receiving would block, or until the budget is used up.
    ///
    /// # Errors
    /// One that comes twice. A single one may belong to an earlier answer, which the network has refused
    /// (udp(7)).
    pub(crate) fn serve(
        &mut self,
        socket: &mut Socket,
        mut budget: usize,
        now: Instant,
    ) -> io::Result<()> {
        let mut has_failed = false;
        while budget > 0 {
            let received = socket.receive(&mut self.room);
            budget = budget.saturating_sub(OVERHEAD);
            match received {
                Ok(Some(datagram)) => {
                    has_failed = false;
                    budget = budget.saturating_sub(datagram.length);
                    self.answer(socket, &datagram, now);
                }
                Ok(None) => {
                    socket.is_readable = false;
                    break;
                }
                Err(e) => {
                    self.counters.receive_errors += 1;
                    if mem::replace(&mut has_failed, true) {
                        return Err(e);
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, socket: &Socket, datagram: &Datagram, now: Instant) {
        self.counters.received += 1;
        let answered = self.try_answer(socket, datagram, now);
        let (length, source) = (datagram.length, datagram.source);
        trace!("{}: {length} bytes from {source}: {answered:?}", socket.address());
        match answered {
            Ok(()) => self.counters.sent += 1,
            Err(cause) => self.counters.drop(cause),
        }
    }

    fn try_answer(
        &mut self,
        socket: &Socket,
        datagram: &Datagram,
        now: Instant,
    ) -> Result<(), Cause> {
        let asked = datagram.asked.as_ref();
        if asked.is_some_and(|asked| !asked.is_one_host()) {
            return Err(Cause::Address);
        }
        if let Some(cause) = self.guard.refusal(datagram.source, now) {
            return Err(cause);
        }
        let bytes = &self.room[..datagram.length];
        match socket.send(bytes, datagram.source, asked) {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(Cause::WouldBlock),
            Err(e) => {
                debug!("{}: no answer to {}: {e}", socket.address(), datagram.source);
                Err(Cause::Unsendable)
            }
        }
    }
}
