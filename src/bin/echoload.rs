//! The load tester: from the command line to a [`Plan`], a run, a report, and an exit code.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use echoloop::cli::units;
use echoloop::load::results::thresholds::Threshold;
use echoloop::load::results::{Interval, Report, hdr};
use echoloop::load::{Plan, Run, Sample, Stop};
use echoloop::process::limits;
use echoloop::sources::signals::Signals;
use echoloop::{Address, Endpoint, cli};

const NAME: &str = "echoload";

/// Loads any echo server, and checks every byte that comes back.
///
/// Counts take k and M (of 1000), sizes KiB and MiB (of 1024), durations us, ms, s, m and h.
#[derive(Parser)]
#[command(name = NAME, version, after_help = EXIT_CODES)]
struct Options {
    /// tcp://HOST:PORT, where PORT is a number or a service's name, just HOST:PORT, or unix:PATH; of a
    /// name's addresses each is tried in turn
    #[arg(value_name = "ENDPOINT", default_value = "tcp://127.0.0.1:65432")]
    target: Endpoint,

    /// Connections held at once
    #[arg(short, long, value_name = "N", default_value = "50", value_parser = units::count)]
    connections: usize,

    /// How long messages are sent; those under way are waited for
    #[arg(short, long, value_name = "DURATION", default_value = "10s",
          value_parser = units::duration)]
    duration: Duration,

    /// Stop after N messages instead
    #[arg(short = 'n', long, value_name = "N", value_parser = units::count,
          conflicts_with = "duration")]
    requests: Option<usize>,

    /// Loops, each with its share of the connections
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = units::count)]
    threads: usize,

    /// Bytes a message
    #[arg(short, long, value_name = "SIZE", default_value = "64", value_parser = units::size)]
    length: usize,

    /// Messages in flight a connection
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = units::count)]
    pipeline: usize,

    /// Messages a second in total, an open loop: latency counts from when a message was due
    /// [default: as fast as it goes]
    #[arg(short = 'R', long, value_name = "N", value_parser = units::count)]
    rate: Option<usize>,

    /// New connections a second [default: as fast as it goes]
    #[arg(long, value_name = "N", value_parser = units::count)]
    connect_rate: Option<usize>,

    /// A new connection for each message; the connect is part of its latency
    #[arg(long)]
    reconnect: bool,

    /// End each connection by shutdown(write) right behind its last message, and expect all that is
    /// owed, then the end
    #[arg(long)]
    half_close: bool,

    /// Address to connect from; may be repeated. To IPv4 loopback 127.0.0.x are used by themselves when
    /// ports run short
    #[arg(long, value_name = "ADDR")]
    source_ip: Vec<IpAddr>,

    /// Time at the beginning that is not counted
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    warm_up: Duration,

    /// Give up a connect, or a message, that takes longer from when it was sent, and its connection; 0 is
    /// never. When the time of -d is over, what was due is waited for no longer than this, or 10s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::duration)]
    timeout: Duration,

    /// A line of progress on stderr each interval, and with ndjson one in the report [default: 1s where
    /// stderr is a terminal, and in ndjson]
    #[arg(short, long, value_name = "DURATION", value_parser = units::duration)]
    interval: Option<Duration>,

    /// Where the report goes [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The report's form; ndjson has the intervals too, a line each
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output_format: Format,

    /// Percentiles of the latency, in microseconds, as `HdrHistogram` text
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,

    /// Exit with 99 if this holds; may be repeated. Such as p99>5ms, rate<100k, errors>0; of pNN, min,
    /// mean and max of the latency, rate, errors, failed, lost, corrupt and `timed_out`
    #[arg(long, value_name = "EXPR")]
    fail_if: Vec<Threshold>,

    /// After an event, poll without sleeping for up to that long before waiting, such as 100us: latency
    /// that is the server's and not the wake-up's; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    busy_poll: Duration,

    /// Of the payload [default: random, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Ndjson,
}

const MOST_LENGTH: usize = 1024 * 1024 * 1024;

/// More connections than a machine has files for, and more messages in flight than one needs.
const MOST: usize = 1_000_000;

const MOST_IN_FLIGHT: usize = 16_000_000;

const MOST_THREADS: usize = 256;

/// Of an interval.
const SHORTEST: Duration = Duration::from_millis(10);

