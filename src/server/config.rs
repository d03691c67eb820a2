//! Configuration of a server.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::net::endpoint::Endpoint;
use crate::server::listener::ListenOptions;

const BUFFER_SIZES: RangeInclusive<usize> = 1024..=1024 * 1024 * 1024;

/// `TCP_KEEPIDLE` counts whole seconds, and Linux takes no more of them (tcp(7)).
const KEEPALIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// Checked configuration of a [`Server`](crate::Server), made by a [`ConfigBuilder`]. The default is a
/// server on 127.0.0.1, port 65432, without a limit on connections.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) default_endpoint: bool,
    pub(crate) listen: ListenOptions,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_ip: Option<usize>,
    pub(crate) max_buffer: usize,
    pub(crate) max_memory: usize,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) drain_timeout: Duration,
    pub(crate) busy_poll: Option<Duration>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            endpoints: Vec::new(),
            default_endpoint: true,
            listen: ListenOptions::default(),
            max_connections: usize::MAX,
            max_connections_per_ip: None,
            max_buffer: 64 * 1024,
            max_memory: usize::MAX,
            idle_timeout: None,
            drain_timeout: Duration::from_secs(10),
            busy_poll: None,
        }
    }
}

impl Config {
    /// Returns a builder that begins with the default.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Returns the most connections held at once.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Returns the most bytes held for a connection in each direction.
    pub fn max_buffer(&self) -> usize {
        self.max_buffer
    }

    /// Returns the most bytes of memory for the buffers of all connections.
    pub fn max_memory(&self) -> usize {
        self.max_memory
    }
}

/// Builder of a [`Config`]. The setters take any value; [`build`](ConfigBuilder::build) checks them all.
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct ConfigBuilder(Config);

impl ConfigBuilder {
    /// Adds an endpoint to listen on. Without any, the server listens on 127.0.0.1, port 65432, or serves
    /// just the sockets that it adopts.
    pub fn endpoint(mut self, endpoint: Endpoint) -> ConfigBuilder {
        self.0.endpoints.push(endpoint);
        self
    }

    /// Adds several endpoints to listen on.
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> ConfigBuilder {
        self.0.endpoints.extend(endpoints);
        self
    }

    /// Sets whether a server that has neither endpoints nor adopted sockets listens on 127.0.0.1, port
    /// 65432. If not, it serves its event sources only. Default: it does.
    pub fn default_endpoint(mut self, on: bool) -> ConfigBuilder {
        self.0.default_endpoint = on;
        self
    }

    /// Sets the most connections held at once, at least 1. More wait in the kernel's backlog. Default: no
    /// limit.
    pub fn max_connections(mut self, count: usize) -> ConfigBuilder {
        self.0.max_connections = count;
        self
    }

    /// Sets the most connections held at once from one IP address, at least 1. More are closed as soon as
    /// they are accepted. Default: no limit.
    pub fn max_connections_per_ip(mut self, count: impl Into<Option<usize>>) -> ConfigBuilder {
        self.0.max_connections_per_ip = count.into();
        self
    }

    /// Sets the most bytes held for a connection in each direction; 1 KiB to 1 GiB. It is also the largest
    /// message and the largest single answer of a protocol. Default: 64 KiB.
    pub fn max_buffer(mut self, bytes: usize) -> ConfigBuilder {
        self.0.max_buffer = bytes;
        self
    }

    /// Sets the most bytes of memory for the buffers of all connections together, at least two buffers. Near
    /// this bound a connection gets a smaller buffer, and at the bound nothing is received until memory is
    /// returned. No connection is closed for it. Default: no bound.
    pub fn max_memory(mut self, bytes: usize) -> ConfigBuilder {
        self.0.max_memory = bytes;
        self
    }

