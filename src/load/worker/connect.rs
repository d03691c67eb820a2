//! The two kinds of clients that a loop can drive: how each begins, and what it can tell of wrong bytes.

use std::io::{self, ErrorKind};

use mio::event::Source;
use mio::net::{TcpStream, UdpSocket};

use crate::load::client::{Client, ConnectingStream};
use crate::load::clock::Nanos;
use crate::load::datagram::{DatagramClient, DatagramSocket};
use crate::load::fault::Fault;
use crate::load::messages::Driven;
use crate::load::payload::{Cursor, Payload};
use crate::load::worker::connector::Connector;
use crate::net::socket::Socket;

/// A client that a loop can make.
pub(crate) trait Connect: Driven + Sized {
    type Socket: Source;

    /// Begins a connect; see [`Connector::connect`].
    fn connect(connector: &Connector, target: usize, count: u64) -> io::Result<Self::Socket>;

    /// Returns a client whose connect was begun at `now`.
    fn new(socket: Self::Socket, slot: usize, start: Cursor, now: Nanos) -> Self;

    /// Makes it a client for a message that was due at `due`; for no other one if it is the last.
    fn with_first(self, due: Nanos, is_last: bool, payload: &Payload) -> Self;

    /// Returns the number of right bytes that came back.
    fn received_bytes(&self) -> u64;

    /// Finds out what is wrong with the bytes behind those. `others` are the other clients of the loop,
    /// each with the number of its connection.
    fn diagnose<'a>(
        &self,
        payload: &Payload,
        got: &[u8],
        others: impl Iterator<Item = (usize, &'a Self)>,
    ) -> Fault
    where
        Self: 'a;
}

impl Connect for Client<Socket> {
    type Socket = Socket;

    fn connect(connector: &Connector, target: usize, count: u64) -> io::Result<Socket> {
        connector.connect(target, count)
    }

    fn new(socket: Socket, slot: usize, start: Cursor, now: Nanos) -> Client<Socket> {
        Client::new(socket, slot, start, now)
    }

    fn with_first(self, due: Nanos, is_last: bool, payload: &Payload) -> Client<Socket> {
        Client::with_first(self, due, is_last, payload)
    }

    fn received_bytes(&self) -> u64 {
        self.received().offset()
    }

    fn diagnose<'a>(
        &self,
        payload: &Payload,
        got: &[u8],
        others: impl Iterator<Item = (usize, &'a Self)>,
    ) -> Fault {
        if self.received().offset() >= self.sent() {
            return Fault::Surplus(got.len() as u64);
        }
        let others = others.map(|(number, other)| (number, other.received()));
        Fault::diagnose(payload, self.received(), self.sent(), got, others)
    }
}

impl Connect for DatagramClient<UdpSocket> {
    type Socket = UdpSocket;

    fn connect(connector: &Connector, target: usize, count: u64) -> io::Result<UdpSocket> {
        let socket = connector.connect_udp(target, count)?;
        if socket.peer_addr()? == socket.local_addr()? { Err(with_itself()) } else { Ok(socket) }
    }

    fn new(socket: UdpSocket, slot: usize, start: Cursor, now: Nanos) -> Self {
        DatagramClient::new(socket, slot, start, now)
    }

    /// A plan of datagrams has no connection for a number of messages.
    fn with_first(self, _: Nanos, _: bool, _: &Payload) -> Self {
        self
    }

    fn received_bytes(&self) -> u64 {
        self.received()
    }

    /// A datagram with a wrong byte may be any of those that were sent.
    fn diagnose<'a>(
        &self,
        _: &Payload,
        _: &[u8],
        _: impl Iterator<Item = (usize, &'a Self)>,
    ) -> Fault {
        Fault::Changed
    }
}

impl DatagramSocket for UdpSocket {
    fn recv(&self, room: &mut [u8]) -> io::Result<usize> {
        UdpSocket::recv(self, room)
    }

    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        UdpSocket::send(self, datagram)
    }
}

impl ConnectingStream for Socket {
    fn is_connected(&self) -> io::Result<bool> {
        match self {
            Socket::Tcp(stream) => is_connected(stream),
            // The connect of a Unix socket is complete when it returns.
            Socket::Unix(_) => Ok(true),
        }
    }
}

fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(e) = stream.take_error()? {
        return Err(e);
    }
    match stream.peer_addr() {
        Ok(peer) if peer == stream.local_addr()? => Err(with_itself()),
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotConnected => Ok(false),
        Err(e) => Err(e),
    }
}

/// On loopback, a connect to a port that nobody listens on can choose that port as its own. The socket
/// is then connected to itself, and looks like an echo server.
fn with_itself() -> io::Error {
    io::Error::new(ErrorKind::AddrInUse, "connected to itself: nobody listens there")
}