const EXIT_CODES: &str = "\
Exit codes, the first that holds:
  2    usage
  3    bytes came back wrong
  130  interrupted
  1    a connection failed or was lost, or a message timed out; or it could
       not start, or not write its report
  99   a --fail-if holds
  0    all that was sent came back";

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
    if let Err(why) = options.check() {
        return Ok(cli::usage(NAME, &why));
    }
    limits::raise_file_limit(0)?;
    let targets = options
        .target
        .resolve()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot resolve {}: {e}", options.target)))?;
    if let Err(why) = options.check_sources(&targets) {
        return Ok(cli::usage(NAME, &why));
    }
    let plan = options.plan(targets);
    // Before the run: a report that cannot be written should not take ten seconds to say so.
    let mut output = create(options.output.as_ref())?;
    let hdr_file = options.hdr.as_ref().map(|path| create(Some(path))).transpose()?;
    let mut run = Run::new(&plan)?;
    run.invite(Box::new(Signals::that_end()?))?;
    let progress = Progress::new(options);
    let ndjson = options.output_format == Format::Ndjson;
    let mut written = Ok(());
    let measured = run.run(|sample| {
        progress.show(sample);
        if ndjson && written.is_ok() {
            written = json_line(&mut output, &Interval::new(sample));
        }
    })?;
    progress.finish();
    let report = Report::new(options.target.to_string(), &plan, &measured, &options.fail_if);
    let written = written.and_then(|()| match options.output_format {
        Format::Text => write(&mut output, &report.to_string()),
        Format::Json | Format::Ndjson => json_line(&mut output, &report),
    });
    let hdr_written =
        hdr_file.map_or(Ok(()), |mut file| write(&mut file, &hdr(&measured.tally.times.latency())));
    let verdict = report.verdict().exit_code();
    // Wrong bytes are wrong whether or not anybody reads of them.
    Ok(ExitCode::from(written.and(hdr_written).map_or_else(
        |e| {
            cli::complain(NAME, &format!("cannot write the report: {e}"));
            verdict.max(1)
        },
        |()| verdict,
    )))
}

impl Options {
    /// What only the options together can get wrong.
    fn check(&self) -> Result<(), String> {
        if !(1..=MOST_LENGTH).contains(&self.length) {
            return Err("--length must be from 1 to 1GiB".into());
        }
        if self.pipeline > MOST || self.connections > MOST {
            return Err("--pipeline and --connections must be at most 1M".into());
        }
        if self.duration.is_zero() {
            return Err("--duration must not be 0".into());
        }
        if self.reconnect && self.pipeline > 1 {
            return Err("--reconnect has one message a connection, so --pipeline must be 1".into());
        }
        if self.connections.saturating_mul(self.pipeline) > MOST_IN_FLIGHT {
            return Err("--connections times --pipeline must be at most 16M".into());
        }
        if self.interval.is_some_and(|interval| interval < SHORTEST && !interval.is_zero()) {
            return Err("--interval must be at least 10ms, or 0 for none".into());
        }
        if self.threads > MOST_THREADS {
            return Err("--threads must be at most 256".into());
        }
        if self.threads > self.connections {
            return Err("--threads must not be more than --connections".into());
        }
        Ok(())
    }

    /// What they can get wrong for this target.
    fn check_sources(&self, targets: &[Address]) -> Result<(), String> {
        let ips: Vec<IpAddr> = targets.iter().filter_map(|t| Some(t.as_tcp()?.ip())).collect();
        let fits = |source: &IpAddr| ips.iter().any(|ip| ip.is_ipv4() == source.is_ipv4());
        match self.source_ip.iter().find(|source| !fits(source)) {
            Some(source) => {
                Err(format!("--source-ip: no address of {} is of {source}'s family", self.target))
            }
            None => Ok(()),
        }
    }

    fn plan(&self, targets: Vec<Address>) -> Plan {
        let optional = |wait: Duration| Some(wait).filter(|wait| !wait.is_zero());
        let terminal = io::stderr().is_terminal() && !self.quiet;
        let watched = terminal || self.output_format == Format::Ndjson;
        Plan {
            targets,
            connections: self.connections,
            threads: self.threads,
            length: self.length as u64,
            pipeline: self.pipeline,
            rate: self.rate.map(|rate| rate as u64),
            connect_rate: self.connect_rate.map(|rate| rate as u64),
            reconnect: self.reconnect,
            half_close: self.half_close,
            sources: self.source_ip.clone(),
            warm_up: self.warm_up,
            stop: match self.requests {
                Some(n) => Stop::Messages(n as u64),
                None => Stop::After(self.duration),
            },
            timeout: optional(self.timeout),
            interval: match self.interval {
                Some(interval) => optional(interval),
                None => watched.then_some(Duration::from_secs(1)),
            },
            busy_poll: optional(self.busy_poll),
            seed: self.seed.unwrap_or_else(random),
        }
    }
}

/// Progress on stderr: one line that is rewritten where it is a terminal, and lines where they were
/// asked for.
enum Progress {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Progress {
    fn new(options: &Options) -> Progress {
        if options.quiet {
            Progress::Silent
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            Progress::Bar(bar)
        } else if options.interval.is_some() {
            Progress::Lines
        } else {
            Progress::Silent
        }
    }

    fn show(&self, sample: &Sample) {
        match self {
            Progress::Bar(bar) => bar.set_message(sample.to_string()),
            // Progress that nobody can read is no reason to stop.
            Progress::Lines => drop(writeln!(io::stderr(), "{sample}")),
            Progress::Silent => {}
        }
    }

    fn finish(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn create(path: Option<&PathBuf>) -> io::Result<Box<dyn Write>> {
    Ok(match path {
        None => Box::new(io::stdout()),
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()))
        })?)),
    })
}

fn write(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whoever follows a file sees each line when it is due.
fn json_line(out: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)?;
    out.flush()
}

/// A seed that differs from run to run. The hasher's keys are all the randomness that is needed.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Few digits are easier to type again.
    RandomState::new().hash_one(NAME) % 1_000_000_000
}