    /// Sets how long no byte may move on a connection before it is closed, more than 0. One that waits for
    /// memory and holds none is not closed. Default: no timeout.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> ConfigBuilder {
        self.0.idle_timeout = timeout.into();
        self
    }

    /// Sets when the kernel looks for a TCP peer that has vanished. After this time without a byte it
    /// probes the peer, and gives it up if it does not answer for as long again. A peer that takes nothing
    /// of what it is owed for twice this time is given up too (on Linux). Both take up to the time of a
    /// probe longer, a third of this time and at least a second. Whole seconds, 1 to 32767. `None` leaves
    /// both to the idle timeout. Default: 60 s. See `TCP_KEEPIDLE` and `TCP_USER_TIMEOUT` in tcp(7). The
    /// peer of a Unix socket cannot vanish: the kernel ends its connections when its process ends.
    pub fn keepalive(mut self, idle: impl Into<Option<Duration>>) -> ConfigBuilder {
        self.0.listen.keepalive = idle.into();
        self
    }

    /// Sets how long a drain may take. Zero closes all connections at once. Default: 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> ConfigBuilder {
        self.0.drain_timeout = timeout;
        self
    }

    /// Sets the number of connections that the kernel may hold before they are accepted. It grants no more
    /// than `net.core.somaxconn` (listen(2)). Default: 4096.
    pub fn backlog(mut self, connections: u32) -> ConfigBuilder {
        self.0.listen.backlog = connections;
        self
    }

    /// Lets several processes listen on the same TCP port, if each sets this (`SO_REUSEPORT`, socket(7)).
    /// The kernel spreads the connections. Default: off.
    pub fn reuse_port(mut self, on: bool) -> ConfigBuilder {
        self.0.listen.reuse_port = on;
        self
    }

    /// Sets how long the loop polls without sleeping after an event, before it waits. Going to sleep and
    /// waking up is most of the latency of a lone connection. It costs processor time while there is
    /// traffic, and none when there is not. Default: not at all.
    pub fn busy_poll(mut self, time: impl Into<Option<Duration>>) -> ConfigBuilder {
        self.0.busy_poll = time.into();
        self
    }

    /// Sets the TCP congestion control of the connections, one of those that the kernel has
    /// (`TCP_CONGESTION`, tcp(7)). Linux and FreeBSD only. Default: the system's.
    pub fn congestion(mut self, name: impl Into<Option<String>>) -> ConfigBuilder {
        self.0.listen.congestion = name.into();
        self
    }

    /// Sets the permissions of Unix sockets, at most `0o777`. Who may write may connect. Default: `0o666`
    /// less the umask, which with the usual umask leaves the owner alone.
    pub fn unix_mode(mut self, mode: impl Into<Option<u32>>) -> ConfigBuilder {
        self.0.listen.unix_mode = mode.into();
        self
    }

    /// Returns the configuration.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn build(self) -> Result<Config, ConfigError> {
        let config = self.0;
        if config.max_connections == 0 {
            return Err(ConfigError("the maximum of connections must be at least 1"));
        }
        if config.max_connections_per_ip == Some(0) {
            return Err(ConfigError("the maximum of connections per IP must be at least 1"));
        }
        if !BUFFER_SIZES.contains(&config.max_buffer) {
            return Err(ConfigError("the maximum buffer must be from 1KiB to 1GiB"));
        }
        if config.max_memory < 2 * config.max_buffer {
            return Err(ConfigError(
                "the maximum memory must hold two buffers of the maximum size",
            ));
        }
        let fits = |idle: &Duration| KEEPALIVES.contains(idle) && idle.subsec_nanos() == 0;
        if config.listen.keepalive.is_some_and(|idle| !fits(&idle)) {
            return Err(ConfigError("keepalive must be whole seconds from 1s to 32767s"));
        }
        if config.idle_timeout.is_some_and(|idle| idle.is_zero()) {
            return Err(ConfigError("the idle timeout must be more than 0"));
        }
        if config.listen.unix_mode.is_some_and(|mode| mode > 0o777) {
            return Err(ConfigError("the mode of a Unix socket must be at most 0o777"));
        }
        Ok(config)
    }
}

/// A value of a configuration that is out of its range. It prints as a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigError(&'static str);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for ConfigError {}

impl From<ConfigError> for io::Error {
    fn from(e: ConfigError) -> io::Error {
        io::Error::new(ErrorKind::InvalidInput, e)
    }
}
