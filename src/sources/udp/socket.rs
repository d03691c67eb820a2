//! One UDP socket: how it is bound or adopted, and its two calls.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use mio::net::UdpSocket as MioSocket;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};
use socket2::{Protocol, Type};

use crate::net::address::Address;
use crate::net::bind::{Bound, socket_for};
use crate::net::nonblocking::answer;
use crate::sources::udp::packet_info::{self, Asked};

/// A bound socket, and whether datagrams may wait in it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) io: MioSocket,
    address: Address,
    /// Whether the kernel reports the address to which a datagram was sent.
    reports_asked: bool,
    /// Latched: set by an event, cleared by a would-block.
    pub(crate) is_readable: bool,
    /// Until then nothing is received, after an error that stays.
    pub(crate) paused_until: Option<Instant>,
    /// Index of the endpoint that it belongs to.
    pub(crate) endpoint: usize,
}

/// What was received.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) length: usize,
    pub(crate) source: SocketAddr,
    /// The address that it was sent to, where the kernel reports it.
    pub(crate) asked: Option<Asked>,
}

impl Bound for Socket {
    fn address(&self) -> &Address {
        &self.address
    }
}

impl Socket {
    /// Binds an address.
    pub(crate) fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
        let socket = socket_for(address, Type::DGRAM, Protocol::UDP)?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        // Before the bind, so that it is true of every datagram.
        let reports_asked = report_asked(&socket, address)?;
        socket.bind(&address.into())?;
        Socket::new(socket.into(), reports_asked)
    }

    /// Takes a socket that another process has bound.
    pub(crate) fn adopt(socket: UdpSocket) -> io::Result<Socket> {
        let number = socket.as_raw_fd();
        Socket::adopt_bound(socket).map_err(|e| {
            let reason = format!("cannot serve file {number}, which was handed over: {e}");
            io::Error::new(e.kind(), reason)
        })
    }

    fn adopt_bound(socket: UdpSocket) -> io::Result<Socket> {
        let address = socket.local_addr()?;
        if address.port() == 0 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not bound"));
        }
        let socket = socket2::Socket::from(socket);
        // It may block: then the first receive from an empty queue would stop the loop. And a datagram may
        // bring a signal (O_ASYNC, fcntl(2)), which ends whoever does not expect it.
        fcntl_setfl(&socket, OFlags::NONBLOCK)?;
        bring_to_known_state(&socket, address)?;
        let reports_asked = report_asked(&socket, address)?;
        Socket::new(socket.into(), reports_asked)
    }

    fn new(socket: UdpSocket, reports_asked: bool) -> io::Result<Socket> {
        let address = Address::Udp(socket.local_addr()?);
        let io = MioSocket::from_std(socket);
        let (is_readable, paused_until, endpoint) = (false, None, 0);
        Ok(Socket { io, address, reports_asked, is_readable, paused_until, endpoint })
    }

    /// Returns when receiving may have another answer than would-block: at once, after a pause, or not before
    /// an event (`None`).
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        self.is_readable.then(|| self.paused_until.unwrap_or(now))
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due(now).is_some_and(|due| due <= now)
    }

    /// Receives one datagram. `None` stands for "would block".
    ///
    /// # Errors
    /// Those of recvmsg(2), except `EAGAIN` and `EINTR`.
    pub(crate) fn receive(&self, room: &mut [u8]) -> io::Result<Option<Datagram>> {
        // Mio sees a would-block, and arms poll(2) again.
        answer(|| self.io.try_io(|| self.receive_once(room)))
    }

    fn receive_once(&self, room: &mut [u8]) -> io::Result<Datagram> {
        let (length, source, asked) = if self.reports_asked {
            packet_info::receive(&self.io, room)?
        } else {
            let (length, _, source) = recvfrom(&self.io, room, RecvFlags::empty())?;
            (length, source.and_then(|source| source.try_into().ok()), None)
        };
        let source = source.ok_or_else(no_source)?;
        Ok(Datagram { length, source, asked })
    }

    /// Sends an answer, from the address that was asked if that is known. `None` stands for "would block".
    ///
    /// # Errors
    /// Those of sendmsg(2), except `EAGAIN` and `EINTR`.
    pub(crate) fn send(
        &self,
        bytes: &[u8],
        to: SocketAddr,
        from: Option<&Asked>,
    ) -> io::Result<Option<()>> {
        answer(|| match from {
            Some(from) => packet_info::send(&self.io, bytes, to, from),
            None => Ok(sendto(&self.io, bytes, SendFlags::empty(), &to).map(drop)?),
        })
    }
}

/// Has the kernel report the address to which a datagram was sent, if the socket has several.
fn report_asked(socket: &socket2::Socket, address: SocketAddr) -> io::Result<bool> {
    let wanted = address.ip().is_unspecified() && packet_info::IS_SUPPORTED;
    if wanted {
        packet_info::enable(socket, address.is_ipv6())?;
    }
    Ok(wanted)
}

/// Turns off what another process may have turned on:
///
/// | option | what it would do | here |
/// |---|---|---|
/// | `SO_BROADCAST` | broadcast addresses get answers | off |
/// | `UDP_GRO` | datagrams are joined to one, and echoed as one | off |
/// | `UDP_SEGMENT` | an answer becomes several | off |
/// | `UDP_CORK` | answers wait to become one | off |
/// | `IP_RECVERR`, `IPV6_RECVERR` | a queue of errors that nobody reads takes the room of datagrams | off |
/// | buffers, marks, multicast groups, filters, a connected peer | who is heard, and how much waits | left |
/// | options that report something with a datagram | nothing: there is room for all of them | left |
fn bring_to_known_state(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_broadcast(false)?;
    #[cfg(target_os = "linux")]
    {
        use crate::net::option::IntegerOption;

        // Kernels before 5.0 know neither.
        let _ = IntegerOption::UDP_GRO.set(socket, 0);
        let _ = IntegerOption::UDP_SEGMENT.set(socket, 0);
        IntegerOption::UDP_CORK.set(socket, 0)?;
        IntegerOption::RECVERR.set(socket, 0)?;
        if address.is_ipv6() {
            IntegerOption::RECVERR_V6.set(socket, 0)?;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = address;
    Ok(())
}

/// A socket that was shut down answers at once, with nothing and from nobody.
#[cold]
fn no_source() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "the socket was shut down")
}
