//! Rounds: in each, every server is measured once, one after the other.

use std::process::Command;
use std::time::{Duration, Instant};
use std::{io, iter, mem};

use echoloop::process::limits;
use nix::unistd::alarm;

use crate::Error;
use crate::options::Options;
use crate::process::Process;
use crate::report::{Memory, Row, Sample, Table, median, paired};
use crate::servers::{KINDS, LOOP};
use crate::workload::{Placement, Workload};
use crate::{hold, load, tree};

pub const OURS: &str = "echod";
pub const LIMIT: &str = KINDS[0].name;

/// Files of a process beside its connections.
const OWN_FILES: usize = 64;

const STARTS: usize = 20;

/// A step that takes this much longer than it was meant to is never going to end.
const STUCK: Duration = Duration::from_secs(120);

/// One that takes part.
pub struct Contender {
    pub name: String,
    command: Vec<String>,
    most: usize,
    idle: usize,
    arrival: Duration,
}

impl Contender {
    fn new(name: &str, command: Vec<String>) -> Contender {
        let (most, idle, arrival) = (LOOP.most, LOOP.idle, LOOP.arrival);
        Contender { name: name.into(), command, most, idle, arrival }
    }

    /// Ours, those that the user has named, and the peers.
    pub fn all(options: &Options) -> io::Result<Vec<Contender>> {
        let ours = Contender::new(OURS, vec![env!("CARGO_BIN_EXE_echod").into(), "-q".into()]);
        let also = options.also.iter().map(|(name, command)| Contender::new(name, command.clone()));
        let itself = std::env::current_exe()?.display().to_string();
        let peers = KINDS.iter().map(|kind| Contender {
            name: kind.name.into(),
            command: vec![itself.clone(), "--serve".into(), kind.name.into()],
            most: kind.most,
            idle: kind.idle,
            arrival: kind.arrival,
        });
        Ok(iter::once(ours).chain(also).chain(peers).collect())
    }
}

/// A running contender.
pub struct Server<'a> {
    contender: &'a Contender,
    process: Process,
    address: String,
    /// Who keeps connections open that say nothing.
    holder: Option<Process>,
    rounds: Vec<Sample>,
}

