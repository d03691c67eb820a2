//! What a caller may choose.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::net::endpoint::Endpoint;

const BUFFER_SIZES: RangeInclusive<usize> = 1024..=1024 * 1024 * 1024;

/// `TCP_KEEPIDLE` is in whole seconds, and Linux takes no more of them (tcp(7)).
const KEEPALIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// The settings of a [`Server`](crate::Server). `Config::default()` is a server on
/// 127.0.0.1, port 65432, without a limit of its own on connections.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; at least one, unless sockets that listen are handed over.
    pub endpoints: Vec<Endpoint>,
    /// Connections held at once, at least 1. More wait in the kernel's backlog.
    pub max_connections: usize,
    /// Connections held at once from one IP address, at least 1; more are closed as soon as they are
    /// accepted. `None` is no limit.
    pub max_connections_per_ip: Option<usize>,
    /// Bytes held for a connection that does not read what it is owed; 1 KiB to 1 GiB.
    pub max_buffer: usize,
    /// A connection on which no byte moved for this long is closed; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// After this long without a byte the kernel asks whether the peer is still there, and gives it
    /// up when three probes, a third of it and at least a second apart, are not answered; whole
    /// seconds, 1 to 32767. A peer that for twice as long takes nothing of what it is owed is given up
    /// too (on Linux). `None` leaves both to the idle timeout.
    pub keepalive: Option<Duration>,
    /// How long a drain may take; zero cuts off at once.
    pub drain_timeout: Duration,
    /// Connections that the kernel may hold before they are accepted. It grants what it allows
    /// (`net.core.somaxconn` on Linux; listen(2)).
    pub backlog: u32,
    /// Lets other processes that also wish it listen on the same TCP port (`SO_REUSEPORT`, socket(7)):
    /// the kernel spreads the connections.
    pub reuse_port: bool,
    /// After an event, ask for the next ones without sleeping for this long before waiting: one
    /// connection's round trip is mostly going to sleep and waking up. It costs a processor while there
    /// is traffic, and nothing when there is none. `None` always sleeps.
    pub busy_poll: Option<Duration>,
    /// TCP congestion control of the connections, one of those that the kernel has (tcp(7),
    /// `TCP_CONGESTION`); `None` is the system's choice. On Linux and FreeBSD only.
    pub congestion: Option<String>,
    /// Permissions of a Unix socket, at most 0o777; `None` is 0o666 less the umask.
    pub unix_mode: Option<u32>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            endpoints: vec![Endpoint::default()],
            max_connections: usize::MAX,
            max_connections_per_ip: None,
            max_buffer: 64 * 1024,
            idle_timeout: None,
            keepalive: Some(Duration::from_secs(60)),
            drain_timeout: Duration::from_secs(10),
            backlog: 4096,
            reuse_port: false,
            busy_poll: None,
            congestion: None,
            unix_mode: None,
        }
    }
}

impl Config {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// A sentence about the first setting that cannot be used.
    pub fn check(&self) -> Result<(), String> {
        if self.max_connections == 0 {
            return Err("the maximum of connections must be at least 1".into());
        }
        if self.max_connections_per_ip == Some(0) {
            return Err("the maximum of connections per IP must be at least 1".into());
        }
        if !BUFFER_SIZES.contains(&self.max_buffer) {
            return Err("the maximum buffer must be from 1KiB to 1GiB".into());
        }
        if self.keepalive.is_some_and(|idle| !KEEPALIVES.contains(&idle) || idle.subsec_nanos() > 0)
        {
            return Err("keepalive must be whole seconds from 1s to 32767s, or 0".into());
        }
        if self.idle_timeout.is_some_and(|idle| idle.is_zero()) {
            return Err("the idle timeout must be more than 0".into());
        }
        if self.unix_mode.is_some_and(|mode| mode > 0o777) {
            return Err("the mode of a Unix socket must be at most 777".into());
        }
        Ok(())
    }

    /// As listen(2) takes it.
    pub(crate) fn backlog(&self) -> i32 {
        self.backlog.try_into().unwrap_or(i32::MAX)
    }
}
