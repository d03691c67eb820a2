//! The servers that are compared: how each is started, and one measurement of a running one.

use std::ops::Range;
use std::process::ExitStatus;
use std::time::Duration;
use std::{io, mem};

use serde_json::Value;

use crate::error::Error;
use crate::options::Options;
use crate::process::Process;
use crate::sample::Sample;
use crate::servers::{KINDS, LOOP};
use crate::transport::Transport;
use crate::workload::{Placement, Workload};
use crate::{hold, load, tree};

/// The name of the daemon.
pub const OURS: &str = "echod";

/// Where the servers listen: any free port.
const ADDRESS: &str = "127.0.0.1:0";

/// The options and the endpoint of the daemon for datagrams. By default it answers one source address,
/// as the load has it, 10,000 times a second at most.
const UDP: [&str; 3] = ["--udp-rate", "10M", "udp://127.0.0.1:0"];

/// A server that takes part.
pub struct Contender {
    pub name: String,
    pub transport: Transport,
    command: Vec<String>,
    /// The most connections that it is measured with.
    pub most: usize,
    /// How many idle connections its memory is measured with.
    pub idle: usize,
    /// The longest time that it may need until it serves a new connection.
    arrival: Duration,
}

impl Contender {
    /// A server of TCP with one thread for all connections, as far as is known.
    fn new(name: &str, command: Vec<String>) -> Contender {
        let (transport, most, idle, arrival) = (LOOP.transport, LOOP.most, LOOP.idle, LOOP.arrival);
        Contender { name: name.into(), transport, command, most, idle, arrival }
    }

    /// The daemon, once for each transport, the servers that the user named, and the peers.
    pub fn all(options: &Options) -> io::Result<Vec<Contender>> {
        let daemon = |words: &[&str]| {
            let command = [env!("CARGO_BIN_EXE_echod"), "-q"].iter().chain(words);
            Contender::new(OURS, command.map(ToString::to_string).collect())
        };
        let ours = [daemon(&[ADDRESS]), Contender { transport: Transport::Udp, ..daemon(&UDP) }];
        let with_address = |command: &[String]| [command, &[ADDRESS.into()]].concat();
        let also = options.also.iter();
        let also = also.map(|(name, command)| Contender::new(name, with_address(command)));
        let itself = std::env::current_exe()?.display().to_string();
        let peers = KINDS.iter().map(|kind| Contender {
            name: kind.name.into(),
            transport: kind.transport,
            command: [&itself, "--serve", kind.name, ADDRESS].map(Into::into).into(),
            most: kind.most,
            idle: kind.idle,
            arrival: kind.arrival,
        });
        Ok(ours.into_iter().chain(also).chain(peers).collect())
    }
}

/// A running contender.
pub struct Server<'a> {
    pub contender: &'a Contender,
    process: Process,
    address: String,
    /// A process that keeps idle connections open.
    holder: Option<Process>,
    /// What was measured so far.
    pub rounds: Vec<Sample>,
}

impl<'a> Server<'a> {
    pub fn start(contender: &'a Contender, cpu: usize) -> Result<Server<'a>, Error> {
        let mut process = Process::pinned(cpu, &contender.command)?;
        let address = process.address().map_err(|e| format!("{}: {e}", contender.name))?;
        Ok(Server { contender, process, address, holder: None, rounds: Vec::new() })
    }

    /// A new process for the next round. Where its memory lies makes a process faster or slower for
    /// its whole life, so one process must not stand for all rounds.
    pub fn restart(&mut self, cpu: usize) -> Result<(), Error> {
        let rounds = mem::take(&mut self.rounds);
        *self = Server { rounds, ..Server::start(self.contender, cpu)? };
        Ok(())
    }

    /// The endpoint for the load tester.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.contender.transport, self.address)
    }

    /// Opens idle connections to it and keeps them open.
    pub fn hold(&mut self, cpu: usize, count: usize) -> io::Result<()> {
        self.holder = Some(hold::start(cpu, count, &self.address)?);
        Ok(())
    }

    pub fn holds_idle_connections(&self) -> bool {
        self.holder.is_some()
    }

    pub fn memory(&self) -> u64 {
        tree::memory(self.process.id())
    }

    /// One round.
    pub fn measure(
        &mut self,
        workload: &Workload,
        placement: Placement,
        duration: Duration,
    ) -> Result<(), Error> {
        // The kernel completes a connect before the server has accepted it.
        let warm_up = Duration::from_millis(100)
            + self.contender.arrival * u32::try_from(workload.connections)?;
        let options = format!(
            "-c {} {} -d {}ms --warm-up {}ms -i {}ms --timeout 20s",
            workload.connections,
            workload.options,
            duration.as_millis(),
            warm_up.as_millis(),
            duration.as_millis() / 5
        );
        let mut meter = CpuMeter::new(self.process.id(), warm_up..warm_up + duration);
        let observe = |interval: &Value| meter.observe(interval);
        let report = load::run(placement.load, &self.endpoint(), &options, observe)?;
        let number = |path: &str| report.pointer(path).and_then(Value::as_f64);
        let number = |path| number(path).ok_or_else(|| format!("the report has no {path}"));
        self.rounds.push(Sample {
            messages_per_s: number("/throughput/messages_per_s")?,
            p50_us: number("/latency_us/p50")?,
            p99_us: number("/latency_us/p99")?,
            cpu_us: meter.us_per_echo(),
        });
        Ok(())
    }

    /// The error, with the name of the server and, if it has ended, its exit status.
    pub fn blame(&mut self, error: &Error) -> Error {
        let ended = |status: ExitStatus| format!(", ended: {status}");
        let ended = self.process.ended().map_or(String::new(), ended);
        format!("{}{ended}: {error}", self.contender.name).into()
    }
}

/// The processor time that a server needs for an echo. It is taken over whole intervals behind the
/// warm-up, so that it contains neither connecting nor closing. The echoes counted are those that came
/// back in these intervals, whenever they were sent.
struct CpuMeter {
    server: u32,
    measured: Range<Duration>,
    first: Option<Duration>,
    last: Duration,
    echoes: f64,
}

impl CpuMeter {
    fn new(server: u32, measured: Range<Duration>) -> CpuMeter {
        CpuMeter { server, measured, first: None, last: Duration::ZERO, echoes: 0.0 }
    }

    /// An interval of the load tester has just ended.
    fn observe(&mut self, interval: &Value) {
        let number = |name: &str| interval[name].as_f64().unwrap_or(f64::NAN);
        let elapsed = Duration::from_secs_f64(number("elapsed_s").max(0.0));
        if !self.measured.contains(&elapsed) {
            return;
        }
        self.last = tree::cpu(self.server);
        if self.first.is_none() {
            self.first = Some(self.last);
        } else {
            self.echoes += number("messages_per_s") * number("for_s");
        }
    }

    fn us_per_echo(&self) -> f64 {
        let used = self.last.saturating_sub(self.first.unwrap_or(self.last));
        used.as_secs_f64() * 1e6 / self.echoes
    }
}
