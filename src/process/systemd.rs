//! How a service manager starts the process, and what it is told.
//!
//! Sources: `sd_listen_fds(3)`, `sd_notify(3)`, `sd_watchdog_enabled(3)`. The messages are sent here and not by
//! the crate `sd-notify`, which waits as long as the manager's queue is full, and the loop with it.

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use log::warn;
use rustix::net::SendFlags;
use socket2::{Domain, SockAddr, Socket, Type};

/// How long `READY=1` may wait where the manager's queue is full, as it may be while a system starts. A
/// manager that misses this message takes the start for a failure.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of the first file that is handed over, unless `LISTEN_FDS_FIRST_FD` says otherwise.
const FIRST_FILE: u64 = 3;

/// Most files that are taken for handed over. More than any manager has, and few enough for a list of them.
const MOST_SOCKETS: u64 = 65_536;

/// A socket that was handed over.
#[derive(Debug)]
pub enum Inherited {
    /// A stream socket, which should listen.
    Stream(OwnedFd),
    /// A UDP socket.
    Udp(UdpSocket),
}

/// Returns the sockets that were handed over to this process (`LISTEN_FDS`), in their order. To be called
/// before the process opens a file, which would take the number of one that is said to be handed over and is
/// not.
///
/// # Errors
/// A variable that is no number in its range, and a file that is neither a stream socket nor a UDP socket.
pub fn inherited_sockets() -> io::Result<Vec<Inherited>> {
    // Otherwise the sockets are meant for the process from which we have inherited the variables.
    if !is_meant("LISTEN_PID")?.unwrap_or(false) {
        return Ok(Vec::new());
    }
    // The crate takes what it cannot read for nothing, and makes a list of any length.
    number("LISTEN_FDS", 0..=MOST_SOCKETS)?;
    number("LISTEN_FDS_FIRST_FD", FIRST_FILE..=MOST_SOCKETS)?;
    let mut files = ListenFd::from_env();
    (0..files.len()).map(|i| take(&mut files, i)).collect()
}

/// Returns whether the variable holds the id of this process; `None` without it.
fn is_meant(variable: &str) -> io::Result<Option<bool>> {
    if env::var_os(variable).is_none_or(|pid| pid.is_empty()) {
        return Ok(None);
    }
    let pid = number(variable, 1..=u64::from(u32::MAX))?;
    Ok(pid.map(|pid| pid == u64::from(std::process::id())))
}

/// Returns the number in a variable; `None` without the variable.
fn number(variable: &str, range: RangeInclusive<u64>) -> io::Result<Option<u64>> {
    let Some(text) = env::var_os(variable) else { return Ok(None) };
    let text = text.to_string_lossy();
    match text.parse().ok().filter(|number| range.contains(number) && !text.starts_with('+')) {
        None => {
            let (from, to) = range.into_inner();
            let reason = format!(
                "the variable {variable} is `{text}`, expected a number from {from} to {to}"
            );
            Err(io::Error::new(ErrorKind::InvalidInput, reason))
        }
        number => Ok(number),
    }
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

/// Returns the time in which the service manager wants to hear from this process again and again
/// (`WATCHDOG_USEC`), if it wants to.
///
/// # Errors
/// A variable that is no number in its range.
pub fn watchdog_time() -> io::Result<Option<Duration>> {
    if is_meant("WATCHDOG_PID")? == Some(false) {
        return Ok(None);
    }
    Ok(number("WATCHDOG_USEC", 1..=u64::MAX - 1)?.map(Duration::from_micros))
}

/// The service manager, if there is one: its socket has the address in `NOTIFY_SOCKET`.
#[derive(Debug, Clone)]
pub struct ServiceManager(Option<Arc<Line>>);

/// The way to the manager. The socket is kept, since a keepalive must go out also where no file is left.
#[derive(Debug)]
struct Line {
    address: SockAddr,
    socket: Socket,
}

impl ServiceManager {
    /// Finds the service manager. An address that cannot be one is a warning.
    pub fn from_env() -> ServiceManager {
        match env::var_os("NOTIFY_SOCKET").map(ServiceManager::at).transpose() {
            Ok(manager) => manager.unwrap_or(ServiceManager(None)),
            Err(e) => {
                complain(&e);
                ServiceManager(None)
            }
        }
    }

    /// Returns the manager whose socket has this address. A name that begins with `@` is abstract.
    ///
    /// # Errors
    /// The address is too long, or no more files.
    pub fn at(address: OsString) -> io::Result<ServiceManager> {
        let mut name = address.into_vec();
        // The kernel expects a zero byte before an abstract name (unix(7)).
        if let Some(first @ b'@') = name.first_mut() {
            *first = 0;
        }
        let address = SockAddr::unix(OsString::from_vec(name))?;
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        socket.set_write_timeout(Some(READY_TIMEOUT))?;
        Ok(ServiceManager(Some(Arc::new(Line { address, socket }))))
    }

    /// Returns whether there is a service manager.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Says that everything is bound: `READY=1`. It may wait, so it is not for the thread of the loop.
    pub fn ready(&self) {
        if let Err(e) = self.send("READY=1", SendFlags::empty()) {
            complain(&e);
        }
    }

    /// Says that the drain has begun: `STOPPING=1`. It does not wait. If the manager's queue is full, the
    /// message is dropped with a warning: the manager can do without it.
    pub fn stopping(&self) {
        if let Err(e) = self.send("STOPPING=1", SendFlags::DONTWAIT) {
            complain(&e);
        }
    }

    /// Says that the loop runs: `WATCHDOG=1`. It does not wait.
    ///
    /// # Errors
    /// Those of sendto(2); `WouldBlock` if the manager's queue is full.
    pub fn keepalive(&self) -> io::Result<()> {
        self.send("WATCHDOG=1", SendFlags::DONTWAIT)
    }

    fn send(&self, message: &str, flags: SendFlags) -> io::Result<()> {
        let Some(line) = &self.0 else { return Ok(()) };
        let flags = flags.bits().cast_signed();
        loop {
            // With a timeout the kernel does not restart the call after a signal (signal(7)).
            match line.socket.send_to_with_flags(message.as_bytes(), &line.address, flags) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                sent => return sent.map(drop),
            }
        }
    }
}

fn complain(e: &io::Error) {
    warn!("cannot notify the service manager: {e}");
}
