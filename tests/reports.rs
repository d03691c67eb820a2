//! What the load tester writes, and where: outputs that nobody reads, signals, files, and words.
#![cfg(all(target_os = "linux", feature = "load"))]

mod common;
#[path = "common/tester.rs"]
mod tester;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Daemon, eventually};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::ioctl_fionbio;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tester::{Answer, ECHOLOAD, Tester, Text, load, number, report, serve};

// Servers and processes

/// An echo server that tells how far a run is, whatever becomes of its output.
struct Watched {
    address: SocketAddr,
    messages: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Watched {
    fn new() -> Watched {
        let (messages, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&messages), Arc::clone(&ended));
        let address = serve(move |stream| {
            let mut message = [0; 64];
            while stream.read_exact(&mut message).is_ok() {
                counts.0.fetch_add(1, Ordering::SeqCst);
                stream.write_all(&message)?;
            }
            counts.1.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        Watched { address, messages, ended }
    }

    #[track_caller]
    fn expect_messages(&self, n: usize) {
        eventually("messages", || self.messages.load(Ordering::SeqCst) >= n);
    }

    /// Waits until this number of connections has come and gone: the run is over.
    #[track_caller]
    fn expect_ended(&self, connections: usize) {
        eventually("the run ends", || self.ended.load(Ordering::SeqCst) == connections);
    }
}

/// A load tester with outputs of the test's own. It ends with the test.
struct Running(Child);

impl Running {
    #[track_caller]
    fn start(
        target: SocketAddr,
        options: &str,
        stdout: impl Into<Stdio>,
        stderr: Stdio,
    ) -> Running {
        let mut command = Command::new(ECHOLOAD);
        command.args(options.split_whitespace()).arg(target.to_string());
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        Running(command.spawn().expect("start"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("kill");
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_some()
    }

    /// Waits until its handlers are installed.
    #[track_caller]
    fn expect_handlers(&self) {
        let status = format!("/proc/{}/status", self.0.id());
        eventually("handlers", || {
            let status = fs::read_to_string(&status).expect("/proc");
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = u64::from_str_radix(caught.expect("a mask").trim(), 16).expect("hex");
            [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
                .iter()
                .all(|&signal| caught & (1 << (signal as i32 - 1)) != 0)
        });
    }

    #[track_caller]
    fn code(&mut self) -> Option<i32> {
        eventually("the load tester ends", || self.has_ended());
        self.0.wait().expect("wait").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pipe that has no room. What fills it are empty lines.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    ioctl_fionbio(&writer, true).expect("nonblocking");
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    ioctl_fionbio(&writer, false).expect("blocking");
    (reader, writer)
}

/// The lines behind those that filled a pipe.
fn lines(reader: impl Read) -> Vec<String> {
    let lines = BufReader::new(reader).lines().map(|line| line.expect("UTF-8"));
    lines.filter(|line| !line.is_empty()).collect()
}

/// A directory that is removed with all its files.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let name = format!("reports-{}-{name}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).expect("a directory");
        Directory(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().expect("UTF-8")).collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A pseudo-terminal: its end for the test, and what is written to it.
fn terminal(kind: &str, target: SocketAddr, options: &str, typed: &[u8]) -> (Running, File, Text) {
    let pty = openpty(None, None).expect("a pty");
    let mut master = File::from(pty.master);
    master.write_all(typed).expect("type");
    let slave = || Stdio::from(pty.slave.try_clone().expect("a file"));
    let mut command = Command::new(ECHOLOAD);
    command.args(options.split_whitespace()).arg(target.to_string()).env("TERM", kind);
    command.stdin(slave()).stdout(slave()).stderr(slave());
    let running = Running(command.spawn().expect("start"));
    let text = Text::of(master.try_clone().expect("a file"));
    (running, master, text)
}

// Outputs that nobody reads

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_up_the_load() {
    let server = Watched::new();
    let (reader, writer) = full_pipe();
    let options = "-c 4 -d 1s -i 10ms -q --output-format ndjson";
    let mut running = Running::start(server.address, options, writer, Stdio::null());
    server.expect_ended(4);
    assert!(!running.has_ended(), "the report is not dropped");
    let lines = lines(reader);
    assert_eq!(running.code(), Some(0));
    let (report, intervals) = lines.split_last().expect("lines");
    let report: Value = report.parse().expect("JSON");
    assert_eq!(report["verdict"], "ok", "{report}");
    let left_out = report["unwritten"]["intervals"].as_u64().expect("a number");
    assert!(left_out > 0 && !intervals.is_empty(), "{report}");
    let ended = intervals.iter().map(|line| line.parse::<Value>().expect("JSON"));
    let ends: Vec<f64> = ended.map(|line| number(&line["elapsed_s"])).collect();
    assert!(ends.is_sorted(), "{ends:?}");
}

#[test]
fn a_stderr_that_nobody_reads_does_not_hold_up_the_load_or_its_end() {
    let server = Watched::new();
    let (_reader, writer) = full_pipe();
    let options = "-c 4 -R 1k -d 60s -i 10ms --output-format json";
    let mut running = Running::start(server.address, options, Stdio::piped(), writer.into());
    let out = Text::of(running.0.stdout.take().expect("piped"));
    server.expect_messages(300);
    running.signal(Signal::SIGINT);
    let code = running.code();
    let answer = Answer { code, out: out.all(), err: String::new() };
    let report = answer.report(130);
    assert!(report["unwritten"]["progress"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_terminal_that_was_stopped_does_not_hold_up_the_load() {
    const CTRL_S: &[u8] = b"\x13";
    const CTRL_Q: &[u8] = b"\x11";
    let server = Watched::new();
    let options = "-c 4 -R 1k -d 500ms -i 10ms";
    let (mut running, mut master, text) = terminal("xterm", server.address, options, CTRL_S);
    server.expect_ended(4);
    assert!(!running.has_ended(), "the report is not dropped");
    assert_eq!(text.so_far(), "");
    master.write_all(CTRL_Q).expect("type");
    assert_eq!(running.code(), Some(0));
    eventually("the report", || text.so_far().contains("ok: all that was sent came back"));
    assert!(text.so_far().contains(" x line of progress left out"), "{}", text.so_far());
}

#[test]
fn a_second_signal_ends_it_at_once_where_the_report_cannot_be_written() {
    let server = Watched::new();
    let directory = Directory::new("second-signal");
    let (_reader, writer) = full_pipe();
    let options = format!("-c 4 -R 1k -d 60s --hdr {}", directory.file("hdr"));
    let mut running = Running::start(server.address, &options, writer, Stdio::piped());
    let err = Text::of(running.0.stderr.take().expect("piped"));
    server.expect_messages(100);
    running.signal(Signal::SIGINT);
    server.expect_ended(4);
    eventually("a word", || err.so_far().contains("waits until stdout is read"));
    assert!(!running.has_ended(), "the report is not dropped");
    eventually("the end", || {
        running.signal(Signal::SIGINT);
        running.has_ended()
    });
    assert_eq!(running.code(), Some(130));
    assert!(directory.names().iter().all(|name| name == "hdr"), "{:?}", directory.names());
}

#[test]
fn a_reader_that_has_gone_ends_the_run() {
    let server = Watched::new();
    let options = "-c 4 -d 60s -i 10ms -q --output-format ndjson";
    let mut running = Running::start(server.address, options, Stdio::piped(), Stdio::piped());
    let mut reader = BufReader::new(running.0.stdout.take().expect("piped"));
    let err = Text::of(running.0.stderr.take().expect("piped"));
    reader.read_line(&mut String::new()).expect("a line");
    drop(reader);
    assert_eq!(running.code(), Some(1));
    let err = err.all();
    assert!(err.starts_with("echoload: cannot write the report: stdout: "), "{err}");
    assert!(err.contains("its reader is gone") && err.lines().count() == 1, "{err}");
}

#[test]
fn an_output_that_another_process_made_nonblocking_gets_the_whole_report() {
    let server = Watched::new();
    let (reader, writer) = full_pipe();
    ioctl_fionbio(&writer, true).expect("nonblocking");
    let mut running = Running::start(server.address, "-c 4 -n 100 -q", writer, Stdio::null());
    server.expect_ended(4);
    let text = lines(reader).join("\n");
    assert_eq!(running.code(), Some(0));
    assert!(text.ends_with("ok: all that was sent came back, every byte of it checked"), "{text}");
}

// Signals

/// Gives children the default action of SIGHUP, also if nohup(1) has started the tests: execve(2) resets what
/// has a handler, and leaves ignored what is ignored.
fn handle_hang_up() {
    signal_hook::flag::register(Signal::SIGHUP as i32, Arc::default()).expect("a handler");
}

#[test]
fn a_hang_up_ends_the_run_with_its_report_unless_it_was_ignored() {
    handle_hang_up();
    let daemon = Daemon::start(&[]);
    let options = "-c 2 -d 60s -i 50ms --output-format json";
    let mut tester = Tester::start(daemon.address(), options);
    tester.expect_progress(2);
    tester.signal(Signal::SIGHUP);
    let report = tester.finish().report(130);
    assert!(number(&report["messages"]["echoed"]) > 0.0, "{report}");

    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", ECHOLOAD]);
    command.args("-c 2 -d 1s -i 50ms --output-format json".split(' '));
    let mut tester = Tester::spawn(command.arg(daemon.address().to_string()));
    tester.expect_progress(2);
    tester.signal(Signal::SIGHUP);
    tester.finish().report(0);
}

#[test]
fn a_signal_as_soon_as_it_is_handled_has_a_report_or_a_word() {
    handle_hang_up();
    let server = Watched::new();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        let mut running =
            Running::start(server.address, "-d 60s -q", Stdio::piped(), Stdio::piped());
        let out = Text::of(running.0.stdout.take().expect("piped"));
        let err = Text::of(running.0.stderr.take().expect("piped"));
        running.expect_handlers();
        running.signal(signal);
        let code = running.code().expect("an exit code");
        let (out, err) = (out.all(), err.all());
        if code == 130 && err.is_empty() {
            assert!(out.contains("interrupted: "), "{out}");
        } else {
            assert_eq!(code, 128 + signal as i32, "{err}");
            let word = format!("echoload: {signal} came before the run began");
            assert!(err.starts_with(&word), "{err}");
        }
    }
}

#[test]
fn a_signal_while_the_output_is_opened_ends_it_with_a_word() {
    let directory = Directory::new("fifo-without-reader");
    let fifo = directory.file("fifo");
    mknodat(CWD, fifo.as_str(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let options = format!("-o {fifo}");
    let mut running = Running::start(nobody, &options, Stdio::null(), Stdio::piped());
    let err = Text::of(running.0.stderr.take().expect("piped"));
    running.expect_handlers();
    running.signal(Signal::SIGTERM);
    assert_eq!(running.code(), Some(143));
    assert!(err.all().contains("SIGTERM came before the run began"));
}

// Nothing measured, and little

#[test]
fn a_run_that_has_measured_no_message_is_not_ok_and_makes_up_no_figure() {
    let daemon = Daemon::start(&[]);
    let closing = serve(|_| Ok(()));
    let good = daemon.address();
    for (target, options) in [
        (good, "-c 2 -d 0.001us"),
        (good, "-c 2 -R 10 --warm-up 150ms -d 1us"),
        (closing, "-c 2 -n 2"),
    ] {
        let report = report(target, options, 1);
        assert_eq!(report["messages"]["echoed"], 0, "{report}");
        for figures in ["latency_us", "service_us"] {
            assert_eq!(report[figures], Value::Null, "{report}");
        }
        let text = load(target, options).out;
        let verdict = text.lines().last().expect("a verdict");
        assert!(verdict.starts_with("failed: no message was measured"), "{text}");
        assert!(!text.contains("latency") && !text.contains("99.9%"), "{text}");
    }
    let none = report(good, "-c 2 -d 0.001us --fail-if p99>1h --fail-if rate<1", 99);
    assert_eq!(none["thresholds"], json!(["p99>1h", "rate<1"]));
    assert_eq!(none["throughput"], json!({"messages_per_s": null, "bytes_per_s": null}));
    let text = load(good, "-c 2 -d 0.001us --fail-if p99>1h").out;
    assert!(text.ends_with("no message was measured; p99>1h, no data\n"), "{text}");
    report(good, "-c 2 -d 0.001us --fail-if errors>0", 1);
    // Nobody was ever connected.
    let nobody = report(SocketAddr::from(([127, 0, 0, 1], 1)), "-c 2 --timeout 1s", 1);
    assert_eq!((&nobody["per_connection"], &nobody["connect_us"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_short_run_tells_nothing_of_the_load_tester_itself() {
    let daemon = Daemon::start(&[]);
    let short = &report(daemon.address(), "-c 2 -n 2", 0)["generator"];
    for figure in ["cpu", "demand", "schedule_lag_us_max", "limited"] {
        assert_eq!(short.get(figure), Some(&Value::Null), "{short}");
    }
    let text = load(daemon.address(), "-c 2 -n 2").out;
    assert!(!text.contains("generator"), "{text}");
    let long = &report(daemon.address(), "-c 2 -d 200ms", 0)["generator"];
    for figure in ["cpu", "demand"] {
        assert!((0.0..=1.0).contains(&number(&long[figure])), "{long}");
    }
    assert!(long["limited"].is_boolean(), "{long}");
}

#[test]
fn numbers_may_have_decimal_places_and_durations_several_units() {
    let daemon = Daemon::start(&[]);
    let slow = report(daemon.address(), "-c 1 -R 2.5 -d 0.9s", 0);
    assert_eq!(slow["messages"]["sent"], 3, "{slow}");
    assert_eq!(slow["parameters"]["rate"], 2.5);
    let slower = report(daemon.address(), "-c 3 -R 0.5 -d 100ms", 0);
    assert_eq!(slower["messages"]["sent"], 1, "{slower}");
    let thresholds = "--fail-if p99>0.5us --fail-if rate<1.5M --fail-if errors>0.1%";
    let report = report(
        daemon.address(),
        &format!("-n 100 --connect-rate 1.5k --timeout 1m30s {thresholds}"),
        99,
    );
    assert_eq!(report["thresholds"], json!(["p99>0.5us", "rate<1.5M"]));
    assert_eq!(report["parameters"]["timeout_s"], 90.0);
    assert_eq!(report["parameters"]["connect_rate"], 1500);
}

#[test]
fn words_fit_their_numbers_and_errors_say_what_to_do() {
    let daemon = Daemon::start(&[]);
    let one = load(daemon.address(), "-c 1 -n 1 -l 1").out;
    for words in
        ["1 connection on 1 thread, 1 byte a message", ", 1 message; ", "1 and 1 message\n"]
    {
        assert!(one.contains(words), "{words}: {one}");
    }
    // Bound, so that nobody else gets the port, and deaf.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    let address = socket.local_addr().expect("address").as_socket().expect("IPv4");
    let refused = load(address, "-c 2 -d 300ms");
    assert_eq!(refused.code, Some(1));
    assert!(refused.out.contains("x connection refused (is a server listening there?)"));
    for word in ["slowest and fastest", "throughput", "latency"] {
        assert!(!refused.out.contains(word), "{}", refused.out);
    }
}

// Before the messages

#[test]
fn progress_and_an_interrupt_tell_how_far_the_connects_are() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    // Its backlog is soon full, and then the system drops what else comes.
    socket.listen(0).expect("listen");
    let address = socket.local_addr().expect("address").as_socket().expect("IPv4");
    let interrupted = |options: &str| {
        let mut tester = Tester::start(address, &format!("{options} -i 50ms --timeout 0"));
        tester.expect_progress(3);
        tester.interrupt();
        tester.finish()
    };
    let answer = interrupted("-c 20 -t 2");
    let line = answer.err.lines().last().expect("progress");
    assert!(line.contains("s  connecting: ") && line.contains(" of 20 established, "), "{line}");
    assert!(line.contains(" in progress, 0 failed"), "{line}");
    assert_eq!(answer.code, Some(130), "{answer:?}");
    assert!(answer.out.contains(" still connecting\n"), "{}", answer.out);
    assert!(answer.out.contains(" x no answer to a connect, until the end ("), "{}", answer.out);
    let verdict = answer.out.lines().last().expect("a verdict");
    assert!(verdict.starts_with("interrupted: no message was measured; "), "{verdict}");
    // Its backlog is full by now, and connecting is part of the load.
    let answer = interrupted("-c 2 --reconnect");
    assert!(answer.err.contains("0 connections  2 connecting  0 errors"), "{}", answer.err);
    assert!(answer.out.contains("2 x no answer to a connect, until the end ("), "{}", answer.out);
}

#[test]
fn a_terminal_that_cannot_rewrite_a_line_gets_lines_if_they_are_asked_for() {
    let server = Watched::new();
    let (mut running, _master, text) =
        terminal("dumb", server.address, "-c 2 -R 100 -d 500ms -i 50ms", b"");
    assert_eq!(running.code(), Some(0));
    eventually("the report", || text.so_far().contains("ok: all that was sent came back"));
    let text = text.so_far();
    assert!(text.lines().filter(|line| line.contains(" messages/s  p99")).count() >= 2, "{text}");
}

// Files

#[test]
fn an_old_report_stays_until_the_new_one_is_complete() {
    let server = Watched::new();
    let directory = Directory::new("old");
    let (file, hdr, link) =
        (directory.file("report"), directory.file("hdr"), directory.file("link"));
    for path in [&file, &hdr] {
        fs::write(path, "old").expect("write");
    }
    let texts = || [&file, &hdr].map(|path| fs::read_to_string(path).expect("a file"));
    let options =
        format!("-c 2 -R 100 -d 60s -i 10ms --output-format ndjson -o {file} --hdr {hdr}");
    let mut running = Running::start(server.address, &options, Stdio::null(), Stdio::null());
    server.expect_messages(20);
    assert_eq!(texts(), ["old", "old"]);
    running.signal(Signal::SIGKILL);
    assert_eq!(running.code(), None);
    assert_eq!(texts(), ["old", "old"]);
    for name in directory.names().iter().filter(|name| name.contains(".part")) {
        fs::remove_file(directory.file(name)).expect("remove");
    }
    std::os::unix::fs::symlink("report", &link).expect("a link");
    let options = format!("-c 2 -n 10 -o {link} --hdr {hdr}");
    assert_eq!(load(server.address, &options).code, Some(0));
    let [report, percentiles] = texts();
    assert!(report.contains("ok: all that was sent came back"), "{report}");
    assert!(percentiles.contains("#[Mean"), "{percentiles}");
    assert_eq!(directory.names(), ["hdr", "link", "report"]);
    assert!(Path::new(&link).is_symlink());
}

#[test]
fn one_file_does_not_take_two_reports_whatever_its_path() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let directory = Directory::new("same");
    let file = directory.file("report");
    let link = directory.file("link");
    let dotted = directory.file("./../") + directory.0.file_name().unwrap().to_str().unwrap();
    std::os::unix::fs::symlink("report", &link).expect("a link");
    for other in [&file, &link, &format!("{dotted}/report")] {
        for there in [false, true] {
            let _ = fs::remove_file(&file);
            if there {
                fs::write(&file, "old").expect("write");
            }
            let answer = load(nobody, &format!("-o {file} --hdr {other}"));
            assert_eq!(answer.code, Some(2), "{other}: {answer:?}");
            assert!(answer.err.starts_with("echoload: --hdr "), "{}", answer.err);
            assert!(answer.err.contains("--output"), "{}", answer.err);
            assert_eq!(fs::read_to_string(&file).ok(), there.then(|| "old".to_owned()));
        }
    }
    // A device takes everything.
    let daemon = Daemon::start(&[]);
    let both = load(daemon.address(), "-n 1 -o /dev/null --hdr /dev/null");
    assert_eq!((both.code, both.out.as_str()), (Some(0), ""));
}

#[test]
fn pipes_and_what_stdout_is_take_a_report_by_their_path() {
    let daemon = Daemon::start(&[]);
    let directory = Directory::new("by-path");
    let answer = load(daemon.address(), "-n 1 --output-format json -o /dev/stdout");
    assert_eq!(answer.report(0)["messages"]["echoed"], 1);

    let (fifo, file) = (directory.file("fifo"), directory.file("file"));
    mknodat(CWD, fifo.as_str(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    let tester = Tester::start(daemon.address(), &format!("-n 1 -o {fifo}"));
    let text = Text::of(File::open(&fifo).expect("a FIFO")).all();
    assert!(text.contains("ok: all that was sent came back"), "{text}");
    assert_eq!(tester.finish().code, Some(0));

    fs::write(&file, "before\n").expect("write");
    let append = File::options().append(true).open(&file).expect("a file");
    let mut running =
        Running::start(daemon.address(), "-n 1 -o /dev/stdout", append, Stdio::null());
    assert_eq!(running.code(), Some(0));
    let text = fs::read_to_string(&file).expect("a file");
    assert!(text.starts_with("before\n") && text.contains("ok: all that was sent"), "{text}");
    assert_eq!(directory.names(), ["fifo", "file"]);
}
