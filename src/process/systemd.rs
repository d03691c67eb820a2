//! How a service manager starts the process, and what it is told.
//!
//! Sources: `sd_listen_fds(3)`, `sd_notify(3)`. The messages are sent here and not by the crate `sd-notify`,
//! which waits as long as the manager's queue is full, and the loop with it.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use listenfd::ListenFd;
use log::warn;
use socket2::{Domain, SockAddr, Socket, Type};

/// How long `READY=1` may wait where the manager's queue is full, as it may be while a system starts. A
/// manager that misses this message takes the start for a failure.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket that was handed over.
#[derive(Debug)]
pub enum Inherited {
    /// A stream socket, which should listen.
    Stream(OwnedFd),
    /// A UDP socket.
    Udp(UdpSocket),
}

/// Returns the sockets that were handed over to this process (`LISTEN_FDS`), in their order.
///
/// # Errors
/// A file that is neither a stream socket nor a UDP socket.
pub fn inherited_sockets() -> io::Result<Vec<Inherited>> {
    // Without LISTEN_PID the sockets are meant for the process from which we have inherited the variables.
    if env::var_os("LISTEN_PID").is_none_or(|pid| pid.is_empty()) {
        return Ok(Vec::new());
    }
    let mut files = ListenFd::from_env();
    (0..files.len()).map(|i| take(&mut files, i)).collect()
}

/// Takes a file, which stays where it is if it is of another kind than the one that is tried.
fn take(files: &mut ListenFd, i: usize) -> io::Result<Inherited> {
    if let Ok(Some(socket)) = files.take_unix_listener(i) {
        return Ok(Inherited::Stream(socket.into()));
    }
    if let Ok(Some(socket)) = files.take_udp_socket(i) {
        return Ok(Inherited::Udp(socket));
    }
    match files.take_tcp_listener(i) {
        Ok(Some(socket)) => Ok(Inherited::Stream(socket.into())),
        Ok(None) => Err(io::ErrorKind::NotFound.into()),
        Err(e) => {
            let reason = format!("cannot serve what was handed over (LISTEN_FDS): {e}");
            Err(io::Error::new(e.kind(), reason))
        }
    }
}

/// The service manager, if there is one: its socket has the address in `NOTIFY_SOCKET`.
#[derive(Debug, Clone)]
pub struct ServiceManager(Option<OsString>);

impl ServiceManager {
    /// Finds the service manager.
    pub fn from_env() -> ServiceManager {
        ServiceManager(env::var_os("NOTIFY_SOCKET"))
    }

    /// Says that everything is bound: `READY=1`. It may wait; call it before the loop runs.
    pub fn ready(&self) {
        self.notify("READY=1", Some(READY_TIMEOUT));
    }

    /// Says that the drain has begun: `STOPPING=1`. It does not wait. If the manager's queue is full, the
    /// message is dropped with a warning: the manager can do without it.
    pub fn stopping(&self) {
        self.notify("STOPPING=1", None);
    }

    fn notify(&self, message: &str, timeout: Option<Duration>) {
        let Some(name) = &self.0 else { return };
        if let Err(e) = send(message, name.clone(), timeout) {
            warn!("cannot notify the service manager: {e}");
        }
    }
}

/// Sends without waiting if there is no timeout.
fn send(message: &str, name: OsString, timeout: Option<Duration>) -> io::Result<()> {
    let mut name = name.into_vec();
    // The kernel expects a zero byte before an abstract name (unix(7)).
    if let Some(first @ b'@') = name.first_mut() {
        *first = 0;
    }
    let address = SockAddr::unix(OsString::from_vec(name))?;
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    match timeout {
        Some(_) => socket.set_write_timeout(timeout)?,
        None => socket.set_nonblocking(true)?,
    }
    loop {
        // With a timeout the kernel does not restart the call after a signal (signal(7)).
        match socket.send_to(message.as_bytes(), &address) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent.map(drop),
        }
    }
}
