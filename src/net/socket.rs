//! A connected client socket, over TCP or a Unix socket: one type, so that one slab holds both.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags};

use crate::net::nonblocking::Stream;

/// Either kind of stream.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP, tcp(7).
    Tcp(TcpStream),
    /// Over a Unix socket, unix(7).
    Unix(UnixStream),
}

impl Stream for Socket {
    /// True only where more bytes are sure to be announced by an edge of their own, whether or not
    /// the call ever answered would-block, and where an urgent mark, which cuts a recv short, is
    /// announced too: TCP over epoll(7). Poll(2) is armed again only by a would-block, so there the
    /// shortcut would leave the connection deaf; mio's kqueue does not tell of urgent marks. A recv
    /// from a Unix socket also stops, unannounced, where a file was passed along (unix(7)).
    fn short_recv_means_empty(&self) -> bool {
        let announced = cfg!(all(
            any(target_os = "linux", target_os = "android"),
            not(mio_unsupported_force_poll_poll)
        ));
        announced && matches!(self, Socket::Tcp(_))
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_io(|| receive(&*stream, room)),
            Socket::Unix(stream) => stream.try_io(|| receive(&*stream, room)),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_io(|| send(&*stream, bytes)),
            Socket::Unix(stream) => stream.try_io(|| send(&*stream, bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A peer that is gone is an error of this call, not a signal to the process. Where there is no such
/// flag, socket2 makes the listener so, and its connections inherit it.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Not by way of the standard library: once a process has a second thread, and ours has one for its
/// log, libc makes each of its calls a cancellation point (pthreads(7)), which costs 25 instructions.
/// On Linux these go to the kernel directly.
fn receive(socket: impl AsFd, room: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, room, RecvFlags::empty())?.0)
}

fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, NO_SIGNAL)?)
}

impl Source for Socket {
    fn register(&mut self, to: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.register(to, token, interest),
            Socket::Unix(stream) => stream.register(to, token, interest),
        }
    }

    fn reregister(&mut self, to: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.reregister(to, token, interest),
            Socket::Unix(stream) => stream.reregister(to, token, interest),
        }
    }

    fn deregister(&mut self, from: &Registry) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.deregister(from),
            Socket::Unix(stream) => stream.deregister(from),
        }
    }
}
