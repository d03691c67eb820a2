//! What was measured, as Markdown and as JSON.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::thread;

use serde::Serialize;

use crate::measure::LIMIT;
use crate::workload::Workload;

#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub rounds: usize,
    pub seconds: f64,
    pub tables: Vec<Table>,
    pub memory: Vec<Memory>,
    pub start_ms: Option<f64>,
}

#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    congestion_control: String,
}

/// One workload in one placement.
#[derive(Serialize)]
pub struct Table {
    pub title: String,
    pub placement: &'static str,
    pub workload: Workload,
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
    /// Our rate with idle connections beside the active ones, in parts of that without.
    pub beside_idle: Option<f64>,
}

#[derive(Serialize)]
pub struct Row {
    server: String,
    median: Sample,
    /// The rate in parts of the bare loop's.
    to_limit: f64,
    rounds: Vec<Sample>,
}

/// One server in one round, or the medians of all.
#[derive(Clone, Copy, Serialize)]
pub struct Sample {
    pub messages_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Processor time of the server an echo.
    pub cpu_us: f64,
}

#[derive(Serialize)]
pub struct Memory {
    pub server: String,
    pub connections: usize,
    pub bytes: u64,
}

impl Report {
    /// Nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.memory.is_empty() && self.start_ms.is_none()
    }
}

impl Machine {
    /// This one.
    pub fn new() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        Machine {
            cpu: model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").into(),
            cores: thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().into(),
        }
    }
}

impl Row {
    pub fn new(server: &str, rounds: Vec<Sample>, limit: &[Sample]) -> Row {
        let of = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure).collect());
        let median = Sample {
            messages_per_s: of(|sample| sample.messages_per_s),
            p50_us: of(|sample| sample.p50_us),
            p99_us: of(|sample| sample.p99_us),
            cpu_us: of(|sample| sample.cpu_us),
        };
        Row { server: server.into(), median, to_limit: paired(&rounds, limit), rounds }
    }
}

/// The median of the ratios within each round: what slows a whole round down is in both.
pub fn paired(rounds: &[Sample], others: &[Sample]) -> f64 {
    let pairs = rounds.iter().zip(others);
    median(pairs.map(|(one, other)| one.messages_per_s / other.messages_per_s).collect())
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let (low, high) = (figures.len().saturating_sub(1) / 2, figures.len() / 2);
    figures
        .get(low)
        .zip(figures.get(high))
        .map_or(f64::NAN, |(low, high)| f64::midpoint(*low, *high))
}

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Machine { cpu, cores, kernel, congestion_control } = self;
        let s = if *cores == 1 { "" } else { "s" };
        write!(f, "{cpu}, {cores} core{s}, Linux {kernel}, congestion control {congestion_control}")
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        writeln!(
            f,
            "| server | messages/s | to {LIMIT} | p50, us | p99, us | server CPU, us an echo |"
        )?;
        writeln!(f, "|---|--:|--:|--:|--:|--:|")?;
        for Row {
            server,
            median: Sample { messages_per_s, p50_us, p99_us, cpu_us },
            to_limit,
            ..
        } in &self.rows
        {
            write!(f, "| {server} | {messages_per_s:.0} | {to_limit:.2} ")?;
            writeln!(f, "| {p50_us:.1} | {p99_us:.1} | {cpu_us:.2} |")?;
        }
        if !self.notes.is_empty() {
            writeln!(f, "\nNot as asked: {}.", self.notes.join("; "))?;
        }
        if let Some(ratio) = self.beside_idle {
            writeln!(
                f,
                "\nWith the idle connections ours has {ratio:.2} of its rate without them."
            )?;
        }
        Ok(())
    }
}

/// All ratios to the limit on one page, and then what is not a rate.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let mut servers = Vec::new();
        for row in self.tables.iter().flat_map(|table| &table.rows) {
            if !servers.contains(&row.server.as_str()) {
                servers.push(&row.server);
            }
        }
        if !servers.is_empty() {
            writeln!(f, "### Messages/s in parts of those of {LIMIT}\n")?;
            writeln!(f, "| | {} |", servers.join(" | "))?;
            writeln!(f, "|---|{}", "--:|".repeat(servers.len()))?;
        }
        for table in &self.tables {
            write!(f, "| {} |", table.title)?;
            for server in &servers {
                match table.rows.iter().find(|row| row.server == *server) {
                    Some(row) => write!(f, " {:.2} |", row.to_limit)?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        if !self.memory.is_empty() {
            writeln!(f, "\n### User memory an idle connection\n")?;
            writeln!(f, "| server | idle connections | bytes for each |\n|---|--:|--:|")?;
            for Memory { server, connections, bytes } in &self.memory {
                writeln!(f, "| {server} | {connections} | {bytes} |")?;
            }
            writeln!(
                f,
                "\nEach has had one echo of 64 bytes. The kernel's own memory is not in it."
            )?;
        }
        if let Some(start) = self.start_ms {
            writeln!(f, "\nFrom the start of ours to its first echo: {start:.1} ms.")?;
        }
        Ok(())
    }
}
