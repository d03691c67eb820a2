//! A bare epoll loop: what is left when everything is left out that an echo can do without. No timer,
//! counter, log, signal, limit or drain, and no budget: who sends without a pause has the loop for
//! himself. It is the limit for a program of one thread that calls recv and send.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use slab::Slab;

use super::{BUFFER, listen};

const EVENTS: usize = 1024;
const LISTENER: u64 = u64::MAX;

/// What a recv can stop short of: behind the bytes that it answered stands something else.
const MORE: EventFlags =
    EventFlags::RDHUP.union(EventFlags::PRI).union(EventFlags::HUP).union(EventFlags::ERR);

/// Once and for all: an edge says when either direction has come to life again.
const INTEREST: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::RDHUP)
    .union(EventFlags::PRI)
    .union(EventFlags::ET);

pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    listener.set_nonblocking(true)?;
    // What it accepts inherits that.
    sockopt::set_tcp_nodelay(&listener, true)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections = Slab::new();
    let mut page = vec![0; BUFFER];
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        retry_on_intr(|| epoll::wait(&poll, spare_capacity(&mut events), None))?;
        for event in events.drain(..) {
            let (key, said) = (event.data.u64(), event.flags);
            if key == LISTENER {
                accept(&listener, &poll, &mut connections)?;
                continue;
            }
            let key = usize::try_from(key).map_err(io::Error::other)?;
            let connection: &mut Connection = &mut connections[key];
            // One client's reset is the end of its own connection.
            if connection.ready(said, &mut page) != Ok(Open(true)) {
                connections.remove(key);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &OwnedFd,
    connections: &mut Slab<Connection>,
) -> io::Result<()> {
    loop {
        let socket = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Err(Errno::WOULDBLOCK) => return Ok(()),
            answer => answer?,
        };
        let entry = connections.vacant_entry();
        epoll::add(poll, &socket, EventData::new_u64(entry.key() as u64), INTEREST)?;
        entry.insert(Connection { socket, owed: Vec::new() });
    }
}

struct Connection {
    socket: OwnedFd,
    /// What a send fell short of. While there is any, nothing is received.
    owed: Vec<u8>,
}

#[derive(PartialEq)]
struct Open(bool);

impl Connection {
    fn ready(&mut self, said: EventFlags, page: &mut [u8]) -> Result<Open, Errno> {
        if !self.owed.is_empty() {
            let sent = self.send(&self.owed)?;
            self.owed.drain(..sent);
            if !self.owed.is_empty() {
                return Ok(Open(true));
            }
            self.owed = Vec::new();
        }
        // An event tells all that holds, not only what is new: so what came while bytes were owed is
        // told again by the edge that says there is room.
        if !said.intersects(EventFlags::IN | MORE) {
            return Ok(Open(true));
        }
        loop {
            let n = match recv(&self.socket, &mut *page, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(Open(false)),
                Ok((n, _)) => n,
                Err(Errno::WOULDBLOCK) => return Ok(Open(true)),
                Err(e) => return Err(e),
            };
            let sent = self.send(&page[..n])?;
            if sent < n {
                self.owed = page[sent..n].to_vec();
                return Ok(Open(true));
            }
            if n < page.len() && !said.intersects(MORE) {
                return Ok(Open(true));
            }
        }
    }

    /// A short send means full, and orders the edge: it need not be asked until it would block.
    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
            Err(Errno::WOULDBLOCK) => Ok(0),
            answer => answer,
        }
    }
}
