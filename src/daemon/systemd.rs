//! How a service manager starts us and hears of us.
//!
//! Sources: `sd_listen_fds(3)`, `sd_notify(3)`.

use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use log::warn;
use sd_notify::NotifyState;

/// The sockets that were handed over (`LISTEN_FDS`), in their order; none where nobody did.
///
/// # Errors
/// A file that is no stream socket.
pub fn handed_over() -> io::Result<Vec<OwnedFd>> {
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
    notify(NotifyState::Ready);
}

/// Says that the end has begun: `STOPPING=1`, where `NOTIFY_SOCKET` is set.
pub fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        warn!("cannot notify the service manager: {e}");
    }
}
