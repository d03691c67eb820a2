//! `cargo bench --bench peers`: how far the daemon is from the least that an echo can cost, and where
//! other kinds of server are.
//!
//! **What.** The daemon, with its default options; a bare epoll loop, the limit; a task a connection,
//! on tokio, in two ways, and on smol; a thread a connection; a process a connection. Each kind is the
//! smallest honest program of its kind, in a file of its own under `servers/`. The load is our load
//! tester, in a process and on one thread, and checks every byte; anything wrong fails the whole.
//!
//! **How.** A machine drifts, by tens of percent over minutes. So the rounds are short, and in each of
//! them every server is measured once, in an order that rotates and turns round, as a new process
//! unless others idle beside the load. The ratios are taken within each round, and their median is
//! printed. Each workload runs twice: with the server on one core and the load tester on another, as
//! users have it, and with both on the same core, where the rate is one over the processor time of
//! both, and the noise a tenth. Server CPU is user and system time of the server and all below it,
//! over whole intervals in the middle of a round. On loopback it has a part of the other side's: the
//! kernel delivers what one sends on that one's account.
//!
//! **What it cannot tell.** How it is over a network, where the driver and the distance cost more than
//! any of these. On the same core, what the server costs is diluted by what the load tester costs: for
//! the server alone look at its CPU an echo. On two, the load tester may be the limit, and then faster
//! servers all look the same. Latency in a closed loop is that under full load. The process that
//! copies is this executable, larger than the few lines that it needs.
//!
//! Without `--bench`, as `cargo test` runs it, it only checks that all servers echo right.
#![forbid(unsafe_code)]

use std::env;
use std::fs::File;
use std::process::ExitCode;

use echoloop::cli;

mod hold;
mod load;
mod measure;
mod options;
mod process;
mod report;
mod servers;
mod tree;
mod workload;

use measure::Contender;
use options::Options;
use report::{Machine, Report};
use workload::{Placement, WORKLOADS};

type Error = Box<dyn std::error::Error>;

const NAME: &str = "peers";
const MEMORY: &str = "memory an idle connection";
const START: &str = "start to first echo";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--serve", kind, address] => servers::serve(kind, address).map_err(Error::from),
        // Whose client may leave as it likes.
        ["--copy"] => return ExitCode::from(u8::from(servers::copy().is_err())),
        ["--hold", count, address] => number(count).and_then(|n| Ok(hold::hold(n, address)?)),
        ["--pin", cpu, "--", ..] => number(cpu).and_then(|n| Ok(process::pin(n, &args[3..])?)),
        _ if words.contains(&"--bench") => match cli::parse::<Options>() {
            Ok(options) => bench(&options),
            Err(exit) => return exit,
        },
        _ => check(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            cli::complain(NAME, &e.to_string());
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<usize, Error> {
    Ok(text.parse()?)
}

fn check() -> Result<(), Error> {
    let options: Options = clap::Parser::parse_from([NAME]);
    for (contender, cpu) in Contender::all(&options)?.iter().zip(process::cpus()?.iter().cycle()) {
        measure::check(contender, *cpu)?;
        println!("{} echoes right", contender.name);
    }
    Ok(())
}

fn bench(options: &Options) -> Result<(), Error> {
    let json = options.json.as_ref().map(File::create).transpose()?;
    let contenders = Contender::all(options)?;
    let placements = Placement::all(&process::cpus()?);
    let mut report = Report {
        machine: Machine::new(),
        rounds: options.rounds,
        seconds: options.seconds.as_secs_f64(),
        tables: Vec::new(),
        memory: Vec::new(),
        start_ms: None,
    };
    println!("{}.", report.machine);
    println!("Medians of {} rounds of {} s.\n", options.rounds, report.seconds);
    if placements.len() < 2 {
        println!("There is one core only, for the server and the load tester.\n");
    }
    for workload in &WORKLOADS {
        for &placement in &placements {
            let title = format!("{}, {placement}", workload.name);
            if options.want(&title) {
                eprintln!("{NAME}: {title}");
                let table = measure::table(&contenders, workload, placement, options)?;
                println!("{table}");
                report.tables.push(table);
            }
        }
    }
    if let Some(&placement) = placements.first().filter(|_| options.want(MEMORY)) {
        eprintln!("{NAME}: {MEMORY}");
        report.memory = measure::memory(&contenders, placement)?;
    }
    if options.want(START) {
        eprintln!("{NAME}: {START}");
        report.start_ms = Some(measure::start()?);
    }
    if report.is_empty() {
        return Err(format!("nothing has all these words in its title: {}", options.only).into());
    }
    print!("{report}");
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &report)?;
    }
    Ok(())
}
