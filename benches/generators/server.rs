//! The daemon that both generators load, and what it has counted.

use std::io::{self, Read};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::Error;
use crate::process::{Process, pinned};

pub struct Server {
    process: Process,
    pub address: String,
}

impl Server {
    pub fn start(cpu: usize) -> io::Result<Server> {
        let command = [env!("CARGO_BIN_EXE_echod"), "127.0.0.1:0"].map(Into::into);
        let mut command = pinned(cpu, &command)?;
        let mut process = Process::spawn(command.stderr(Stdio::piped()))?;
        let address = process.address()?;
        Ok(Server { process, address })
    }

    /// Ends it, and returns how many bytes it has received and sent.
    pub fn finish(mut self) -> Result<(u64, u64), Error> {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM)?;
        let mut log = String::new();
        if let Some(mut stderr) = self.process.child.stderr.take() {
            stderr.read_to_string(&mut log)?;
        }
        let count = |name: &str| {
            let found = log.split_whitespace().find_map(|word| word.strip_prefix(name));
            found.and_then(|n| n.parse().ok()).ok_or_else(|| format!("echod: no {name} in {log}"))
        };
        Ok((count("bytes_in=")?, count("bytes_out=")?))
    }
}
