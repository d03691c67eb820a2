//! What is measured. In each round every server is measured once, one after the other.

use std::process::Command;
use std::time::{Duration, Instant};

use echoloop::process::limits;
use nix::unistd::alarm;

use crate::contender::{Contender, OURS, Server};
use crate::error::Error;
use crate::options::Options;
use crate::process::Process;
use crate::report::{Memory, Row, Table};
use crate::sample::{median, median_ratio};
use crate::servers::limit;
use crate::transport::Transport;
use crate::workload::{Placement, Workload};
use crate::{hold, load};

/// Files that a process needs beside its connections.
const OWN_FILES: usize = 64;

/// How often the start of the daemon is measured.
const STARTS: usize = 20;

/// A step that takes this much longer than planned will never end.
const STUCK: Duration = Duration::from_secs(120);

/// If this step hangs, SIGALRM ends this process, and then the kernel ends its children.
fn expect_within(duration: Duration) {
    alarm::set((duration + STUCK).as_secs().try_into().unwrap_or(u32::MAX));
}

/// The connections that the limit of open files leaves room for.
fn room() -> usize {
    limits::raise_file_limit().saturating_sub(OWN_FILES)
}

/// What a server must echo correctly: long streams with a half-close, short ones, and many connections
/// one after the other.
const STREAMS: [&str; 3] =
    ["-c 8 -p 4 -n 64 -l 1MiB --half-close", "-c 50 -n 5k --half-close", "-c 8 -n 200 --reconnect"];

/// The same for datagrams: of any length, the longest, and many short ones. Those in flight fit into a
/// receive buffer.
const DATAGRAMS: [&str; 3] = ["-c 8 -n 1k -l 0..1472", "-c 1 -n 64 -l 65507", "-c 50 -n 5k"];

/// Checks that a server echoes correctly.
pub fn check(contender: &Contender, cpu: usize) -> Result<(), Error> {
    expect_within(Duration::ZERO);
    let mut server = Server::start(contender, cpu)?;
    let loads = match contender.transport {
        Transport::Tcp => STREAMS,
        Transport::Udp => DATAGRAMS,
    };
    for options in loads {
        load::run(cpu, &server.endpoint(), options, |_| {}).map_err(|e| server.blame(&e))?;
    }
    Ok(())
}

/// One workload in one placement.
pub fn table(
    contenders: &[Contender],
    asked: &Workload,
    placement: Placement,
    options: &Options,
) -> Result<Table, Error> {
    let mut notes = Vec::new();
    let workload = asked.clone().within(room());
    let (active, idle) = (workload.connections, workload.idle);
    if (active, idle) != (asked.connections, asked.idle) {
        notes.push(format!(
            "the limit of open files leaves room for {active} connections and {idle} idle ones only"
        ));
    }
    let transport = workload.transport;
    let (able, unable): (Vec<_>, Vec<_>) = contenders
        .iter()
        .filter(|contender| contender.transport == transport)
        .partition(|contender| active + idle <= contender.most);
    for Contender { name, most, .. } in unable {
        notes.push(format!("{name} are for {most} connections at most"));
    }
    let mut servers = start_all(able, &workload, placement)?;
    run_rounds(&mut servers, &workload, placement, options)?;

    let (servers, without_idle): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|server| idle == 0 || server.holds_idle_connections());
    let find = |name| servers.iter().find(|server| server.contender.name == name);
    let limit = find(limit(transport)).map(|server| server.rounds.clone()).unwrap_or_default();
    let beside_idle = find(OURS)
        .zip(without_idle.first())
        .map(|(with, without)| median_ratio(&with.rounds, &without.rounds));
    let rows = servers.into_iter().map(|s| Row::new(&s.contender.name, s.rounds, &limit)).collect();
    let title = format!("{}, {placement}", workload.name);
    Ok(Table { title, placement: placement.name, rows, workload, notes, beside_idle })
}

/// Starts the servers with their idle connections. Where there are any, the daemon also runs once
/// without them.
fn start_all<'a>(
    contenders: Vec<&'a Contender>,
    workload: &Workload,
    placement: Placement,
) -> Result<Vec<Server<'a>>, Error> {
    expect_within(Duration::ZERO);
    let mut servers = Vec::new();
    for contender in contenders {
        let mut server = Server::start(contender, placement.server)?;
        if workload.idle > 0 {
            server.hold(placement.load, workload.idle)?;
            if contender.name == OURS {
                servers.push(Server::start(contender, placement.server)?);
            }
        }
        servers.push(server);
    }
    Ok(servers)
}

fn run_rounds(
    servers: &mut [Server],
    workload: &Workload,
    placement: Placement,
    options: &Options,
) -> Result<(), Error> {
    let count = servers.len();
    for round in 0..options.rounds {
        for turn in 0..count {
            // The order rotates and changes its direction, so that no server always follows the same
            // other one.
            let turn = if round % 2 == 0 { turn } else { count - 1 - turn };
            let server = &mut servers[(round + turn) % count];
            expect_within(options.seconds);
            if round > 0 && workload.idle == 0 {
                server.restart(placement.server)?;
            }
            server.measure(workload, placement, options.seconds).map_err(|e| server.blame(&e))?;
        }
    }
    Ok(())
}

/// User memory for each idle connection.
pub fn memory(contenders: &[Contender], placement: Placement) -> Result<Vec<Memory>, Error> {
    let room = room();
    let measure = |contender: &Contender| {
        expect_within(Duration::ZERO);
        let mut server = Server::start(contender, placement.server)?;
        let before = server.memory();
        let connections = contender.idle.min(room);
        server.hold(placement.load, connections)?;
        let bytes = server.memory().saturating_sub(before) / connections as u64;
        Ok(Memory { server: contender.name.clone(), connections, bytes })
    };
    let of_streams = contenders.iter().filter(|contender| contender.transport == Transport::Tcp);
    of_streams.map(measure).collect()
}

/// Milliseconds from the start of the daemon to the first echo: the median of several starts.
pub fn start() -> Result<f64, Error> {
    expect_within(Duration::ZERO);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_echod"));
        let mut daemon = Process::spawn(daemon.args(["-q", "127.0.0.1:0"]))?;
        hold::connect(0, daemon.address()?.parse()?)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}
