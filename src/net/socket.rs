//! A connected client socket: TCP or Unix.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::net::nonblocking::Stream;

/// A socket of either kind. It is one type, so that one slab holds both.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket {
    /// TCP, tcp(7).
    Tcp(TcpStream),
    /// Unix socket, unix(7).
    Unix(UnixStream),
}

impl Stream for Socket {
    /// True only for TCP over epoll(7), where both of these are certain: more bytes bring a new event,
    /// whether or not a call has answered would-block; and an urgent mark, at which a recv stops short,
    /// brings an event too. Mio over poll(2) is armed again only by a would-block, so the shortcut would
    /// lose the connection's events. Mio over kqueue does not report urgent marks. A recv from a Unix
    /// socket also stops, without an event, where a file was passed (unix(7)).
    fn short_recv_means_empty(&self) -> bool {
        let is_certain = cfg!(all(
            any(target_os = "linux", target_os = "android"),
            not(mio_unsupported_force_poll_poll)
        ));
        is_certain && matches!(self, Socket::Tcp(_))
    }

    fn peek(&self, room: &mut [u8]) -> io::Result<usize> {
        let error = match self {
            Socket::Tcp(stream) => stream.take_error(),
            Socket::Unix(stream) => stream.take_error(),
        };
        error?.map_or(Ok(()), Err)?;
        match self {
            Socket::Tcp(stream) => stream.try_io(|| receive(stream, room, RecvFlags::PEEK)),
            Socket::Unix(stream) => stream.try_io(|| receive(stream, room, RecvFlags::PEEK)),
        }
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
            Socket::Tcp(stream) => stream.try_io(|| receive(&*stream, room, RecvFlags::empty())),
            Socket::Unix(stream) => stream.try_io(|| receive(&*stream, room, RecvFlags::empty())),
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

/// Sending to a peer that is gone is an error of this call, not a SIGPIPE to the process. Apple's systems
/// lack the flag; there socket2 sets `SO_NOSIGPIPE` on the listener, and its connections inherit it.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Calls the kernel by way of rustix, not of the standard library. In a process with a second thread (ours
/// writes the log), libc makes each of its calls a cancellation point (pthreads(7)), which costs 25
/// instructions.
fn receive(socket: impl AsFd, room: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    match rustix::net::recv(socket, room, flags) {
        Ok((n, _)) => Ok(n),
        Err(e) => Err(error(e)),
    }
}

fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    match rustix::net::send(socket, bytes, NO_SIGNAL) {
        Ok(n) => Ok(n),
        Err(e) => Err(error(e)),
    }
}

/// Not inlined: an echo would make an error of every answer, and then throw it away.
#[cold]
#[inline(never)]
fn error(e: Errno) -> io::Error {
    match e {
        // What a Unix socket answers for `ENOMEM`.
        Errno::NOBUFS => io::Error::new(ErrorKind::OutOfMemory, e),
        _ => e.into(),
    }
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
