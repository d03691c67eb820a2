//! The command line.

use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use echoloop::cli::units::{self, UnitError};
use echoloop::load::results::Threshold;
use echoloop::load::{Addresses, Plan, PlanBuilder, Rate, Stop};
use echoloop::protocol::Kind;
use echoloop::{Address, Endpoint};

use crate::destination::are_same;

pub const NAME: &str = "echoload";

const EXIT_CODES: &str = "\
Exit codes, the first that applies:
  2    usage
  3    bytes came back wrong
  130  interrupted by SIGINT, SIGTERM or SIGHUP
  1    a connection failed or was lost, or a message or datagram did not come
       back in time, or no message was measured; or it could not start, or not
       write its report
  99   a --fail-if is true
  0    all that was sent came back";

/// Loads any echo server, and checks every byte that comes back.
///
/// Counts and rates take k and M (of 1000), sizes KiB and MiB (of 1024), durations us, ms, s, m and h, as
/// in 500ms, 1.5s or 1h30m. A rate may be less than one: 0.5.
#[derive(Parser)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[command(name = NAME, version, after_help = EXIT_CODES)]
pub struct Options {
    /// tcp://HOST:PORT, where PORT is a number or the name of a service, just HOST:PORT,
    /// udp://HOST:PORT, or unix:PATH; see --addresses for a name with several addresses
    #[arg(value_name = "ENDPOINT", default_value = "tcp://127.0.0.1:65432")]
    pub target: Endpoint,

    /// Number of connections that are open at the same time
    #[arg(short, long, value_name = "N", default_value = "50", value_parser = units::count)]
    pub connections: usize,

    /// How long messages are sent; messages in flight are then waited for
    #[arg(short, long, value_name = "DURATION", default_value = "10s",
          value_parser = units::duration)]
    pub duration: Duration,

    /// Stop after N messages instead
    #[arg(short = 'n', long, value_name = "N", value_parser = units::count,
          conflicts_with = "duration")]
    pub requests: Option<usize>,

    /// Number of loops, each with a thread and a part of the connections
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = units::count)]
    pub threads: usize,

    /// Number of bytes of a message with its header or its newline; or a range like 16..4KiB, in which
    /// each message has a random length. The seed determines the lengths. A datagram may have 0 to 65507
    /// bytes [default: 64, or what the framing determines]
    #[arg(short, long, value_name = "SIZE", value_parser = units::sizes)]
    pub length: Option<RangeInclusive<usize>>,

    /// How messages are delimited: raw (not at all), line, fixed:N, length:ascii5, length:u16,
    /// length:u32, or typed:A=4,B=16 (that many bytes follow the type). A server that echoes all bytes
    /// serves every kind
    #[arg(long, value_name = "KIND", default_value = "raw")]
    pub framing: Kind,

    /// Most messages in flight on a connection
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = units::count)]
    pub pipeline: usize,

    /// Messages a second in total: an open loop, where latency counts from when a message was due
    /// [default: as fast as it goes]
    #[arg(short = 'R', long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<Rate>,

    /// New connections a second [default: as fast as it goes]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub connect_rate: Option<Rate>,

    /// A new connection for each message; the connect is part of its latency
    #[arg(long)]
    pub reconnect: bool,

    /// A new connection for each N messages; --reconnect is 1
    #[arg(long, value_name = "N", value_parser = units::count, conflicts_with = "reconnect")]
    pub messages_per_connection: Option<usize>,

    /// Do not make a connection again that was lost or could not be made. Without this, it is tried again
    /// until the end of the run, after 10ms, and after twice as long each time, up to 1s
    #[arg(long)]
    pub no_reconnect: bool,

    /// Where connections go if the target has several addresses: to all of them in turn, or to the first one
    /// that works. One that fails is tried less. A name is looked up again when a connection is made again
    #[arg(long, value_name = "WHICH", default_value = "all")]
    pub addresses: Which,

    /// Shut down the sending direction of each connection right after its last message, and expect all
    /// echoes, then the end of stream
    #[arg(long)]
    pub half_close: bool,

    /// Address to connect from; may be repeated. To IPv4 loopback, the addresses 127.0.0.x are used
    /// without this option when ports run short
    #[arg(long, value_name = "ADDR")]
    pub source_ip: Vec<IpAddr>,

    /// Time at the beginning that is not measured
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    pub warm_up: Duration,

    /// Close a connection when its connect, or a message from when it was sent, takes longer; a datagram
    /// is given up instead, and its socket goes on; 0 is never. After the time of -d, messages are waited for no longer than this, or 10s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::duration)]
    pub timeout: Duration,

    /// Write a line of progress to stderr each interval, and with ndjson one to the report. What is not
    /// read in time is left out, and the load goes on [default: 1s if stderr is a terminal, and with
    /// ndjson]
    #[arg(short, long, value_name = "DURATION", value_parser = units::duration)]
    pub interval: Option<Duration>,

    /// File for the report. An old one is replaced when the new one is complete [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Format of the report; ndjson has the intervals too, one line each
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output_format: Format,

    /// File for the percentiles of the latency, in microseconds, as `HdrHistogram` text
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,

    /// Exit with 99 if this is true, or if there is no data for it; may be repeated. Examples: p99>5ms,
    /// rate<100k, errors>0, errors>1% (of the messages). Figures: pNN, min, mean and max of the latency,
    /// rate, outage (the longest), errors, failed, lost, corrupt, unsent and `timed_out`
    #[arg(long, value_name = "EXPR")]
    pub fail_if: Vec<Threshold>,

    /// After an event, poll without sleeping for this long before waiting, for example 100us: latency
    /// then has no wake-up of the load tester in it; 0 is never
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::duration)]
    pub busy_poll: Duration,

    /// Seed of the payload [default: random, and printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Write no progress
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    All,
    First,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    Ndjson,
}

