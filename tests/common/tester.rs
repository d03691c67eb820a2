//! The load tester as a process, its report, and servers for it in plain blocking threads.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::common::{DEADLINE, eventually};

pub const ECHOLOAD: &str = env!("CARGO_BIN_EXE_echoload");

/// What a stream brings, while it comes and when it is at its end.
pub struct Text(Arc<Mutex<String>>, JoinHandle<()>);

impl Text {
    pub fn of(stream: impl Read + Send + 'static) -> Text {
        let text = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&text);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                *lines.lock().expect("text") += &(line + "\n");
            }
        });
        Text(text, reader)
    }

    pub fn so_far(&self) -> String {
        self.0.lock().expect("text").clone()
    }

    /// Waits for the end of the stream.
    pub fn all(self) -> String {
        self.1.join().expect("no panic");
        self.0.lock().expect("text").clone()
    }
}

/// A load tester that runs. Whatever becomes of the test, it ends with it.
pub struct Tester {
    child: Child,
    out: Option<Text>,
    pub err: Option<Text>,
}

/// What it left behind.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Tester {
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Tester {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("start");
        let out = child.stdout.take().map(Text::of);
        let err = child.stderr.take().map(Text::of);
        Tester { child, out, err }
    }

    #[track_caller]
    pub fn start(target: impl ToString + Copy, options: &str) -> Tester {
        Tester::spawn(
            Command::new(ECHOLOAD).args(options.split_whitespace()).arg(target.to_string()),
        )
    }

    /// Waits until messages have gone out for some intervals.
    #[track_caller]
    pub fn expect_progress(&mut self, intervals: usize) {
        let err = self.err.as_ref().expect("runs");
        eventually("progress", || err.so_far().lines().count() >= intervals);
    }

    pub fn interrupt(&self) {
        self.signal(Signal::SIGINT);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("kill");
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> usize {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("/proc");
        let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok());
        pages.expect("resident pages") * 4096
    }

    #[track_caller]
    pub fn finish(mut self) -> Answer {
        let mut status = None;
        eventually("the load tester ends", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        let text = |text: &mut Option<Text>| text.take().expect("runs").all();
        let code = status.expect("ended").code();
        Answer { code, out: text(&mut self.out), err: text(&mut self.err) }
    }
}

impl Drop for Tester {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    /// The report, whose verdict agrees with the exit code, and in which no message vanishes.
    #[track_caller]
    pub fn report(&self, code: i32) -> Value {
        assert_eq!(self.code, Some(code), "{self:?}");
        let last = self.out.lines().last().expect("a report");
        let report: Value = serde_json::from_str(last).expect("JSON");
        let verdict = match code {
            0 => "ok",
            1 => "failed",
            3 => "corrupt",
            99 => "threshold",
            _ => "interrupted",
        };
        assert_eq!(report["verdict"], verdict, "{report}");
        if verdict != "interrupted" {
            let count = |what: &str| report["messages"][what].as_u64().expect("a count");
            let known = count("echoed") + count("timed_out") + count("lost") + count("unsent");
            assert_eq!(count("sent"), known, "{report}");
        }
        report
    }
}

#[track_caller]
pub fn load(target: impl ToString + Copy, options: &str) -> Answer {
    Tester::start(target, options).finish()
}

#[track_caller]
pub fn report(target: impl ToString + Copy, options: &str, code: i32) -> Value {
    load(target, &format!("--output-format json {options}")).report(code)
}

/// After a shell command that limits what it may have.
pub fn limited(limit: &str, target: SocketAddr, options: &str) -> Value {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit} && exec \"$0\" \"$@\""), ECHOLOAD]);
    command.args(["--output-format", "json"]).args(options.split_whitespace());
    let answer = Tester::spawn(command.arg(target.to_string())).finish();
    answer.report(answer.code.expect("no signal"))
}

#[track_caller]
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Kinds of errors, and how many there were in all.
pub fn errors(report: &Value) -> (Vec<String>, u64) {
    let errors = report["errors"].as_object().expect("an object");
    let count = errors.values().map(|n| n.as_u64().expect("a count")).sum();
    (errors.keys().cloned().collect(), count)
}

pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// An echo server of datagrams, whose answers to each of them are those of `answer`, which is also
/// given its number.
pub fn serve_datagrams(
    mut answer: impl FnMut(usize, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static,
) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("address");
    thread::spawn(move || {
        let mut room = vec![0; 65_536];
        for number in 0.. {
            let (n, peer) = socket.recv_from(&mut room).expect("recv");
            for datagram in answer(number, room[..n].to_vec()) {
                // The client may have left.
                let _ = socket.send_to(&datagram, peer);
            }
        }
    });
    format!("udp://{address}")
}

/// A server in blocking threads, one a connection.
pub fn serve(
    each: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let each = Arc::new(each);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let each = Arc::clone(&each);
            stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
            stream.set_nodelay(true).expect("set nodelay");
            thread::spawn(move || {
                // The client may leave in whatever way it likes.
                let _ = each(&mut stream);
                // To close before the client has would send a reset where it still sends.
                let _ = stream.shutdown(Shutdown::Write);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
    address
}

/// One that answers message by message, each of a thousand bytes, as `answer` would have it.
pub fn serve_messages(
    answer: impl Fn(usize, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
) -> SocketAddr {
    serve(move |stream| {
        for n in 0.. {
            let mut message = vec![0; 1000];
            stream.read_exact(&mut message)?;
            stream.write_all(&answer(n, message))?;
        }
        Ok(())
    })
}

/// One that takes so long for each of its messages.
pub fn serve_late(by: Duration) -> SocketAddr {
    serve_messages(move |_, message| {
        thread::sleep(by);
        message
    })
}

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let name = format!("load-{}-{name}", std::process::id());
        Scratch(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    pub fn text(&self) -> String {
        fs::read_to_string(&self.0).expect("a file")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
