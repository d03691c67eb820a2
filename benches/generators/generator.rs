//! The generators that are compared: how each is started, and the check of what it has counted.

use serde_json::Value;

use crate::error::Error;
use crate::figures::Figures;
use crate::process::Process;
use crate::server::Server;

/// Messages of one length in a closed loop, one in flight on each connection.
#[derive(Clone, Copy)]
pub struct Load {
    pub connections: usize,
    pub length: u64,
    pub messages: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    Bare,
    Ours,
}

impl Generator {
    pub const ALL: [Generator; 2] = [Generator::Bare, Generator::Ours];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Generator::Bare => "bare",
            Generator::Ours => "echoload",
        }
    }

    /// Loads a new daemon, both on one core.
    ///
    /// # Errors
    /// Also if the daemon has not moved as many bytes as the generator has counted.
    pub fn measure(self, cpu: usize, load: Load) -> Result<Figures, Error> {
        let server = Server::start(cpu)?;
        let figures = self.load(cpu, &server.address, load)?;
        let (received, sent) = server.finish()?;
        let (messages, bytes) = (load.messages, load.messages * load.length);
        if (figures.messages, figures.bytes, received, sent) != (messages, bytes, bytes, bytes) {
            let Figures { messages: counted, bytes: counted_bytes, .. } = figures;
            return Err(format!(
                "{} has counted {counted} messages and {counted_bytes} bytes, and echod {received} \
                 bytes in and {sent} out, of {messages} messages and {bytes} bytes",
                self.name()
            )
            .into());
        }
        Ok(figures)
    }

    /// Loads the server at this address.
    ///
    /// # Errors
    /// Also if other bytes came back.
    pub fn load(self, cpu: usize, address: &str, load: Load) -> Result<Figures, Error> {
        let Load { connections, length, messages } = load;
        let words = match self {
            Generator::Bare => {
                let itself = std::env::current_exe()?;
                format!("{} --load {address} {connections} {length} {messages}", itself.display())
            }
            Generator::Ours => format!(
                "{} -q -c {connections} -l {length} -n {messages} --output-format json {address}",
                env!("CARGO_BIN_EXE_echoload")
            ),
        };
        let command: Vec<String> = words.split(' ').map(Into::into).collect();
        let mut process = Process::pinned(cpu, &command)?;
        let line = process.line()?.ok_or_else(|| format!("{words}: failed"))?;
        match self {
            Generator::Bare => Ok(serde_json::from_str(&line)?),
            Generator::Ours => figures(&serde_json::from_str(&line)?),
        }
    }
}

/// Takes the figures from a report of the load tester.
fn figures(report: &Value) -> Result<Figures, Error> {
    if report["verdict"] != "ok" {
        return Err(format!("echoload: {}, {}", report["verdict"], report["errors"]).into());
    }
    let find = |path: &str| {
        report.pointer(path).ok_or_else(|| Error::from(format!("the report has no {path}")))
    };
    let number = |path| Ok::<_, Error>(find(path)?.as_f64().unwrap_or(f64::NAN));
    let messages_per_s = number("/throughput/messages_per_s")?;
    let messages = find("/messages/echoed")?.as_u64().unwrap_or(0);
    let bytes_per_message = number("/throughput/bytes_per_s")? / messages_per_s;
    Ok(Figures {
        messages,
        bytes: (bytes_per_message * messages as f64).round() as u64,
        messages_per_s,
        p50_us: number("/latency_us/p50")?,
        p99_us: number("/latency_us/p99")?,
    })
}
