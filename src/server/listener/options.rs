//! Options of server sockets.

use std::time::Duration;

/// How sockets listen, and what their connections inherit. See the setters of
/// [`ConfigBuilder`](crate::server::config::ConfigBuilder).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Number of connections that the kernel may hold before they are accepted (listen(2)).
    pub backlog: u32,
    /// Whether several processes may listen on one TCP port (`SO_REUSEPORT`, socket(7)).
    pub reuse_port: bool,
    /// When the kernel looks for a peer that has vanished (`TCP_KEEPIDLE`, tcp(7)).
    pub keepalive: Option<Duration>,
    /// Name of the TCP congestion control (`TCP_CONGESTION`, tcp(7)).
    pub congestion: Option<String>,
    /// Permissions of a Unix socket; `None` is `0o666` less the umask.
    pub unix_mode: Option<u32>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 4096,
            reuse_port: false,
            keepalive: Some(Duration::from_secs(60)),
            congestion: None,
            unix_mode: None,
        }
    }
}

impl ListenOptions {
    /// Returns the backlog as listen(2) takes it.
    pub(crate) fn backlog(&self) -> i32 {
        self.backlog.try_into().unwrap_or(i32::MAX)
    }
}
