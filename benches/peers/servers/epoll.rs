//! A bare epoll loop: only what an echo cannot do without. It has no timer, counter, log, signal,
//! limit or drain, and no budget: a client that sends without a pause keeps the loop for itself. It is
//! the limit for a program with one thread that calls recv and send.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use slab::Slab;

use super::listener::{BUFFER, listen};

const EVENTS: usize = 1024;
const LISTENER: u64 = u64::MAX;

/// With one of these, a short recv does not mean that nothing is left: an end, an error or an urgent
/// mark may follow the bytes.
const MORE: EventFlags =
    EventFlags::RDHUP.union(EventFlags::PRI).union(EventFlags::HUP).union(EventFlags::ERR);

/// Set once for each socket. An edge reports when either direction becomes ready again.
const INTEREST: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::RDHUP)
    .union(EventFlags::PRI)
    .union(EventFlags::ET);

pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    listener.set_nonblocking(true)?;
    // Accepted sockets inherit this.
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
            // An error ends one connection only.
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
    /// What a short send has left over. While it is not empty, nothing is received.
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
        // An event reports all that is ready, not only what has changed. So the edge that reports
        // room to send also reports what came in while bytes were owed.
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

    /// After a short send the buffer is full, and an edge will report when there is room. So there is no
    /// need to call send until it would block.
    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
            Err(Errno::WOULDBLOCK) => Ok(0),
            answer => answer,
        }
    }
}
