//! The workloads, and on which cores they run.

use std::fmt;

use serde::Serialize;

use crate::transport::Transport;

#[derive(Clone, Serialize)]
pub struct Workload {
    pub name: &'static str,
    pub transport: Transport,
    /// The sockets of the load tester.
    pub connections: usize,
    /// Additional connections that are open and idle.
    pub idle: usize,
    /// Options of the load tester.
    pub options: &'static str,
}

pub const WORKLOADS: [Workload; 11] = [
    Workload::new("1 connection", 1, "-l 64"),
    Workload::new("50 connections", 50, "-l 64"),
    Workload::new("1000 connections", 1000, "-l 64"),
    Workload::new("10000 connections", 10_000, "-l 64"),
    Workload::new("50 connections, 16 in flight each", 50, "-l 64 -p 16"),
    Workload::new("50 connections, 16 KiB a message", 50, "-l 16KiB"),
    Workload::new("8 connections, 1 MiB a message", 8, "-l 1MiB"),
    Workload {
        idle: 15_000,
        ..Workload::new("1000 connections, 15000 idle beside them", 1000, "-l 64")
    },
    // Each connection leaves a port in TIME_WAIT for a minute. The load tester then uses further
    // addresses of 127.0.0.0/8; there are enough of them for short rounds.
    Workload::new("50 connections, a new one for each message", 50, "-l 64 --reconnect"),
    Workload { transport: Transport::Udp, ..Workload::new("1 UDP socket", 1, "-l 64") },
    Workload { transport: Transport::Udp, ..Workload::new("50 UDP sockets", 50, "-l 64") },
];

impl Workload {
    const fn new(name: &'static str, connections: usize, options: &'static str) -> Workload {
        Workload { name, transport: Transport::Tcp, connections, idle: 0, options }
    }

    /// The same workload, with its connections reduced in proportion to at most `room`.
    pub fn within(mut self, room: usize) -> Workload {
        let wanted = self.connections + self.idle;
        if wanted > room {
            self.connections = self.connections * room / wanted;
            self.idle = self.idle * room / wanted;
        }
        self
    }
}

/// Which cores the server and the load tester run on.
#[derive(Clone, Copy)]
pub struct Placement {
    pub name: &'static str,
    pub server: usize,
    pub load: usize,
}

impl Placement {
    /// All placements that the machine allows. On the same core, the rate depends on the processor
    /// time of an echo only. On two cores it is what a user sees, with the effects of other programs,
    /// of cores that sleep, and of the core that handles an interrupt.
    pub fn all(cpus: &[usize]) -> Vec<Placement> {
        let mut all = Vec::new();
        if let [first, .., last] = *cpus {
            all.push(Placement { name: "two cores", server: first, load: last });
        }
        if let Some(&last) = cpus.last() {
            all.push(Placement { name: "same core", server: last, load: last });
        }
        all
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name)
    }
}
