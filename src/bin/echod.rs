//! The echo daemon: from the command line to a [`Config`], a run, and an exit code.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{ArgAction, Parser};
use log::{LevelFilter, info, warn};

use echoloop::cli::units;
use echoloop::process::log_sink;
use echoloop::process::{limits, systemd};
use echoloop::sources::metrics::{self, Metrics};
use echoloop::sources::signals::Signals;
use echoloop::sources::statistics::Stats;
use echoloop::{Address, Config, End, Endpoint, Server, cli};

const NAME: &str = "echod";

/// Echoes what it receives, until stopped.
///
/// Once all endpoints are bound, each address stands on a line of its own on stdout. SIGTERM and
/// SIGINT give back all that was taken, then end; a second one ends at once.
///
/// Counts take k and M (of 1000), sizes KiB and MiB (of 1024), durations us, ms, s, m and h.
#[derive(Parser)]
#[command(name = NAME, version, after_help = EXIT_CODES)]
struct Options {
    /// tcp://HOST:PORT, where HOST is a name, an IPv4 address, an IPv6 address in brackets, or
    /// nothing for every interface, and PORT is a number, 0 for one that the system picks, or a
    /// service's name; or unix:PATH
    ///
    /// [default: `tcp://127.0.0.1:65432`, or what systemd hands over]
    #[arg(value_name = "ENDPOINT")]
    endpoints: Vec<Endpoint>,

    /// Connections held at once; more wait in the backlog
    /// [default: what the limit of open files allows, less the daemon's own]
    #[arg(long, value_name = "N", value_parser = units::count)]
    max_connections: Option<usize>,

    /// Connections held at once from one IP address; more are closed as soon as they come
    /// [default: no limit]
    #[arg(long, value_name = "N", value_parser = units::count)]
    max_connections_per_ip: Option<usize>,

    /// Bytes held for a connection that does not read what it is owed; at least 1KiB
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = units::size)]
    max_buffer: usize,

    /// Close a connection on which no byte moved for that long, stalled readers included; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    idle_timeout: Duration,

    /// Ask after a silent peer after that long, then three times, a third of it, and at least 1s,
    /// apart; end a connection whose peer has for twice that long not answered, or not taken what it
    /// is owed; whole seconds, 0 is never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    keepalive: Duration,

    /// On SIGTERM or SIGINT, take at most that long to give back what was taken; 0 ends at once
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    drain_timeout: Duration,

    /// Connections that the kernel may hold before they are accepted, as far as it allows
    #[arg(long, value_name = "N", default_value = "4096", value_parser = units::count)]
    backlog: usize,

    /// Let several processes listen on one port; the kernel spreads the connections
    #[arg(long)]
    reuse_port: bool,

    /// After an event, poll without sleeping for up to that long before waiting: lower latency for
    /// processor time, such as 100us; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    busy_poll: Duration,

    /// TCP congestion control of the connections, one that the kernel has [default: the system's]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,

    /// Permissions of a Unix socket, octal [default: 666 less the umask]
    #[arg(long, value_name = "OCTAL", value_parser = units::mode)]
    unix_mode: Option<u32>,

    /// Log a line of counters each interval; 0 is never. SIGUSR1 logs one at once, and so does the end
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    stats_interval: Duration,

    /// Serve the counters over HTTP, at /metrics, in Prometheus's text format [default: off]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    metrics: Option<Endpoint>,

    /// Log more: once debug, twice trace; where it is set, `RUST_LOG` wins
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,

    /// Log less: once warnings, twice errors, three times nothing
    #[arg(short, long, action = ArgAction::Count)]
    quiet: u8,
}

const EXIT_CODES: &str = "\
Exit codes:
  0        stopped
  1        could not start, or the loop failed
  2        usage
  128 + N  stopped by a second signal, number N";

fn main() -> ExitCode {
    match cli::parse::<Options>() {
        Ok(options) => run(&options).unwrap_or_else(|e| {
            cli::complain(NAME, &e.to_string());
            ExitCode::FAILURE
        }),
        Err(exit) => exit,
    }
}

