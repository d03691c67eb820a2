//! `cargo bench --bench peers` compares the daemon with the least that an echo can cost, and with
//! other kinds of server.
//!
//! **What is measured.** The daemon with its default options; a bare epoll loop, which is the limit; a
//! task for each connection, on tokio (in two ways) and on smol; a thread for each connection; a
//! process for each connection. For datagrams: the daemon, with a rate that limits nothing, and a bare
//! loop of recvfrom and sendto, which is the limit there. Each peer is the smallest correct program of
//! its kind, in its own file under `servers/`. The load comes from `echoload`, in its own process, on
//! one thread. It checks every byte, and any error fails the benchmark.
//!
//! **How.** The speed of a machine changes by tens of percent within minutes. So rounds are short. In
//! each round every server is measured once, in an order that rotates and changes its direction, as a
//! new process (except where it holds idle connections). Ratios are taken within a round, and the
//! report has their median. Each workload runs in two placements. With the server and the load tester
//! on two cores it is what a user sees. With both on the same core, the rate is the inverse of the
//! processor time of both, and the noise is a tenth of that on two cores. "Server CPU" is the user and
//! system time of the server and its child processes, over whole intervals in the middle of a round.
//! Over loopback it contains some work for the other side: the kernel charges the delivery of a segment
//! to its sender.
//!
//! **What it cannot show.** The cost over a network, where driver and distance cost more than any
//! server here. On the same core, the cost of the server is mixed with that of the load tester: for the
//! server alone, see its CPU for each echo. On two cores the load tester may be the limit, and then all
//! faster servers look the same. Latency is that of a closed loop under full load. The child of the
//! server with processes is this executable, which is larger than it needs to be.
//!
//! Without `--bench`, as `cargo test` runs it, it only checks that all servers echo correctly.
#![forbid(unsafe_code)]

use std::env;
use std::fs::File;
use std::process::ExitCode;

use echoloop::cli;

mod contender;
mod error;
mod hold;
mod load;
mod machine;
mod measure;
mod options;
mod process;
mod report;
mod sample;
mod servers;
mod transport;
mod tree;
mod workload;

use contender::Contender;
use error::{Error, exit_code};
use options::Options;
use report::Report;
use workload::{Placement, WORKLOADS};

const NAME: &str = "peers";
const MEMORY: &str = "memory an idle connection";
const START: &str = "start to first echo";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--serve", kind, address] => servers::serve(kind, address).map_err(Error::from),
        // Silent, since a client may leave in any way.
        ["--copy"] => return ExitCode::from(u8::from(servers::copy().is_err())),
        ["--hold", count, address] => number(count).and_then(|n| Ok(hold::hold(n, address)?)),
        ["--pin", cpu, "--", ..] => number(cpu).and_then(|n| Ok(process::pin(n, &args[3..])?)),
        _ if words.contains(&"--bench") => match cli::parse::<Options>() {
            Ok(options) => bench(&options),
            Err(exit) => return exit,
        },
        _ => check(),
    };
    exit_code(NAME, done)
}

fn number(text: &str) -> Result<usize, Error> {
    Ok(text.parse()?)
}

fn check() -> Result<(), Error> {
    let options: Options = clap::Parser::parse_from([NAME]);
    for (contender, cpu) in Contender::all(&options)?.iter().zip(process::cpus()?.iter().cycle()) {
        measure::check(contender, *cpu)?;
        println!("{} echoes correctly over {}", contender.name, contender.transport);
    }
    Ok(())
}

fn bench(options: &Options) -> Result<(), Error> {
    let json = options.json.as_ref().map(File::create).transpose()?;
    let contenders = Contender::all(options)?;
    let placements = Placement::all(&process::cpus()?);
    let mut report = Report::new(options.rounds, options.seconds.as_secs_f64());
    println!("{}.", report.machine);
    println!("Medians of {} rounds of {} s.\n", report.rounds, report.seconds);
    if placements.len() < 2 {
        println!("The server and the load tester have one core only.\n");
    }
    for workload in &WORKLOADS {
        for &placement in &placements {
            let title = format!("{}, {placement}", workload.name);
            if starts(options, &title) {
                let table = measure::table(&contenders, workload, placement, options)?;
                println!("{table}");
                report.tables.push(table);
            }
        }
    }
    if let Some(&placement) = placements.first().filter(|_| starts(options, MEMORY)) {
        report.memory = measure::memory(&contenders, placement)?;
    }
    if starts(options, START) {
        report.start_ms = Some(measure::start()?);
    }
    if report.is_empty() {
        return Err(format!("no title has all of these words: {}", options.only).into());
    }
    print!("{report}");
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &report)?;
    }
    Ok(())
}

/// Whether the part with this title was asked for. If so, its title goes to stderr as progress.
fn starts(options: &Options, title: &str) -> bool {
    let wanted = options.wants(title);
    if wanted {
        eprintln!("{NAME}: {title}");
    }
    wanted
}
