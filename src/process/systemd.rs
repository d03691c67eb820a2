//! How a service manager starts us and hears of us.
//!
//! Sources: `sd_listen_fds(3)`, `sd_notify(3)`.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use listenfd::ListenFd;
use log::warn;
use socket2::{Domain, SockAddr, Socket, Type};

/// How long to wait where the manager's queue is full, as it may be while a system starts: whoever
/// misses `READY=1` takes the start for a failure.
const AT_THE_START: Duration = Duration::from_secs(5);

/// The same for a word that the manager can do without, while clients wait.
const IN_THE_LOOP: Duration = Duration::from_millis(10);

/// The sockets that were handed over (`LISTEN_FDS`), in their order; none where nobody did.
///
/// # Errors
/// A file that is no stream socket.
pub fn handed_over() -> io::Result<Vec<OwnedFd>> {
    // Without it they are meant for another process, from which we have inherited the variable.
    if env::var_os("LISTEN_PID").is_none_or(|pid| pid.is_empty()) {
        return Ok(Vec::new());
    }
    let mut files = ListenFd::from_env();
    (0..files.len())
        .map(|i| {
            if let Ok(Some(socket)) = files.take_unix_listener(i) {
                return Ok(socket.into());
            }
            match files.take_tcp_listener(i) {
                Ok(Some(socket)) => Ok(socket.into()),
                Ok(None) => Err(io::ErrorKind::NotFound.into()),
                Err(e) => {
                    let why = format!("cannot serve what was handed over (LISTEN_FDS): {e}");
                    Err(io::Error::new(e.kind(), why))
                }
            }
        })
        .collect()
}

/// Says that everything is bound: `READY=1`, where `NOTIFY_SOCKET` is set.
pub fn ready() {
    notify("READY=1", AT_THE_START);
}

/// Says that the end has begun: `STOPPING=1`, where `NOTIFY_SOCKET` is set.
pub fn stopping() {
    notify("STOPPING=1", IN_THE_LOOP);
}

fn notify(message: &str, patience: Duration) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(e) = send(message, &name, patience) {
        warn!("cannot notify the service manager: {e}");
    }
}

fn send(message: &str, name: &OsStr, patience: Duration) -> io::Result<()> {
    let mut name = name.as_bytes().to_vec();
    // An abstract name: the kernel wants a zero byte there (unix(7)).
    if let Some(first @ b'@') = name.first_mut() {
        *first = 0;
    }
    let address = SockAddr::unix(OsStr::from_bytes(&name))?;
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    // To a full queue a send would wait for ever.
    socket.set_write_timeout(Some(patience))?;
    loop {
        // Interrupted by any signal, for which there are handlers by now, and not made again by the
        // kernel: it has a limit of time (signal(7)).
        match socket.send_to(message.as_bytes(), &address) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent.map(drop),
        }
    }
}
