//! What was measured, as Markdown and as JSON.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::machine::Machine;
use crate::sample::{Sample, median_ratio};
use crate::servers::limit;
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

/// One workload in one placement.
#[derive(Serialize)]
pub struct Table {
    pub title: String,
    pub placement: &'static str,
    pub workload: Workload,
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
    /// The daemon's rate with idle connections, divided by its rate without them.
    pub beside_idle: Option<f64>,
}

#[derive(Serialize)]
pub struct Row {
    server: String,
    median: Sample,
    /// The rate, divided by that of the bare loop.
    to_limit: f64,
    rounds: Vec<Sample>,
}

/// What an idle connection costs a server.
#[derive(Serialize)]
pub struct Memory {
    pub server: String,
    pub connections: usize,
    pub bytes: u64,
}

impl Report {
    /// Nothing was measured so far.
    pub fn new(rounds: usize, seconds: f64) -> Report {
        let (machine, tables, memory) = (Machine::new(), Vec::new(), Vec::new());
        Report { machine, rounds, seconds, tables, memory, start_ms: None }
    }

    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.memory.is_empty() && self.start_ms.is_none()
    }

    /// The ratios to the limit of all workloads, in one table.
    fn write_ratios(&self, f: &mut Formatter) -> fmt::Result {
        let mut servers = Vec::new();
        for row in self.tables.iter().flat_map(|table| &table.rows) {
            if !servers.contains(&row.server.as_str()) {
                servers.push(&row.server);
            }
        }
        if servers.is_empty() {
            return Ok(());
        }
        writeln!(f, "### Messages/s, divided by those of the bare loop\n")?;
        writeln!(f, "| | {} |", servers.join(" | "))?;
        writeln!(f, "|---|{}", "--:|".repeat(servers.len()))?;
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
        Ok(())
    }

    fn write_memory(&self, f: &mut Formatter) -> fmt::Result {
        if self.memory.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n### User memory for each idle connection\n")?;
        writeln!(f, "| server | idle connections | bytes for each |\n|---|--:|--:|")?;
        for Memory { server, connections, bytes } in &self.memory {
            writeln!(f, "| {server} | {connections} | {bytes} |")?;
        }
        writeln!(
            f,
            "\nEach connection has had one echo of 64 bytes. Memory of the kernel is not included."
        )
    }
}

impl Row {
    pub fn new(server: &str, rounds: Vec<Sample>, limit: &[Sample]) -> Row {
        let (median, to_limit) = (Sample::median(&rounds), median_ratio(&rounds, limit));
        Row { server: server.into(), median, to_limit, rounds }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        let limit = limit(self.workload.transport);
        write!(f, "| server | messages/s | to {limit} | p50, us | p99, us ")?;
        writeln!(f, "| server CPU for each echo, us |")?;
        writeln!(f, "|---|--:|--:|--:|--:|--:|")?;
        for Row { server, median, to_limit, .. } in &self.rows {
            let Sample { messages_per_s, p50_us, p99_us, cpu_us } = median;
            write!(f, "| {server} | {messages_per_s:.0} | {to_limit:.2} ")?;
            writeln!(f, "| {p50_us:.1} | {p99_us:.1} | {cpu_us:.2} |")?;
        }
        if !self.notes.is_empty() {
            writeln!(f, "\nNot as asked: {}.", self.notes.join("; "))?;
        }
        if let Some(ratio) = self.beside_idle {
            write!(f, "\nBeside the idle connections, echod has {ratio:.2} ")?;
            writeln!(f, "of the rate that it has without them.")?;
        }
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        self.write_ratios(f)?;
        self.write_memory(f)?;
        if let Some(start) = self.start_ms {
            writeln!(f, "\nFrom the start of echod to its first echo: {start:.1} ms.")?;
        }
        Ok(())
    }
}
