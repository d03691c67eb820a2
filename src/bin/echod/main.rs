//! The echo daemon: from the command line to a configuration, a run, and an exit code.
#![forbid(unsafe_code)]

mod announce;
mod endpoints;
mod options;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use log::{info, warn};

use echoloop::cli;
use echoloop::process::start::Starting;
use echoloop::process::systemd::ServiceManager;
use echoloop::process::{limits, log_sink, systemd};
use echoloop::protocol::{Echo, Framed, Kind};
use echoloop::sources::metrics::Metrics;
use echoloop::sources::signals::Signals;
use echoloop::sources::statistics::Statistics;
use echoloop::sources::udp::UdpOptions;
use echoloop::sources::watchdog::Watchdog;
use echoloop::{Address, Config, Protocol, Server, StopReason};

use announce::announce;
use endpoints::Sorted;
use options::{NAME, Options, optional};

/// Number of files of the loop itself: the poll, two of the waker, two of the signals, and the service
/// manager's.
const LOOP_FILES: usize = 6;

fn main() -> ExitCode {
    // First, so that no signal is lost, and before any file is opened.
    match Starting::begin() {
        Ok(starting) => cli::main(|options: &Options| run(options, starting)),
        Err(e) => cli::fail(NAME, &e),
    }
}

fn run(options: &Options, starting: Starting) -> io::Result<ExitCode> {
    let inherited = systemd::inherited_sockets()?;
    let config = match options.config(!inherited.is_empty()) {
        Ok(config) => config,
        Err(e) => return Ok(cli::usage(NAME, &e.to_string())),
    };
    let file_limit = limits::raise_file_limit();
    // Asked before the first call that would fail without saying how many are needed.
    let bound = endpoints::files(options.endpoints.iter().chain(&options.metrics));
    limits::connections(file_limit, LOOP_FILES + bound + options.later_files())?;
    let mut log = log_sink::install(options.level())?;
    let start = Start { starting, file_limit, sorted: Sorted::new(inherited, &options.endpoints) };
    let served = match &options.framing {
        Kind::Raw => serve(Echo, &config, start, options),
        kind => serve(Framed(kind.clone()), &config, start, options),
    };
    let exit = match served {
        Ok(StopReason::Stopped { status }) => ExitCode::from(status),
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            // Through the queue of the log, since stderr itself may block.
            log.write_all(format!("{NAME}: {e}\n").as_bytes())?;
            ExitCode::FAILURE
        }
    };
    log.wait_until_written();
    Ok(exit)
}

/// What the process was given, and has not used yet.
struct Start {
    starting: Starting,
    file_limit: usize,
    sorted: Sorted,
}

fn serve<P: Protocol>(
    protocol: P,
    config: &Config,
    start: Start,
    options: &Options,
) -> io::Result<StopReason> {
    let udp_options = UdpOptions { rate: options.udp_rate, reuse_port: options.reuse_port };
    let (mut server, addresses) = start.sorted.bind(protocol, config, &udp_options)?;
    let metrics = options
        .metrics
        .clone()
        .map(Metrics::bind)
        .transpose()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot serve the metrics: {e}")))?;
    let manager = ServiceManager::from_env();
    let signals = Signals::install(start.starting, manager.clone())?;
    let most = limits::connections(start.file_limit, options.later_files())?;
    if options.max_connections.is_some_and(|asked| asked > most) {
        warn!("the limit of open files allows only {most} connections");
    }
    server.limit_connections(most);
    add_sources(&mut server, metrics, &manager, options)?;
    info!(
        "at most {} connections, {} bytes held for each, {} MiB for all",
        server.max_connections(),
        config.max_buffer(),
        config.max_memory() / (1024 * 1024)
    );
    // Until here a signal ends the process, even while a name is looked up. And a program that reads the
    // addresses may send a signal at once, so the loop takes them before they are printed.
    server.add_source(Box::new(signals))?;
    let announcement = announce(&addresses, manager)?;
    let summary = server.run()?;
    if let StopReason::Drained { cut_off: cut_off @ 1.. } = summary.stop_reason {
        warn!("the drain's deadline cut off {cut_off} connection(s)");
    }
    announcement.end();
    info!("{summary}");
    Ok(summary.stop_reason)
}

/// Adds what else lives on the poll.
fn add_sources<P: Protocol>(
    server: &mut Server<P>,
    metrics: Option<Metrics>,
    manager: &ServiceManager,
    options: &Options,
) -> io::Result<()> {
    let now = Instant::now();
    if let Some(interval) = optional(options.stats_interval) {
        server.add_source(Box::new(Statistics::every(interval, now)))?;
    }
    if let Some(metrics) = metrics {
        for address in metrics.addresses().iter().filter_map(Address::as_tcp) {
            info!("metrics on http://{address}/metrics");
        }
        server.add_source(Box::new(metrics))?;
    }
    let watchdog = systemd::watchdog_time()?.filter(|_| manager.is_there());
    if let Some(time) = watchdog {
        server.add_source(Box::new(Watchdog::new(manager.clone(), time, now)))?;
    }
    Ok(())
}
