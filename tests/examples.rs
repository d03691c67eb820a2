//! The built examples, as processes: what a reader copies from them has to be right.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{connect, expect_bytes, expect_end, half_close, leave, pattern, ping, reset, stuff};

const MIB: usize = 1024 * 1024;

/// Cargo builds the examples before it runs all tests, and puts them beside the tests: `deps/` has
/// this executable, `examples/` has the examples.
#[track_caller]
fn path_of(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this test");
    let profile = this.ancestors().nth(2).expect("a folder above `deps`");
    let path = profile.join("examples").join(name);
    assert!(path.is_file(), "{} is missing: `cargo build --examples` makes it", path.display());
    path
}

/// A server among the examples. It takes HOST:PORT as its argument and prints where it listens as its
/// first line. It is killed when it is dropped, and must not have ended before.
struct Example {
    child: Child,
    address: SocketAddr,
}

impl Example {
    /// On a port of 127.0.0.1 that the system picks.
    #[track_caller]
    fn start(name: &str) -> Example {
        Example::spawn(&mut Command::new(path_of(name)))
    }

    /// Any command that becomes the example under the same process id. HOST:PORT is added to it.
    #[track_caller]
    fn spawn(command: &mut Command) -> Example {
        command.arg("127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("stdout");
        let address = line.trim_end().strip_prefix("tcp://").and_then(|text| text.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in its first line: {line:?}"));
        Example { child, address }
    }

    fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Its processor time while `watched` goes by.
    #[cfg(target_os = "linux")]
    fn cpu_within(&self, watched: Duration) -> Duration {
        let now = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
            let stat = stat.expect("/proc");
            // Behind the name, which may have spaces: fields 14 and 15 of proc_pid_stat(5).
            let fields = stat[stat.rfind(')').expect("name") + 2..].split(' ').skip(11).take(2);
            let ticks = fields.map(|field| field.parse::<u64>().expect("ticks")).sum::<u64>();
            Duration::from_millis(10 * ticks)
        };
        let before = now();
        thread::sleep(watched);
        now().saturating_sub(before)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let ended = self.child.try_wait().expect("wait");
        // Both fail only for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(status) = ended.filter(|_| !thread::panicking()) {
            panic!("the example ended by itself: {status}");
        }
    }
}

/// Sends all of the message, half-closes and reads at the same time.
fn bulk(server: &Example, message: &[u8]) {
    let mut stream = server.connect();
    let mut sender = stream.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(move || {
            sender.write_all(message).expect("send");
            half_close(&sender);
        });
        expect_bytes(&mut stream, message);
        expect_end(&mut stream);
    });
}

#[test]
fn minimal_echoes_what_it_receives_then_answers_the_end_with_the_end() {
    let server = Example::start("minimal");
    let mut stream = server.connect();
    for length in [1, 64, 65_535, 65_536, 65_537, 200_000] {
        ping(&mut stream, &pattern(length, length as u64));
    }
    leave(stream);
}

#[test]
fn minimal_gives_back_8_mib_to_a_client_that_half_closes_before_it_reads() {
    let server = Example::start("minimal");
    let message = pattern(8 * MIB, 1);
    let mut stream = server.connect();
    // Where the system's buffers are small, less than 8 MiB fit into them, and all that does not is
    // never sent.
    let sent = stuff(&mut stream, &message);
    half_close(&stream);
    expect_bytes(&mut stream, &message[..sent]);
    expect_end(&mut stream);
    bulk(&server, &message);
}

#[test]
fn minimal_ends_only_the_connection_of_a_client_that_resets() {
    let server = Example::start("minimal");
    let mut other = server.connect();
    for round in 0..100 {
        let mut stream = server.connect();
        // With bytes under way, with bytes that the server owes, and without any.
        match round % 3 {
            0 => ping(&mut stream, b"hello"),
            1 => stream.write_all(&pattern(MIB / 4, round)).expect("send"),
            _ => {}
        }
        reset(stream);
        ping(&mut other, b"still here");
    }
    leave(other);
}

#[test]
fn minimal_serves_others_while_readers_stall_and_gives_these_their_bytes_later() {
    let server = Example::start("minimal");
    let message = pattern(64 * MIB, 2);
    let mut stalled: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = server.connect();
            let sent = stuff(&mut stream, &message);
            assert!(sent < message.len(), "nothing pushes back");
            (stream, sent)
        })
        .collect();
    let mut other = server.connect();
    for _ in 0..100 {
        ping(&mut other, b"not stopped");
    }
    leave(other);
    for (stream, sent) in &mut stalled {
        half_close(stream);
        expect_bytes(stream, &message[..*sent]);
        expect_end(stream);
    }
}

