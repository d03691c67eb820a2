//! Child processes that run on one core and end with this process.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A child that is killed when it is dropped.
pub struct Process {
    pub child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    pub fn spawn(command: &mut Command) -> io::Result<Process> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        Ok(Process { child, stdout: BufReader::new(stdout) })
    }

    /// Starts a command on one core.
    pub fn pinned(cpu: usize, command: &[String]) -> io::Result<Process> {
        Process::spawn(&mut pinned(cpu, command)?)
    }

    /// The next line that it prints, or `None` at the end.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let n = self.stdout.read_line(&mut line)?;
        Ok((n > 0).then(|| line.trim_end().to_owned()))
    }

    /// The address in its first line, in the form that echod prints.
    pub fn address(&mut self) -> io::Result<String> {
        let line = self.line()?.ok_or_else(|| io::Error::other("printed no address"))?;
        Ok(line.split_once("://").map_or(line.as_str(), |(_, address)| address).to_owned())
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This executable as [`pin`], which then becomes the command.
pub fn pinned(cpu: usize, command: &[String]) -> io::Result<Command> {
    let mut pinned = Command::new(std::env::current_exe()?);
    pinned.args(["--pin", &cpu.to_string(), "--"]).args(command);
    Ok(pinned)
}

/// Replaces this process by the command, which then runs on that core only. The kernel kills it when
/// its parent ends in any way; the drop of a [`Process`] ends it earlier.
pub fn pin(cpu: usize, command: &[String]) -> io::Result<()> {
    let (program, args) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    set_pdeathsig(Signal::SIGKILL)?;
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    let error = Command::new(program).args(args).exec();
    Err(io::Error::new(error.kind(), format!("{program}: {error}")))
}

/// The cores that this process may use.
pub fn cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).collect())
}
