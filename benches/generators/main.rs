//! `cargo bench --bench generators` compares the load tester with the least that a load can cost.
//!
//! **What is measured.** `echoload` with its default options, and a bare generator, which is the limit:
//! see `bare.rs`. Both load the daemon in a closed loop, check every byte that comes back, and record the
//! latency of each message in a histogram.
//!
//! **How.** The generator and the daemon share one core, so that the rate is the inverse of the processor
//! time of both. In each round both generators run, one after the other, each against a new daemon; the
//! next round begins with the other one. Ratios are taken within a round, and the table has their median.
//!
//! **What is checked.** Each run has a number of messages. The generator must have counted exactly as
//! many, and the daemon exactly their bytes, in both directions. Anything else fails the benchmark.
//!
//! Without `--bench`, as `cargo test` runs it, it only checks this, and that both generators find a byte
//! that a server has changed.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures of a report"
)]
#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Parser;
use echoloop::cli::{self, units};
use nix::unistd::alarm;

mod bare;
#[path = "../peers/error.rs"]
mod error;
mod figures;
mod generator;
#[path = "../peers/machine.rs"]
mod machine;
#[path = "../peers/process.rs"]
#[allow(dead_code, reason = "shared with another benchmark, which needs more of it")]
mod process;
mod server;

use error::{Error, exit_code};
use figures::Figures;
use generator::{Generator, Load};
use machine::Machine;

const NAME: &str = "generators";

/// The loads, each with the number of its messages that take about a tenth of a second.
const LOADS: [(&str, Load); 3] = [
    ("50 connections, 64 B a message", Load { connections: 50, length: 64, messages: 10_000 }),
    ("50 connections, 16 KiB a message", Load { connections: 50, length: 16_384, messages: 8_000 }),
    ("8 connections, 1 MiB a message", Load { connections: 8, length: 1 << 20, messages: 120 }),
];

/// A run that takes longer than this many seconds will never end.
const STUCK: u32 = 300;

/// Compares the load tester with a bare generator, ratio by ratio, and prints Markdown
#[derive(Parser)]
#[command(name = NAME)]
struct Options {
    /// Number of rounds; each round measures both generators once
    #[arg(long, value_name = "N", default_value = "10", value_parser = units::count)]
    rounds: usize,

    /// Messages of a run, as a multiple of those that take about a tenth of a second
    #[arg(long, value_name = "N", default_value = "10", value_parser = units::count)]
    tenths: usize,

    /// Cargo passes this to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--pin", cpu, "--", ..] => pin(cpu, &args[3..]),
        ["--load", address, connections, length, messages] => {
            load(address, [connections, length, messages])
        }
        _ if words.contains(&"--bench") => match cli::parse::<Options>() {
            Ok(options) => bench(&options),
            Err(exit) => return exit,
        },
        _ => check(),
    };
    exit_code(NAME, done)
}

fn pin(cpu: &str, command: &[String]) -> Result<(), Error> {
    Ok(process::pin(cpu.parse()?, command)?)
}

/// The body of the process that is the bare generator.
fn load(address: &str, numbers: [&str; 3]) -> Result<(), Error> {
    let [connections, length, messages] = numbers.map(str::parse::<u64>);
    let load = Load { connections: connections? as usize, length: length?, messages: messages? };
    let figures = bare::load(address.parse()?, load)?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// If a run hangs, SIGALRM ends this process, and then the kernel ends its children.
fn expect_an_end() {
    alarm::set(STUCK);
}

/// The core that everything runs on.
fn core() -> Result<usize, Error> {
    Ok(*process::cpus()?.last().ok_or("no core")?)
}

fn bench(options: &Options) -> Result<(), Error> {
    let Options { rounds, tenths, .. } = *options;
    println!(
        "{}.\nMedians of {rounds} rounds, {tenths} tenths of a second each.\n",
        Machine::new()
    );
    println!(
        "| same core | bare, messages/s | echoload | echoload to bare | p99, us: bare | echoload |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    for (title, load) in LOADS {
        eprintln!("{NAME}: {title}");
        let load = Load { messages: load.messages * tenths as u64, ..load };
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let [first, second] = Generator::ALL;
            let order = if round % 2 == 0 { [first, second] } else { [second, first] };
            for generator in order {
                expect_an_end();
                let figures = generator.measure(core()?, load)?;
                if generator == Generator::Bare { &mut bare } else { &mut ours }.push(figures);
            }
        }
        println!("| {title} {}", row(&bare, &ours));
    }
    Ok(())
}

fn row(bare: &[Figures], ours: &[Figures]) -> String {
    let of = |all: &[Figures], figure: fn(&Figures) -> f64| median(all.iter().map(figure));
    let rate = |figures: &Figures| figures.messages_per_s;
    let p99 = |figures: &Figures| figures.p99_us;
    let ratio = median(ours.iter().zip(bare).map(|(ours, bare)| rate(ours) / rate(bare)));
    let (bare_rate, our_rate) = (of(bare, rate), of(ours, rate));
    let (bare_p99, our_p99) = (of(bare, p99), of(ours, p99));
    format!("| {bare_rate:.0} | {our_rate:.0} | {ratio:.3} | {bare_p99:.0} | {our_p99:.0} |")
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let (low, high) = ((figures.len() - 1) / 2, figures.len() / 2);
    f64::midpoint(figures[low], figures[high])
}

fn check() -> Result<(), Error> {
    expect_an_end();
    for generator in Generator::ALL {
        for (title, load) in LOADS {
            generator.measure(core()?, Load { messages: load.messages / 10, ..load })?;
            println!("{}: {title}: every message and byte is counted", generator.name());
        }
        let load = Load { connections: 2, length: 200_000, messages: 10 };
        if let Ok(figures) = generator.load(core()?, &flip(1_500_000)?, load) {
            let (name, messages) = (generator.name(), figures.messages);
            return Err(format!("{name}: a changed byte in {messages} messages not found").into());
        }
        println!("{}: a changed byte is found", generator.name());
    }
    Ok(())
}

/// Starts an echo server that changes one byte of all, and returns its address.
fn flip(at: usize) -> Result<String, Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        let echoed = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming().map_while(Result::ok) {
            let echoed = Arc::clone(&echoed);
            thread::spawn(move || echo(stream, at, &echoed));
        }
    });
    Ok(address)
}

fn echo(mut stream: TcpStream, flip: usize, echoed: &AtomicUsize) -> io::Result<()> {
    let mut page = vec![0; 65_536];
    loop {
        let n = stream.read(&mut page)?;
        if n == 0 {
            return Ok(());
        }
        let before = echoed.fetch_add(n, Ordering::Relaxed);
        if let Some(byte) = flip.checked_sub(before).and_then(|at| page[..n].get_mut(at)) {
            *byte ^= 1;
        }
        stream.write_all(&page[..n])?;
    }
}