#[test]
fn minimal_serves_200_clients_at_once_and_all_that_come_after_them() {
    let server = Example::start("minimal");
    for round in 0..3 {
        let mut clients: Vec<_> = (0..200).map(|_| server.connect()).collect();
        let messages: Vec<_> = (0..200).map(|client| pattern(1000, 200 * round + client)).collect();
        for (client, message) in clients.iter_mut().zip(&messages) {
            client.write_all(message).expect("send");
        }
        for (client, message) in clients.iter_mut().zip(&messages) {
            expect_bytes(client, message);
        }
        clients.into_iter().for_each(leave);
    }
}

#[test]
fn minimal_serves_others_beside_a_client_that_never_stops_sending() {
    let server = Example::start("minimal");
    let (mut loud, mut other) = (server.connect(), server.connect());
    let mut reader = loud.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(move || {
            let block = vec![0; MIB];
            while loud.write_all(&block).is_ok() {}
        });
        let ends = reader.try_clone().expect("clone");
        scope.spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        for _ in 0..100 {
            ping(&mut other, b"heard");
        }
        ends.shutdown(std::net::Shutdown::Both).expect("shutdown");
    });
}

#[test]
#[cfg(target_os = "linux")]
fn minimal_uses_no_processor_time_while_clients_are_idle_or_stalled() {
    let server = Example::start("minimal");
    let mut idle: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for stream in &mut idle {
        ping(stream, b"hello");
    }
    let mut stalled = server.connect();
    stuff(&mut stalled, &pattern(64 * MIB, 3));
    let cpu = server.cpu_within(Duration::from_millis(500));
    assert!(cpu < Duration::from_millis(50), "used {cpu:?}");
}

/// With 16 files, of which it needs some for itself. The kernel connects the rest, in the backlog.
#[test]
#[cfg(target_os = "linux")]
fn minimal_neither_spins_nor_goes_deaf_when_it_is_out_of_files() {
    let limited = r#"ulimit -n 16; exec "$0" "$@""#;
    let mut command = Command::new("sh");
    let server = Example::spawn(command.args(["-c", limited]).arg(path_of("minimal")));
    let mut clients: Vec<_> = (0..32).map(|_| server.connect()).collect();
    ping(&mut clients[0], b"served");
    let mut last = clients.pop().expect("32 clients");
    last.write_all(b"waits in the backlog").expect("send");
    let cpu = server.cpu_within(Duration::from_millis(500));
    assert!(cpu < Duration::from_millis(100), "used {cpu:?}");
    ping(&mut clients[0], b"still served");
    last.set_nonblocking(true).expect("nonblocking");
    let early = last.peek(&mut [0]).map_err(|e| e.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock), "the limit is too high for this test");
    last.set_nonblocking(false).expect("blocking");
    drop(clients);
    expect_bytes(&mut last, b"waits in the backlog");
    leave(last);
}

#[test]
fn uppercase_answers_whole_lines_however_they_arrive() {
    let server = Example::start("uppercase");
    let mut stream = server.connect();
    for byte in b"one line\n" {
        stream.write_all(&[*byte]).expect("send");
    }
    expect_bytes(&mut stream, b"ONE LINE\n");
    stream.write_all(b"two\nthree\nhalf").expect("send");
    expect_bytes(&mut stream, b"TWO\nTHREE\n");
    stream.write_all(b" a line\n").expect("send");
    expect_bytes(&mut stream, b"HALF A LINE\n");
    leave(stream);
}

#[test]
fn uppercase_answers_megabytes_to_a_client_that_reads_them_late() {
    let server = Example::start("uppercase");
    let lines = b"0123456789 abcdefghijklmnopqrstuvwxyz\n".repeat(2 * MIB / 38);
    let mut stream = server.connect();
    let sent = stuff(&mut stream, &lines) / 38 * 38;
    expect_bytes(&mut stream, &lines[..sent].to_ascii_uppercase());
}

#[test]
fn uppercase_ends_only_the_connection_whose_line_is_larger_than_its_buffer() {
    let server = Example::start("uppercase");
    let mut other = server.connect();
    ping(&mut other, b"OTHER\n");
    let mut stream = server.connect();
    stuff(&mut stream, &vec![b'a'; 100_000]);
    half_close(&stream);
    expect_end(&mut stream);
    ping(&mut other, b"STILL HERE\n");
}
