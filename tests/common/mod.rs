//! What the tests share: a server in this process, the daemon as a process of its own, and clients
//! that give up at a deadline instead of hanging.
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod datagrams;

use std::any::TypeId;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use echoloop::protocol::{Echo, Kind, Prefix};
use echoloop::{
    ConfigBuilder, Counters, Endpoint, Protocol, RunError, RunSummary, Server, StopReason, Stopper,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// After this long a test has failed. Far more than anything takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A whole message of this kind, with this body as far as the kind allows.
pub fn message(kind: &Kind, body: &[u8]) -> Vec<u8> {
    match kind {
        Kind::Raw => body.to_vec(),
        Kind::Line => {
            let letters = body.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte });
            letters.chain([b'\n']).collect()
        }
        Kind::Fixed(n) => padded(body).take(*n).collect(),
        Kind::Length(Prefix::Ascii5) => [format!("{:05}", body.len()).as_bytes(), body].concat(),
        Kind::Length(Prefix::U16) => {
            [&u16::try_from(body.len()).expect("small").to_be_bytes(), body].concat()
        }
        Kind::Length(Prefix::U32) => {
            [&u32::try_from(body.len()).expect("small").to_be_bytes(), body].concat()
        }
        Kind::Typed(types) => {
            let (name, behind) = types[body.len() % types.len()];
            [name].into_iter().chain(padded(body).take(behind)).collect()
        }
        kind => unreachable!("no message of {kind}"),
    }
}

fn padded(body: &[u8]) -> impl Iterator<Item = u8> {
    body.iter().copied().chain(std::iter::repeat(b'.'))
}

/// Tries until it holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that differ from place to place, so that a swap or a shift shows.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend(x.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    stream.set_write_timeout(Some(DEADLINE)).expect("set a deadline");
    stream.set_nodelay(true).expect("set nodelay");
    stream
}

/// Connects to a Unix socket, as soon as somebody listens there.
#[track_caller]
pub fn connect_path(path: impl AsRef<Path>) -> UnixStream {
    let mut stream = None;
    eventually("it listens", || {
        stream = UnixStream::connect(&path).ok();
        stream.is_some()
    });
    let stream = stream.expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    stream
}

/// A folder of the test's own, with a short name, as the path of a socket must be.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("echod-{name}-{}", std::process::id()));
        fs::create_dir(&folder).expect("folder");
        Folder(folder)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().expect("a path in UTF-8")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Sends and gets back the same.
#[track_caller]
pub fn ping(stream: &mut (impl Read + Write), message: &[u8]) {
    stream.write_all(message).expect("send");
    expect_bytes(stream, message);
}

#[track_caller]
pub fn expect_bytes(stream: &mut impl Read, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("receive");
    assert!(got == expected, "other bytes came back");
}

#[track_caller]
pub fn expect_end(stream: &mut impl Read) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty(), "{} bytes instead of the end", rest.len());
}

/// Half-closes, and expects the end in answer.
#[track_caller]
pub fn leave(mut stream: impl Read + AsFd) {
    half_close(&stream);
    expect_end(&mut stream);
}

#[track_caller]
pub fn half_close(stream: &impl AsFd) {
    socket2::SockRef::from(stream).shutdown(Shutdown::Write).expect("half-close");
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger 0");
    drop(stream);
}