fn run(options: &Options) -> io::Result<ExitCode> {
    let level = options.level();
    let inherited = systemd::handed_over()?;
    let others = inherited.len() + 2 * options.endpoints.len() + options.metrics_files();
    let most = limits::raise_file_limit(others)?;
    let config = options.config(most, inherited.is_empty());
    if let Err(why) = config.check() {
        return Ok(cli::usage(NAME, &why));
    }
    let mut log = log_sink::install(level)?;
    if config.max_connections > most {
        warn!("the limit of open files allows only {most} connections");
    }
    let exit = match serve(&config, inherited, options) {
        Ok(End::Drained { .. }) => ExitCode::SUCCESS,
        Ok(End::Stopped { status }) => ExitCode::from(status),
        Err(e) => {
            // By way of the log's queue, behind a line that may be stuck in a stalled stderr.
            log.write_all(format!("{NAME}: {e}\n").as_bytes())?;
            ExitCode::FAILURE
        }
    };
    log.wait_until_written();
    Ok(exit)
}

fn serve(config: &Config, inherited: Vec<OwnedFd>, options: &Options) -> io::Result<End> {
    let mut server = Server::adopt(inherited, config)?;
    let metrics = options
        .metrics
        .clone()
        .map(Metrics::bind)
        .transpose()
        .map_err(|e| io::Error::new(e.kind(), format!("no place for the metrics: {e}")))?;
    // Behind all that may take long, such as to look up a name: a signal ends the process until here.
    // And before the addresses are out: whoever reads them may send one at once.
    server.invite(Box::new(Signals::of_a_daemon()?))?;
    if let Some(interval) = optional(options.stats_interval) {
        server.invite(Box::new(Stats::every(interval, Instant::now())))?;
    }
    if let Some(metrics) = metrics {
        for address in metrics.addresses().iter().filter_map(Address::as_tcp) {
            info!("metrics on http://{address}/metrics");
        }
        server.invite(Box::new(metrics))?;
    }
    info!(
        "at most {} connections, {} bytes held for each",
        config.max_connections, config.max_buffer
    );
    if let Err(e) = print_addresses(&server) {
        warn!("cannot print the addresses: {e}");
    }
    systemd::ready();
    let ended = server.run()?;
    if let End::Drained { cut_off: cut_off @ 1.. } = ended.end {
        warn!("the drain's deadline cut off {cut_off} connection(s)");
    }
    info!("{}", ended.counters);
    Ok(ended.end)
}

impl Options {
    fn level(&self) -> LevelFilter {
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

    /// Those of its listeners and its clients.
    fn metrics_files(&self) -> usize {
        self.metrics.as_ref().map_or(0, |_| 2 + metrics::CLIENTS)
    }

    /// Where nobody has handed sockets over, there is an endpoint to listen on by default.
    fn config(&self, most: usize, by_default: bool) -> Config {
        let mut endpoints = self.endpoints.clone();
        if endpoints.is_empty() && by_default {
            endpoints.push(Endpoint::default());
        }
        Config {
            endpoints,
            max_connections: self.max_connections.unwrap_or(most),
            max_connections_per_ip: self.max_connections_per_ip,
            max_buffer: self.max_buffer,
            idle_timeout: optional(self.idle_timeout),
            keepalive: optional(self.keepalive),
            drain_timeout: self.drain_timeout,
            backlog: self.backlog.try_into().unwrap_or(u32::MAX),
            reuse_port: self.reuse_port,
            busy_poll: optional(self.busy_poll),
            congestion: self.congestion.clone(),
            unix_mode: self.unix_mode,
        }
    }
}

fn optional(wait: Duration) -> Option<Duration> {
    Some(wait).filter(|wait| !wait.is_zero())
}

fn host_and_port(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse()?;
    if endpoint.is_unix() { Err("expected HOST:PORT".into()) } else { Ok(endpoint) }
}

/// In one write: whoever reads the first line can have them all.
fn print_addresses(server: &Server) -> io::Result<()> {
    let mut lines = Vec::new();
    for address in server.local_addrs() {
        writeln!(lines, "{address}")?;
    }
    let mut stdout = io::stdout();
    stdout.write_all(&lines)?;
    stdout.flush()
}