fn rate(text: &str) -> Result<Rate, UnitError> {
    units::rate(text).map(Rate::from_thousandths)
}

/// The interval where none is given.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

impl Options {
    /// Returns the plan that the options describe; the targets may be added later.
    pub fn plan(&self, targets: Vec<Address>) -> PlanBuilder {
        let plan = Plan::builder(targets)
            .connections(self.connections)
            .threads(self.threads)
            .framing(self.framing.clone())
            .pipeline(self.pipeline)
            .rate(self.rate)
            .connect_rate(self.connect_rate)
            .messages_per_connection(match self.messages_per_connection {
                Some(n) => Some(n as u64),
                None => self.reconnect.then_some(1),
            })
            .replace_lost(!self.no_reconnect)
            .addresses(match self.addresses {
                Which::All => Addresses::All,
                Which::First => Addresses::First,
            })
            .name(self.target.clone())
            .half_close(self.half_close)
            .source_ips(self.source_ip.clone())
            .warm_up(self.warm_up)
            .stop(match self.requests {
                Some(n) => Stop::Messages(n as u64),
                None => Stop::After(self.duration),
            })
            .timeout(self.timeout)
            .interval(self.interval.unwrap_or(if self.is_watched() {
                DEFAULT_INTERVAL
            } else {
                Duration::ZERO
            }))
            .busy_poll(self.busy_poll);
        let plan = match &self.length {
            Some(range) => plan.lengths(*range.start() as u64..=*range.end() as u64),
            None => plan,
        };
        match self.seed {
            Some(seed) => plan.seed(seed),
            None => plan,
        }
    }

    /// Checks the options before a name is resolved.
    ///
    /// # Errors
    /// What is wrong, beginning with the name of the option without its dashes.
    pub fn check(&self) -> Result<(), String> {
        self.plan(Vec::new()).check().map_err(|e| e.to_string())?;
        match (&self.output, &self.hdr) {
            (Some(output), Some(hdr)) if are_same(output, hdr) => {
                Err(format!("hdr {} is the file of --output: use another one", hdr.display()))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether intervals are read although none was asked for.
    fn is_watched(&self) -> bool {
        let terminal = io::stderr().is_terminal() && !self.quiet;
        terminal || self.output_format == Format::Ndjson
    }
}