/// Sends until neither the kernels nor the server take more; how many bytes that was. Without
/// `TCP_NODELAY` and small buffers this is some megabytes.
#[track_caller]
pub fn stuff(stream: &mut (impl Write + AsFd), bytes: &[u8]) -> usize {
    socket2::SockRef::from(&*stream).set_nonblocking(true).expect("nonblocking");
    let (mut sent, mut last) = (0, Instant::now());
    while sent < bytes.len() && last.elapsed() < Duration::from_millis(200) {
        match stream.write(&bytes[sent..]) {
            Ok(n) => (sent, last) = (sent + n, Instant::now()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(e) => panic!("send: {e}"),
        }
    }
    socket2::SockRef::from(&*stream).set_nonblocking(false).expect("blocking");
    sent
}

/// A port of 127.0.0.1 that the system picks.
pub fn any_port() -> Endpoint {
    "tcp://127.0.0.1:0".parse().expect("an endpoint")
}

/// A server on a thread of this process.
pub struct InProcess {
    pub address: SocketAddr,
    pub stopper: Stopper,
    thread: Option<JoinHandle<Result<RunSummary, RunError>>>,
    adds_up: bool,
}

impl InProcess {
    /// On a port of 127.0.0.1 that the system picks.
    pub fn start(config: ConfigBuilder) -> InProcess {
        let config = config.endpoint(any_port()).build().expect("a configuration");
        InProcess::run(Server::bind(&config).expect("bind"))
    }

    pub fn run<P>(server: Server<P>) -> InProcess
    where
        P: Protocol<State: Send> + Send + 'static,
    {
        InProcess::run_counted(server).0
    }

    /// Also returns where its counters will be, once it has ended.
    pub fn run_counted<P>(server: Server<P>) -> (InProcess, Receiver<Counters>)
    where
        P: Protocol<State: Send> + Send + 'static,
    {
        let address = server.local_addrs()[0].as_tcp().expect("a TCP address");
        let stopper = server.stopper();
        let (counters, counted) = mpsc::channel();
        let thread = thread::spawn(move || {
            let summary = server.run()?;
            let _ = counters.send(summary.counters.clone());
            Ok(summary)
        });
        // Only of a protocol that answers as many bytes as it receives.
        let adds_up = TypeId::of::<P>() == TypeId::of::<Echo>();
        (InProcess { address, stopper, thread: Some(thread), adds_up }, counted)
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Asks for the drain and waits for its end.
    #[track_caller]
    pub fn stop(mut self) -> StopReason {
        self.stopper.stop().expect("wake the server");
        self.join()
    }

    /// Waits for the end of the run.
    #[track_caller]
    pub fn join(&mut self) -> StopReason {
        let thread = self.thread.take().expect("not joined before");
        eventually("the server ends", || thread.is_finished());
        let ended = thread.join().expect("no panic").expect("no error");
        let Counters { bytes_in, bytes_out, bytes_unsent, .. } = ended.counters;
        assert!(!self.adds_up || bytes_in == bytes_out + bytes_unsent, "{}", ended.counters);
        assert_eq!(ended.counters.open(), 0, "{}", ended.counters);
        ended.stop_reason
    }
}

/// The drain is part of every test: a server that cannot end fails it.
impl Drop for InProcess {
    fn drop(&mut self) {
        if self.thread.is_some() && !thread::panicking() {
            self.stopper.stop().expect("wake the server");
            self.join();
        }
    }
}

/// The built daemon. When a test is done with it, it is asked the last questions: are all files back,
/// is it at rest, does an echo still work, does it end well, and has it logged neither an error nor a
/// panic?
pub struct Daemon {
    child: Child,
    /// What it printed: the addresses, and those of them that are of TCP.
    pub printed: Vec<String>,
    pub addresses: Vec<SocketAddr>,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    files_at_start: usize,
    asked: bool,
    /// One that it echoes at once, whatever its framing.
    message: Vec<u8>,
}

impl Daemon {
    /// On a port of 127.0.0.1 that the system picks.
    #[track_caller]
    pub fn start(options: &[&str]) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echod"));
        command.args(options).arg("tcp://127.0.0.1:0");
        Daemon::spawn(&mut command)
    }

    /// Any command that ends up as the daemon, under the same process id.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Daemon {
        Daemon::spawn_logging_to(Stdio::piped(), command)
    }

    /// With a stderr of the test's own; [`Daemon::log`] is empty then.
    #[track_caller]
    pub fn spawn_logging_to(stderr: impl Into<Stdio>, command: &mut Command) -> Daemon {
        Daemon::spawn_between(Stdio::null(), stderr, command)
    }

    /// With a stdin of the test's own, too, by which it can hand over a file.
    #[track_caller]
    pub fn spawn_between(
        stdin: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
        command: &mut Command,
    ) -> Daemon {
        command.env_remove("RUST_LOG").stdin(stdin).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().expect("start");
        let log = Arc::new(Mutex::new(String::new()));
        let reader = child.stderr.take().map(|stderr| {
            let lines = Arc::clone(&log);
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    *lines.lock().expect("log") += &(line + "\n");
                }
            })
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut printed = Vec::new();
        // The lines come in one write, once all is bound.
        loop {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("stdout");
            assert!(line.ends_with('\n'), "no address; log: {}", log.lock().expect("log"));
            printed.push(line.trim_end().to_owned());
            if stdout.buffer().is_empty() {
                break;
            }
        }
        let tcp = printed.iter().filter_map(|line| line.strip_prefix("tcp://"));
        let addresses = tcp.map(|address| address.parse().expect("an address")).collect();
        let arguments: Vec<_> = command.get_args().filter_map(|word| word.to_str()).collect();
        let framing = arguments.windows(2).find(|pair| pair[0] == "--framing");
        let kind = framing.map_or(Kind::Raw, |pair| pair[1].parse().expect("a kind"));
        let message = message(&kind, b"one echo");
        let (files_at_start, asked) = (0, false);
        let mut daemon =
            Daemon { child, printed, addresses, log, reader, files_at_start, asked, message };
        // Whatever is not there yet would later look like a leak. Whether it is echoed does not matter
        // here: there may be an idle timeout that is shorter than that takes.
        let _ = daemon.try_echo();
        daemon.files_at_start = daemon.settled_files();
        daemon
    }

    /// One client that comes, is served, and leaves.
    fn try_echo(&self) -> std::io::Result<Vec<u8>> {
        fn echo(
            mut stream: impl Read + Write,
            message: &[u8],
            half_close: impl Fn(),
        ) -> std::io::Result<Vec<u8>> {
            let mut got = vec![0; message.len()];
            stream.write_all(message)?;
            stream.read_exact(&mut got)?;
            half_close();
            stream.read_to_end(&mut got)?;
            Ok(got)
        }
        if let Some(address) = self.printed[0].strip_prefix("udp://") {
            let address = address.parse().expect("an address");
            return datagrams::try_echo(address, b"one echo");
        }
        if let Some(path) = self.printed[0].strip_prefix("unix:") {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            echo(&stream, &self.message, || drop(stream.shutdown(Shutdown::Write)))
        } else {
            let stream = self.connect();
            echo(&stream, &self.message, || drop(stream.shutdown(Shutdown::Write)))
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("kill");
    }

    /// Ends a daemon that drains, with this signal. The first ones may come so early that they are the wish
    /// which it knows.
    #[track_caller]
    pub fn end_at_once(&mut self, signal: Signal) -> ExitStatus {
        eventually("the daemon ends", || {
            self.signal(signal);
            self.child.try_wait().expect("wait").is_some()
        });
        self.wait()
    }

    /// Open files, those of connections included.
    pub fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("/proc").count()
    }

    /// The files that are open once the number has stopped changing.
    fn settled_files(&self) -> usize {
        let mut last = (self.files(), Instant::now());
        while last.1.elapsed() < Duration::from_millis(50) {
            thread::sleep(Duration::from_millis(5));
            let now = self.files();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        last.0
    }

    #[track_caller]
    pub fn expect_files_back(&self) {
        eventually("all files are back", || self.files() <= self.files_at_start);
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> usize {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).expect("/proc");
        let pages: usize =
            statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("resident pages");
        pages * 4096
    }

    /// User and system time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("/proc");
        let fields: Vec<&str> = stat[stat.rfind(')').expect("name") + 2..].split(' ').collect();
        let ticks: u64 = [11, 12].iter().map(|&i| fields[i].parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// CPU time used while `watched` goes by.
    pub fn cpu_within(&self, watched: Duration) -> Duration {
        let before = self.cpu();
        thread::sleep(watched);
        self.cpu().saturating_sub(before)
    }

    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        self.asked = true;
        if let Some(reader) = self.reader.take() {
            eventually("the log's end", || reader.is_finished());
            reader.join().expect("the log");
        }
        status.expect("ended")
    }

    /// The last questions. A test that ends the daemon in its own way asks its own.
    #[track_caller]
    pub fn last_questions(&mut self) {
        self.expect_files_back();
        assert_eq!(self.try_echo().expect("one last echo"), self.message);
        self.expect_files_back();
        let cpu = self.cpu_within(Duration::from_millis(300));
        assert!(cpu < Duration::from_millis(50), "used {cpu:?} while idle");
        self.signal(Signal::SIGTERM);
        assert_eq!(self.wait().code(), Some(0), "log: {}", self.log());
        let log = self.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "log: {log}");
        if log.contains("INFO") {
            self.expect_counters_add_up();
        }
    }

    /// The counters of the last line that has them, by name.
    #[track_caller]
    pub fn counters(&self) -> HashMap<String, u64> {
        let mut counters = HashMap::new();
        eventually("a line of counters", || {
            let log = self.log();
            let Some(line) = log.lines().rev().find(|line| line.contains(" accepted=")) else {
                return false;
            };
            let pairs = line.split(' ').filter_map(|word| word.split_once('='));
            counters = pairs.map(|(name, n)| (name.to_owned(), n.parse().expect(name))).collect();
            true
        });
        counters
    }

    /// Of a daemon that has ended.
    #[track_caller]
    pub fn expect_counters_add_up(&self) {
        // The log's reader may be behind.
        eventually("the last line of counters", || self.counters()["open"] == 0);
        let counters = self.counters();
        let closed = counters.iter().filter(|(name, _)| name.starts_with("closed_"));
        assert_eq!(counters["accepted"], closed.map(|(_, n)| n).sum::<u64>(), "{counters:?}");
        let given_back_or_owed = counters["bytes_out"] + counters["bytes_unsent"];
        assert_eq!(counters["bytes_in"], given_back_or_owed, "{counters:?}");
        let dropped = counters.iter().filter(|(name, _)| name.starts_with("datagrams_dropped_"));
        let dropped: u64 = dropped.map(|(_, n)| n).sum();
        let datagrams = |name| counters.get(name).copied().unwrap_or_default();
        let sent = datagrams("datagrams_sent");
        assert_eq!(datagrams("datagrams_received"), sent + dropped, "{counters:?}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        } else if !self.asked {
            self.last_questions();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stops the process, and sees to it that it has stopped.
#[track_caller]
pub fn halt(daemon: &Daemon) {
    daemon.signal(Signal::SIGSTOP);
    eventually("the daemon has stopped", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("/proc");
        stat[stat.rfind(')').expect("name")..].starts_with(") T")
    });
}

pub fn resume(daemon: &Daemon) {
    daemon.signal(Signal::SIGCONT);
}

/// Runs what is expected to end by itself.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    output_of(Stdio::null(), command)
}

#[track_caller]
fn output_of(stdin: impl Into<Stdio>, command: &mut Command) -> Output {
    command.env_remove("RUST_LOG").stdin(stdin);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    eventually("the command ends", || child.try_wait().expect("wait").is_some());
    child.wait_with_output().expect("output")
}

/// Expects one line on stderr, with these words, and this exit code.
#[track_caller]
pub fn expect_error(command: &mut Command, code: i32, words: &[&str]) {
    expect_error_with(Stdio::null(), command, code, words);
}

/// With a stdin of the test's own.
#[track_caller]
pub fn expect_error_with(
    stdin: impl Into<Stdio>,
    command: &mut Command,
    code: i32,
    words: &[&str],
) {
    let output = output_of(stdin, command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(output.stdout, b"", "stdout is for addresses");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in {stderr}");
    }
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// Whether a program that a test needs is there. Says so loudly if not: the test did not run.
pub fn have(tool: &str, probe: &[&str]) -> bool {
    let found = Command::new(tool)
        .args(probe)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("NOT RUN: this test needs a working `{tool} {}`", probe.join(" "));
    }
    found
}