impl<'a> Server<'a> {
    pub fn start(contender: &'a Contender, cpu: usize) -> Result<Server<'a>, Error> {
        let mut command = contender.command.clone();
        command.push("127.0.0.1:0".into());
        let mut process = Process::pinned(cpu, &command)?;
        let address = process.address().map_err(|e| format!("{}: {e}", contender.name))?;
        Ok(Server { contender, process, address, holder: None, rounds: Vec::new() })
    }

    /// Where its memory happens to lie favours or hinders a process for all of its life: the next
    /// round has another.
    fn restart(&mut self, cpu: usize) -> Result<(), Error> {
        let rounds = mem::take(&mut self.rounds);
        *self = Server { rounds, ..Server::start(self.contender, cpu)? };
        Ok(())
    }

    fn hold(&mut self, cpu: usize, count: usize) -> io::Result<()> {
        self.holder = Some(hold::start(cpu, count, &self.address)?);
        Ok(())
    }

    fn measure(
        &mut self,
        workload: &Workload,
        placement: Placement,
        duration: Duration,
    ) -> Result<(), Error> {
        let options = format!("-c {} {}", workload.connections, workload.options);
        // The kernel has connections stand before the server knows of them.
        let warm_up = Duration::from_millis(100)
            + self.contender.arrival * u32::try_from(workload.connections)?;
        let options = format!(
            "{options} -d {}ms --warm-up {}ms -i {}ms --timeout 20s",
            duration.as_millis(),
            warm_up.as_millis(),
            duration.as_millis() / 5
        );
        // Of whole intervals behind the warm-up: without what connecting and leaving cost. Their echoes
        // are those that came back in them, whenever they were sent, as the processor time has it.
        let measured = warm_up..warm_up + duration;
        let (mut first, mut last, mut echoes) = (None, Duration::ZERO, 0.0);
        let report = load::run(placement.load, &self.address, &options, |interval| {
            let number = |name: &str| interval[name].as_f64().unwrap_or(f64::NAN);
            if !measured.contains(&Duration::from_secs_f64(number("elapsed_s").max(0.0))) {
                return;
            }
            last = tree::cpu(self.process.id());
            if first.is_none() {
                first = Some(last);
            } else {
                echoes += number("messages_per_s") * number("for_s");
            }
        })?;
        let cpu = last.saturating_sub(first.unwrap_or(last));
        let number = |path: &str| report.pointer(path).and_then(serde_json::Value::as_f64);
        let number = |path| number(path).ok_or_else(|| format!("the report has no {path}"));
        self.rounds.push(Sample {
            messages_per_s: number("/throughput/messages_per_s")?,
            p50_us: number("/latency_us/p50")?,
            p99_us: number("/latency_us/p99")?,
            cpu_us: cpu.as_secs_f64() * 1e6 / echoes,
        });
        Ok(())
    }

    /// Whose fault it was, and whether he is still there.
    fn blame(&mut self, error: &Error) -> Error {
        let ended =
            self.process.ended().map_or(String::new(), |status| format!(", ended: {status}"));
        format!("{}{ended}: {error}", self.contender.name).into()
    }
}

/// Whoever hangs takes us with it by SIGALRM, and the kernel our children.
fn expect_within(duration: Duration) {
    alarm::set((duration + STUCK).as_secs().try_into().unwrap_or(u32::MAX));
}

/// Echoed right: long streams, that end first, and connections that come and go.
pub fn check(contender: &Contender, cpu: usize) -> Result<(), Error> {
    expect_within(Duration::ZERO);
    let mut server = Server::start(contender, cpu)?;
    for options in [
        "-c 8 -p 4 -n 64 -l 1MiB --half-close",
        "-c 50 -n 5k --half-close",
        "-c 8 -n 200 --reconnect",
    ] {
        load::run(cpu, &server.address, options, |_| {}).map_err(|e| server.blame(&e))?;
    }
    Ok(())
}

/// One workload.
pub fn table(
    contenders: &[Contender],
    asked: &Workload,
    placement: Placement,
    options: &Options,
) -> Result<Table, Error> {
    let room = limits::raise_file_limit(0)?.saturating_sub(OWN_FILES);
    let workload = asked.clone().within(room);
    let (mut notes, mut servers, mut without) = (Vec::new(), Vec::new(), None);
    let (active, idle) = (workload.connections, workload.idle);
    if (active, idle) != (asked.connections, asked.idle) {
        notes.push(format!(
            "the limit of open files leaves room for {active} connections and {idle} idle ones only"
        ));
    }
    expect_within(Duration::ZERO);
    for contender in contenders {
        if active + idle > contender.most {
            notes
                .push(format!("{} are for {} connections at most", contender.name, contender.most));
            continue;
        }
        let mut server = Server::start(contender, placement.server)?;
        if idle > 0 {
            server.hold(placement.load, idle)?;
            if contender.name == OURS {
                without = Some(servers.len());
                servers.push(Server::start(contender, placement.server)?);
            }
        }
        servers.push(server);
    }
    for round in 0..options.rounds {
        let count = servers.len();
        for turn in 0..count {
            // Who comes next to whom, and behind whom, is not the same in each round.
            let turn = if round % 2 == 0 { turn } else { count - 1 - turn };
            let server = &mut servers[(round + turn) % count];
            expect_within(options.seconds);
            if round > 0 && idle == 0 {
                server.restart(placement.server)?;
            }
            server.measure(&workload, placement, options.seconds).map_err(|e| server.blame(&e))?;
        }
    }
    let without = without.map(|at| servers.remove(at).rounds);
    let of = |name| servers.iter().find(|server: &&Server| server.contender.name == name);
    let limit = of(LIMIT).map(|server| server.rounds.clone()).unwrap_or_default();
    let beside_idle = without.zip(of(OURS)).map(|(without, with)| paired(&with.rounds, &without));
    let rows = servers.into_iter().map(|s| Row::new(&s.contender.name, s.rounds, &limit));
    Ok(Table {
        title: format!("{}, {placement}", workload.name),
        placement: placement.name,
        rows: rows.collect(),
        workload,
        notes,
        beside_idle,
    })
}

/// What an idle connection costs.
pub fn memory(contenders: &[Contender], placement: Placement) -> Result<Vec<Memory>, Error> {
    let room = limits::raise_file_limit(0)?.saturating_sub(OWN_FILES);
    let measure = |contender: &Contender| {
        expect_within(Duration::ZERO);
        let mut server = Server::start(contender, placement.server)?;
        let before = tree::memory(server.process.id());
        let connections = contender.idle.min(room);
        server.hold(placement.load, connections)?;
        let used = tree::memory(server.process.id()).saturating_sub(before);
        let bytes = used / connections as u64;
        Ok(Memory { server: contender.name.clone(), connections, bytes })
    };
    contenders.iter().map(measure).collect()
}

/// Milliseconds from when ours is started until the first byte has come back: the median of some.
pub fn start() -> Result<f64, Error> {
    expect_within(Duration::ZERO);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_echod"));
        let mut daemon = Process::spawn(daemon.args(["-q", "127.0.0.1:0"]))?;
        hold::connect(0, daemon.address()?.parse()?)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}
