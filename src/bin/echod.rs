//! The echo daemon: from the command line to a [`Config`], a run, and an exit code.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, Parser};
use log::{LevelFilter, info, warn};

use echoload::daemon::limits;
use echoload::daemon::log_sink::{self, LogSink};
use echoload::daemon::signals::Signals;
use echoload::{Config, Ended, Endpoint, Server, cli, units};

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
    /// nothing for every interface, and PORT 0 lets the system pick one
    #[arg(value_name = "ENDPOINT", default_value = "tcp://127.0.0.1:65432")]
    endpoints: Vec<Endpoint>,

    /// Connections held at once; more wait in the backlog
    /// [default: what the limit of open files allows, less 16]
    #[arg(long, value_name = "N", value_parser = units::count)]
    max_connections: Option<usize>,

    /// Bytes held for a connection that does not read what it is owed; at least 1KiB
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = units::size)]
    max_buffer: usize,

    /// Close a connection on which no byte moved for that long, stalled readers included; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    idle_timeout: Duration,

    /// Ask after a silent peer after that long, then three times, a third of it apart; end its
    /// connection when it has not answered, or in that time not taken a byte that it is owed; 0 is
    /// never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    keepalive: Duration,

    /// On SIGTERM or SIGINT, take at most that long to give back what was taken; 0 ends at once
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    drain_timeout: Duration,

    /// Connections that the kernel may hold before they are accepted, as far as it allows
    #[arg(long, value_name = "N", default_value = "4096", value_parser = units::count)]
    backlog: usize,

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
    match cli::parse(Options::command()) {
        Ok(options) => run(options).unwrap_or_else(|e| {
            cli::complain(NAME, &e.to_string());
            ExitCode::FAILURE
        }),
        Err(exit) => exit,
    }
}

fn run(options: Options) -> io::Result<ExitCode> {
    let most = limits::raise_file_limit()?;
    let level = options.level();
    let config = options.config(most);
    if let Err(why) = config.check() {
        cli::complain(NAME, &why);
        return Ok(ExitCode::from(2));
    }
    let mut log = log_sink::install(level)?;
    if config.max_connections > most {
        warn!("the limit of open files allows only {most} connections");
    }
    let exit = match serve(&config) {
        Ok(Ended::Drained { .. }) => ExitCode::SUCCESS,
        Ok(Ended::Stopped { status }) => ExitCode::from(status),
        Err(e) => {
            // By way of the log's queue, behind a line that may be stuck in a stalled stderr.
            log.write_all(format!("{NAME}: {e}\n").as_bytes())?;
            ExitCode::FAILURE
        }
    };
    LogSink::flush(&log);
    Ok(exit)
}

fn serve(config: &Config) -> io::Result<Ended> {
    let mut server = Server::bind(config)?;
    // Before the addresses are out: whoever reads them may send a signal at once.
    server.invite(Box::new(Signals::install()?))?;
    info!(
        "at most {} connections, {} bytes held for each",
        config.max_connections, config.max_buffer
    );
    if let Err(e) = print_addresses(&server) {
        warn!("cannot print the addresses: {e}");
    }
    let ended = server.run()?;
    if let Ended::Drained { cut_off: cut_off @ 1.. } = ended {
        warn!("the drain's deadline cut off {cut_off} connection(s)");
    }
    Ok(ended)
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

    fn config(self, most: usize) -> Config {
        let optional = |timeout: Duration| Some(timeout).filter(|timeout| !timeout.is_zero());
        Config {
            endpoints: self.endpoints,
            max_connections: self.max_connections.unwrap_or(most),
            max_buffer: self.max_buffer,
            idle_timeout: optional(self.idle_timeout),
            keepalive: optional(self.keepalive),
            drain_timeout: self.drain_timeout,
            backlog: self.backlog.try_into().unwrap_or(u32::MAX),
        }
    }
}

/// In one write: whoever reads the first line can have them all.
fn print_addresses(server: &Server) -> io::Result<()> {
    let mut lines = Vec::new();
    for address in server.local_addrs() {
        writeln!(lines, "tcp://{address}")?;
    }
    let mut stdout = io::stdout();
    stdout.write_all(&lines)?;
    stdout.flush()
}
