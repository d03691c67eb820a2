//! The machine that figures were measured on.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::thread;

use serde::Serialize;

#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    congestion_control: String,
}

impl Machine {
    /// The machine that this runs on.
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

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Machine { cpu, cores, kernel, congestion_control } = self;
        let s = if *cores == 1 { "" } else { "s" };
        write!(f, "{cpu}, {cores} core{s}, Linux {kernel}, congestion control {congestion_control}")
    }
}
