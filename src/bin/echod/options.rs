//! The command line.

use std::error::Error;
use std::time::Duration;

use clap::{ArgAction, Parser};
use log::LevelFilter;

use echoloop::cli::units;
use echoloop::net::endpoint::EndpointError;
use echoloop::process::memory;
use echoloop::protocol::Kind;
use echoloop::sources::metrics;
use echoloop::{Config, Endpoint};

use crate::endpoints;

pub const NAME: &str = "echod";

/// Number of files left for what is opened and closed again while the loop runs.
const SPARE_FILES: usize = 2;

const EXIT_CODES: &str = "\
Exit codes:
  0        stopped
  1        could not start, or the loop failed
  2        usage
  128 + N  stopped by a second signal, number N";

/// Echoes what it receives, until it is stopped.
///
/// When all endpoints are bound, stdout gets one line for each address. SIGTERM and SIGINT drain: all that
/// was received is sent back, then the daemon ends. A second signal ends it at once; one that follows the
/// first within 300 ms is the same wish.
///
/// Counts take k and M (of 1000), sizes KiB and MiB (of 1024), durations us, ms, s, m and h, as
/// in 500ms, 1.5s or 1h30m.
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_help = EXIT_CODES)]
pub struct Options {
    /// Where to listen: tcp://HOST:PORT, udp://HOST:PORT or unix:PATH. HOST is a name, an IPv4 address, an
    /// IPv6 address in brackets, or nothing for every interface. PORT is a number, 0 for one that the system
    /// picks, or the name of a service
    ///
    /// [default: `tcp://127.0.0.1:65432`, or what systemd hands over]
    #[arg(value_name = "ENDPOINT")]
    pub endpoints: Vec<Endpoint>,

    /// Most connections held at once; more wait in the backlog
    /// [default: what the limit of open files allows, less the daemon's own files]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub max_connections: Option<usize>,

    /// Most connections held at once from one IP address; more are closed as soon as they come
    /// [default: no limit]
    #[arg(long, value_name = "N", value_parser = units::count)]
    max_connections_per_ip: Option<usize>,

    /// Most bytes held for a connection in each direction; at least 1KiB
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = units::size)]
    max_buffer: usize,

    /// Most memory for the buffers of all connections together. Near it each gets less, and at it nothing is
    /// received until memory is returned; nobody is disconnected
    /// [default: half of what the machine and the limits of the process or its control group allow]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    max_memory: Option<usize>,

    /// Close a connection on which no byte moved for this time, also a reader that stalls; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    idle_timeout: Duration,

    /// Find TCP peers that have vanished: after this time without a byte probe the peer, and give it up if it
    /// does not answer for as long again. Also give up a peer that takes nothing of what it is owed for twice
    /// this time. Whole seconds; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    keepalive: Duration,

    /// Longest time of a drain; 0 ends at once
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    drain_timeout: Duration,

    /// Connections that the kernel may hold before they are accepted, as far as it allows
    #[arg(long, value_name = "N", default_value = "4096", value_parser = units::count)]
    backlog: usize,

    /// Echo whole messages only. A message is, by KIND: raw, not known, so every byte is echoed as it comes;
    /// line, all up to a newline; fixed:N, N bytes; length:ascii5, length:u16 or length:u32, a length (five
    /// digits, or two or four bytes in network byte order) and as many bytes behind it; typed:A=4,B=16, a
    /// type (one character) and as many bytes behind it as the type has here. A message that is malformed or
    /// larger than --max-buffer ends its connection
    #[arg(long, value_name = "KIND", default_value_t = Kind::Raw)]
    pub framing: Kind,

    /// Let several processes listen on one port; the kernel spreads the connections
    #[arg(long)]
    pub reuse_port: bool,

    /// After an event, poll without sleeping for this time before waiting, such as 100us: lower latency for
    /// processor time; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    busy_poll: Duration,

    /// TCP congestion control of the connections, one that the kernel has [default: the system's]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,

    /// Most datagrams answered a second to one source address; more are dropped and counted. An IPv6 network
    /// of 64 bits counts as one address
    #[arg(long, value_name = "N", default_value = "10k", value_parser = units::count)]
    pub udp_rate: usize,

    /// Permissions of Unix sockets, octal; who may write may connect [default: 666 less the umask]
    #[arg(long, value_name = "OCTAL", value_parser = units::mode)]
    unix_mode: Option<u32>,

    /// Log a line of counters at this interval; 0 is never. SIGUSR1 logs one at once, and so does the end
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    pub stats_interval: Duration,

    /// Serve the counters over HTTP, at /metrics, in Prometheus's text format [default: off]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    pub metrics: Option<Endpoint>,

    /// Log more: once debug, twice trace. `RUST_LOG`, where set, wins
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,

    /// Log less: once warnings, twice errors, three times nothing
    #[arg(short, long, action = ArgAction::Count)]
    quiet: u8,
}

impl Options {
    /// Returns the level of the log, unless `RUST_LOG` is set.
    pub fn level(&self) -> LevelFilter {
        let shifted = i16::from(self.verbose) - i16::from(self.quiet);
        match shifted {
            ..=-3 => LevelFilter::Off,
            -2 => LevelFilter::Error,
            -1 => LevelFilter::Warn,
            0 => LevelFilter::Info,
            1 => LevelFilter::Debug,
            2.. => LevelFilter::Trace,
        }
    }

    /// Returns the number of files that are opened once all is bound, for other things than connections.
    pub fn later_files(&self) -> usize {
        SPARE_FILES + self.metrics.as_ref().map_or(0, |_| metrics::CLIENTS)
    }

    /// Returns the memory for all buffers.
    fn max_memory(&self) -> usize {
        self.max_memory.unwrap_or_else(|| {
            let half = usize::try_from(memory::allowed() / 2).unwrap_or(usize::MAX);
            half.max(self.max_buffer.saturating_mul(2))
        })
    }

    /// Returns the configuration of the server; `has_inherited` says that sockets were handed over.
    ///
    /// # Errors
    /// A value that is out of its range.
    pub fn config(&self, has_inherited: bool) -> Result<Config, Box<dyn Error>> {
        let config = Config::builder()
            .endpoints(endpoints::streams(&self.endpoints))
            .default_endpoint(self.endpoints.is_empty() && !has_inherited)
            .max_connections(self.max_connections.unwrap_or(usize::MAX))
            .max_connections_per_ip(self.max_connections_per_ip)
            .max_buffer(self.max_buffer)
            .max_memory(self.max_memory())
            .idle_timeout(optional(self.idle_timeout))
            .keepalive(optional(self.keepalive))
            .drain_timeout(self.drain_timeout)
            .backlog(self.backlog.try_into().unwrap_or(u32::MAX))
            .reuse_port(self.reuse_port)
            .busy_poll(optional(self.busy_poll))
            .congestion(self.congestion.clone())
            .unix_mode(self.unix_mode)
            .build()?;
        let framing = &self.framing;
        framing
            .check(config.max_buffer())
            .map_err(|e| format!("--framing {framing}: {e}, which is --max-buffer"))?;
        Ok(config)
    }
}

/// Returns `None`, which is never, for a duration of 0.
pub fn optional(duration: Duration) -> Option<Duration> {
    Some(duration).filter(|duration| !duration.is_zero())
}

fn host_and_port(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse().map_err(|e: EndpointError| e.to_string())?;
    let is_tcp = !endpoint.is_unix() && !endpoint.is_udp();
    if is_tcp { Ok(endpoint) } else { Err("expected HOST:PORT".into()) }
}
