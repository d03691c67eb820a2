//! What a process and all its descendants have used.

use std::fs;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// The unit of times in /proc (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// What is needed of /proc/PID/stat.
struct Stat {
    pid: u32,
    parent: u32,
    /// Processor time of children that it has waited for.
    children: Duration,
}

/// User and system time so far. For running processes it comes from their clocks, in nanoseconds, and
/// includes threads that have ended. For children that have ended it is in whole ticks.
pub fn cpu(root: u32) -> Duration {
    tree(root).iter().map(|stat| clock(stat.pid) + stat.children).sum()
}

/// Bytes in user space. Each page is divided by the number of processes that share it.
pub fn memory(root: u32) -> u64 {
    tree(root).iter().map(|stat| pss(stat.pid)).sum()
}

fn clock(pid: u32) -> Duration {
    let id = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()));
    id.and_then(clock_gettime).map_or(Duration::ZERO, Duration::from)
}

fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// The process and its descendants, without those that end meanwhile.
fn tree(root: u32) -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let (mut found, mut others): (Vec<_>, Vec<_>) =
        pids.filter_map(Stat::of).partition(|stat| stat.pid == root);
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|stat| stat.pid) {
        found.extend(others.extract_if(.., |stat| stat.parent == parent));
        next += 1;
    }
    found
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Fields are numbered as in proc_pid_stat(5). Field 2, the name, may contain any character;
        // field 3 follows its last parenthesis.
        let fields: Vec<&str> = text[text.rfind(')')? + 2..].split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
        Some(Stat { pid, parent: field(4)?, children: TICK * (field(16)? + field(17)?) })
    }
}
