//! What goes wrong with servers in the field, brought about on purpose: calls that the system
//! refuses, files that run out, clients that vanish, stall, or come all at once. Each test runs the
//! built daemon as a process of its own.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Daemon, eventually, expect_bytes, expect_end, halt, have, leave, pattern, ping,
    reset, resume, stuff,
};
use echoloop::process::limits::raise_file_limit;
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");
const ANY_PORT: &str = "tcp://127.0.0.1:0";

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const SECOND: Duration = Duration::from_secs(1);

/// What a daemon that only waits may use of a watched second or two: the ticks of the clock are of
/// 10 ms.
const AT_REST: Duration = Duration::from_millis(100);

/// Whether a process can be traced here.
fn have_strace() -> bool {
    have("strace", &["-D", "-qq", "-o", "/dev/null", "true"])
}

/// The daemon under strace. The tracer is a grandchild (`-D`), so that the command keeps the daemon's
/// process id. Only the thread of the loop is traced.
#[track_caller]
fn traced(tracing: &[&str], options: &[&str]) -> Daemon {
    let mut command = Command::new("strace");
    command.args(["-D", "-qq"]).args(tracing).arg(ECHOD).args(options).arg(ANY_PORT);
    Daemon::spawn(&mut command)
}

/// The daemon on a system that makes these calls of accept fail. The greeting that every daemon here
/// gets took the first two at most, and each connection takes two: accept, and would-block.
#[track_caller]
fn with_faulty_accept(error: &str, calls: &str, options: &[&str]) -> Daemon {
    let inject = format!("inject=accept4:error={error}:when={calls}");
    traced(&["-o", "/dev/null", "-e", "trace=accept4", "-e", &inject], options)
}

fn warnings(daemon: &Daemon) -> usize {
    daemon.log().matches(" WARN ").count()
}

/// Nothing has come back yet.
#[track_caller]
fn expect_silence(stream: &TcpStream) {
    stream.set_nonblocking(true).expect("nonblocking");
    let answer = stream.peek(&mut [0]).map_err(|e| e.kind());
    stream.set_nonblocking(false).expect("blocking");
    assert_eq!(answer, Err(ErrorKind::WouldBlock));
}

/// A file for a tool to write to.
struct Output(PathBuf);

impl Output {
    fn new(name: &str) -> Output {
        let name = format!("faults-{}-{name}", std::process::id());
        Output(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Raised when a test is done, also when it has failed, so that its threads come to an end.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// Accepting

fn all_are_served_after(errors: &[&str], after_a_pause: bool) {
    if !have_strace() {
        return;
    }
    thread::scope(|scope| {
        for error in errors {
            scope.spawn(move || {
                let daemon = with_faulty_accept(error, "3..8", &[]);
                let mut clients: Vec<_> = (0..10).map(|_| daemon.connect()).collect();
                for client in &mut clients {
                    ping(client, error.as_bytes());
                }
                if after_a_pause {
                    let log = || daemon.log();
                    eventually("the error is logged", || log().contains("cannot accept on"));
                }
                let most = if after_a_pause { 3 } else { 0 };
                assert!(warnings(&daemon) <= most, "log: {}", daemon.log());
                clients.into_iter().for_each(leave);
            });
        }
    });
}

#[test]
fn clients_are_served_without_a_pause_after_accept_met_peers_that_gave_up() {
    all_are_served_after(&["ECONNABORTED", "EINTR"], false);
}

#[test]
fn clients_are_served_after_accept_met_errors_of_the_network() {
    all_are_served_after(&["EPROTO", "EPERM", "ENETDOWN"], true);
}

#[test]
fn clients_are_served_after_accept_ran_out_of_files_or_memory() {
    all_are_served_after(&["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"], true);
}

#[test]
fn an_accept_that_fails_for_ever_costs_nothing_and_harms_nobody() {
    if !have_strace() {
        return;
    }
    thread::scope(|scope| {
        for error in ["EMFILE", "ENOMEM", "ECONNABORTED", "EPERM"] {
            scope.spawn(move || {
                let mut daemon = with_faulty_accept(error, "5+", &["--drain-timeout", "1s"]);
                let mut friend = daemon.connect();
                ping(&mut friend, b"before");
                let _waiting: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
                eventually("the error is logged", || daemon.log().contains("cannot accept on"));
                for _ in 0..100 {
                    ping(&mut friend, b"beside");
                }
                let cpu = daemon.cpu_within(SECOND);
                assert!(cpu < AT_REST, "{error}: used {cpu:?}");
                assert!(warnings(&daemon) <= 2, "log: {}", daemon.log());
                leave(friend);
                // Most of the last questions need an accept.
                daemon.signal(Signal::SIGTERM);
                assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
                assert!(!daemon.log().contains("panicked"), "log: {}", daemon.log());
            });
        }
    });
}

#[test]
fn an_accept_that_fails_for_ever_does_not_hold_up_a_drain_when_nobody_can_come() {
    if !have_strace() {
        return;
    }
    thread::scope(|scope| {
        // No file comes back to a process without connections. All else may be over at any time.
        for (error, waiting) in [
            ("EMFILE", 0),
            ("ENFILE", 0),
            ("ENOMEM", 0),
            ("EPERM", 0),
            ("EINVAL", 3),
            ("EMFILE", 3),
        ] {
            scope.spawn(move || {
                let mut daemon = with_faulty_accept(error, "5+", &["--drain-timeout", "1h"]);
                let mut friend = daemon.connect();
                ping(&mut friend, b"before");
                let _waiting: Vec<_> = (0..waiting).map(|_| daemon.connect()).collect();
                daemon.signal(Signal::SIGTERM);
                expect_end(&mut friend);
                drop(friend);
                assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
                assert!(!daemon.log().contains("panicked"), "log: {}", daemon.log());
            });
        }
    });
}

#[test]
fn a_call_for_which_the_kernel_has_no_memory_is_made_again_after_a_pause() {
    if !have_strace() {
        return;
    }
    thread::scope(|scope| {
        for (call, error) in [("recvfrom", "ENOMEM"), ("sendto", "ENOMEM"), ("sendto", "ENOBUFS")] {
            scope.spawn(move || {
                let trace = format!("trace={call}");
                let inject = format!("inject={call}:error={error}:when=8..11");
                let daemon = traced(&["-o", "/dev/null", "-e", &trace, "-e", &inject], &[]);
                let mut client = daemon.connect();
                for _ in 0..12 {
                    ping(&mut client, error.as_bytes());
                }
                eventually("a warning", || daemon.log().contains("wait for memory"));
                assert_eq!(warnings(&daemon), 1, "log: {}", daemon.log());
                leave(client);
                daemon.signal(Signal::SIGUSR1);
                assert_eq!(daemon.counters()["memory_waits"], 4, "{call}: {error}");
            });
        }
    });
}

/// Lets the daemon have no file more than it has now. Its files must be numbered without a gap.
#[track_caller]
fn leave_no_file(daemon: &Daemon) {
    let files = format!("/proc/{}/fd", daemon.pid());
    let free = (0..1000).find(|n| fs::symlink_metadata(format!("{files}/{n}")).is_err());
    let limit = format!("--nofile={}:", free.expect("a free number"));
    let status =
        Command::new("prlimit").args(["--pid", &daemon.pid().to_string(), &limit]).status();
    assert!(status.expect("prlimit").success());
}

#[test]
fn a_drain_without_a_free_file_serves_those_who_wait_as_others_leave() {
    if !have("prlimit", &["--version"]) {
        return;
    }
    let mut daemon = Daemon::start(&["--drain-timeout", "1h"]);
    let mut friends: Vec<_> = (0..2).map(|_| daemon.connect()).collect();
    for friend in &mut friends {
        ping(friend, b"before");
    }
    leave_no_file(&daemon);
    let mut waiting: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for client in &mut waiting {
        client.write_all(b"anybody there?").expect("send");
    }
    eventually("the error is logged", || daemon.log().contains("cannot accept on"));
    daemon.signal(Signal::SIGTERM);
    for friend in &mut friends {
        expect_end(friend);
    }
    drop(friends);
    for mut client in waiting {
        expect_bytes(&mut client, b"anybody there?");
        expect_end(&mut client);
    }
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
    daemon.expect_counters_add_up();
}

#[test]
#[cfg_attr(mio_unsupported_force_poll_poll, ignore = "there is no epoll_ctl over poll(2)")]
fn a_connection_that_cannot_be_watched_ends_and_the_next_ones_are_served() {
    if !have_strace() {
        return;
    }
    let output = Output::new("registrations");
    let daemon = traced(&["-o", output.path(), "-e", "trace=epoll_ctl"], &[]);
    let mut first = daemon.connect();
    ping(&mut first, b"hello");
    let calls = output.text().lines().count();
    leave(first);
    drop(daemon);

    let inject = format!("inject=epoll_ctl:error=ENOSPC:when={}", calls + 1);
    let daemon = traced(&["-o", "/dev/null", "-e", "trace=epoll_ctl", "-e", &inject], &[]);
    let mut first = daemon.connect();
    ping(&mut first, b"hello");
    expect_end(&mut daemon.connect());
    for _ in 0..10 {
        let mut next = daemon.connect();
        ping(&mut next, b"hello");
        leave(next);
    }
    ping(&mut first, b"still here?");
    leave(first);
    eventually("the error is logged", || daemon.log().contains("cannot watch the connection of"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn a_file_limit_that_falls_and_rises_is_survived_and_nobody_need_come_again() {
    if !have("prlimit", &["--version"]) {
        return;
    }
    let daemon = Daemon::start(&[]);
    let set_limit = |files: usize| {
        let (pid, limit) = (daemon.pid().to_string(), format!("--nofile={files}:"));
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(status.expect("prlimit").success());
    };
    let mut friends: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
    for friend in &mut friends {
        ping(friend, b"before");
    }
    // Ours, numbered without a gap by now; a few that are not may have come with the process.
    let files = format!("/proc/{}/fd", daemon.pid());
    let in_use = (0..1000).find(|n| fs::symlink_metadata(format!("{files}/{n}")).is_err());
    set_limit(in_use.expect("a free number"));
    let mut queued: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for client in &mut queued {
        client.write_all(b"anybody there?").expect("send");
    }
    eventually("the error is logged", || daemon.log().contains("cannot accept on"));
    let cpu = daemon.cpu_within(SECOND);
    assert!(cpu < AT_REST, "used {cpu:?}");
    for friend in &mut friends {
        ping(friend, b"meanwhile");
    }
    for client in &queued {
        expect_silence(client);
    }

    leave(friends.pop().expect("a friend"));
    expect_bytes(&mut queued[0], b"anybody there?");
    for friend in &mut friends {
        ping(friend, b"meanwhile");
    }
    expect_silence(&queued[1]);
    expect_silence(&queued[2]);

    set_limit(1000);
    for client in &mut queued[1..] {
        expect_bytes(client, b"anybody there?");
    }
    friends.into_iter().chain(queued).for_each(leave);
    assert!(warnings(&daemon) <= 2, "log: {}", daemon.log());
}

/// With 64 files, 120 clients.
fn all_are_served_with_few_files(options: &str) {
    let script = format!("ulimit -n 64; exec \"$0\" {options} {ANY_PORT}");
    let daemon = Daemon::spawn(Command::new("sh").args(["-c", &script, ECHOD]));
    let mut clients: Vec<_> = (0..120).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.write_all(b"hello").expect("send");
    }
    let (here, waiting) = clients.split_at_mut(48);
    for client in &mut *here {
        expect_bytes(client, b"hello");
    }
    let cpu = daemon.cpu_within(2 * SECOND);
    assert!(cpu < AT_REST, "used {cpu:?}");
    for client in here {
        ping(client, b"meanwhile");
    }
    expect_silence(&waiting[71]);
    for (i, mut client) in clients.into_iter().enumerate() {
        if i >= 48 {
            expect_bytes(&mut client, b"hello");
        }
        leave(client);
    }
    assert!(warnings(&daemon) <= 2, "log: {}", daemon.log());
}

#[test]
fn who_does_not_fit_the_file_limit_waits_and_is_served_as_others_leave() {
    all_are_served_with_few_files("");
}

#[test]
fn more_connections_than_the_file_limit_allows_are_not_promised() {
    all_are_served_with_few_files("--max-connections 1000");
}

#[test]
fn slots_that_the_idle_timeout_frees_are_used() {
    let daemon = Daemon::start(&["--max-connections", "10", "--idle-timeout", "300ms"]);
    let silent: Vec<_> = (0..10).map(|_| daemon.connect()).collect();
    let mut eleventh = daemon.connect();
    ping(&mut eleventh, b"hello");
    leave(eleventh);
    for mut stream in silent {
        expect_end(&mut stream);
    }
}

#[test]
fn a_slot_that_a_leaver_frees_is_used() {
    let daemon = Daemon::start(&["--max-connections", "2"]);
    let (mut first, mut second) = (daemon.connect(), daemon.connect());
    ping(&mut first, b"hello");
    ping(&mut second, b"hello");
    let mut third = daemon.connect();
    third.write_all(b"hello").expect("send");
    for _ in 0..20 {
        ping(&mut first, b"hello");
        ping(&mut second, b"hello");
    }
    expect_silence(&third);
    leave(first);
    expect_bytes(&mut third, b"hello");
    leave(third);
    leave(second);
}

#[test]
fn clients_that_reset_before_they_are_accepted_harm_nobody() {
    let daemon = Daemon::start(&[]);
    let mut friend = daemon.connect();
    for _ in 0..5 {
        halt(&daemon);
        for i in 0..50 {
            let mut stream = daemon.connect();
            if i % 2 == 0 {
                stream.write_all(b"never mind").expect("send");
            }
            reset(stream);
        }
        let mut behind = daemon.connect();
        resume(&daemon);
        for _ in 0..20 {
            ping(&mut friend, b"still here?");
        }
        ping(&mut behind, b"hello");
        leave(behind);
    }
    leave(friend);
    assert_eq!(warnings(&daemon), 0, "log: {}", daemon.log());
}

#[test]
fn two_thousand_resets_leave_nothing_behind() {
    let daemon = Daemon::start(&[]);
    let mut friend = daemon.connect();
    let message = pattern(256 * KIB, 1);
    for i in 0..2000 {
        let mut stream = daemon.connect();
        // With bytes owed, with an echo under way, with one received, and with nothing at all.
        match i % 4 {
            0 => stream.write_all(&message).expect("send"),
            1 => stream.write_all(b"no time to wait for this").expect("send"),
            2 => ping(&mut stream, b"hello"),
            _ => {}
        }
        reset(stream);
        if i % 10 == 0 {
            ping(&mut friend, b"still here?");
        }
    }
    ping(&mut friend, b"still here?");
    leave(friend);
    daemon.expect_files_back();
    assert_eq!(warnings(&daemon), 0, "log: {}", daemon.log());
}

#[test]
fn five_thousand_clients_that_vanish_at_once_leave_nothing_behind() {
    let daemon = Daemon::start(&[]);
    let mut friend = daemon.connect();
    for _ in 0..500 {
        let few: Vec<_> = (0..10).map(|_| daemon.connect()).collect();
        drop(few);
        ping(&mut friend, b"still here?");
    }
    leave(friend);
    daemon.expect_files_back();
    assert_eq!(warnings(&daemon), 0, "log: {}", daemon.log());
}

/// How often the kernel had no room for a newcomer in the backlog; one that it drops tries again
/// after a second.
fn dropped(address: SocketAddr) -> u64 {
    let port = format!("sport = :{}", address.port());
    let ss = Command::new("ss").args(["-H", "-ltnm", &port]).output().expect("ss");
    let text = String::from_utf8_lossy(&ss.stdout).into_owned();
    let memory = text.split("skmem:(").nth(1).and_then(|rest| rest.split(')').next());
    let drops = memory.and_then(|memory| memory.rsplit(",d").next()?.parse().ok());
    drops.unwrap_or_else(|| panic!("no drops in {text:?}"))
}

fn have_room_for_1000() -> bool {
    let most = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("/proc");
    let enough = most.trim().parse::<u32>().expect("a number") >= 1000;
    if !enough {
        eprintln!("NOT RUN: this test needs net.core.somaxconn of 1000 or more");
    }
    enough && have("ss", &["-V"])
}

#[test]
fn a_thousand_clients_that_come_at_once_are_all_let_in_at_their_first_try() {
    if !have_room_for_1000() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let start = Barrier::new(20);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                start.wait();
                let mut clients: Vec<_> = (0..50).map(|_| daemon.connect()).collect();
                for client in &mut clients {
                    ping(client, b"hello");
                }
                clients.into_iter().for_each(reset);
            });
        }
    });
    assert_eq!(dropped(daemon.address()), 0);
}

#[test]
fn a_thousand_clients_that_come_while_the_daemon_is_away_all_fit_in_the_backlog() {
    if !have_room_for_1000() {
        return;
    }
    let daemon = Daemon::start(&[]);
    halt(&daemon);
    let mut clients: Vec<_> = (0..1000).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.write_all(b"hello").expect("send");
    }
    assert_eq!(dropped(daemon.address()), 0);
    resume(&daemon);
    for mut client in clients {
        expect_bytes(&mut client, b"hello");
        reset(client);
    }
}

// Readiness

#[test]
fn a_process_that_is_stopped_and_continued_goes_on_where_it_was() {
    let daemon = Daemon::start(&[]);
    let mut quiet = daemon.connect();
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let pings = || count.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let _raised = Raised(&done);
        scope.spawn(|| {
            let mut stream = daemon.connect();
            let message = pattern(10_000, 2);
            while !done.load(Ordering::Relaxed) {
                ping(&mut stream, &message);
                count.fetch_add(1, Ordering::Relaxed);
            }
            leave(stream);
        });
        for _ in 0..10 {
            halt(&daemon);
            let before = pings();
            resume(&daemon);
            eventually("the traffic goes on", || pings() > before + 1);
        }
    });
    // Nothing was under way here, and the loop was interrupted while it waited.
    for _ in 0..10 {
        halt(&daemon);
        resume(&daemon);
        ping(&mut quiet, b"hello");
    }
    leave(quiet);
    assert_eq!(warnings(&daemon), 0, "log: {}", daemon.log());
}

#[test]
fn interruptions_do_not_put_off_the_idle_timeout() {
    let daemon = Daemon::start(&["--idle-timeout", "1s"]);
    let start = Instant::now();
    let silent = daemon.connect();
    silent.set_nonblocking(true).expect("nonblocking");
    // A wait that begins anew after each of these would never come to its end.
    let end = loop {
        halt(&daemon);
        resume(&daemon);
        match (&silent).read(&mut [0]) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => assert!(start.elapsed() < DEADLINE),
            answer => break answer.expect("the end"),
        }
    };
    assert_eq!(end, 0);
    assert!(start.elapsed() > SECOND / 2, "ended after {:?}", start.elapsed());
}

#[test]
fn firehoses_do_not_keep_others_from_being_served() {
    let daemon = Daemon::start(&[]);
    let block = pattern(256 * KIB, 3);
    let done = AtomicBool::new(false);
    let moved: [AtomicUsize; 3] = Default::default();
    let all_moved = || moved.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
    thread::scope(|scope| {
        let _raised = Raised(&done);
        for bytes in &moved {
            let mut sender = daemon.connect();
            let mut receiver = sender.try_clone().expect("clone");
            let (block, done) = (&block, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    sender.write_all(block).expect("send");
                }
                sender.shutdown(Shutdown::Write).expect("half-close");
            });
            scope.spawn(move || {
                let mut room = vec![0; 256 * KIB];
                loop {
                    match receiver.read(&mut room).expect("receive") {
                        0 => break,
                        n => bytes.fetch_add(n, Ordering::Relaxed),
                    };
                }
            });
        }
        eventually("the firehoses are on", || all_moved().iter().all(|&bytes| bytes > 4 * MIB));
        let before = all_moved();
        let mut stream = daemon.connect();
        for i in 0..300 {
            ping(&mut stream, &pattern(64, i));
        }
        leave(stream);
        let after = all_moved();
        assert!(before.iter().zip(&after).all(|(b, a)| b < a), "{before:?}, {after:?}");
    });
}

// Streams

/// Clients that send until nothing more is taken, and never read. Small buffers and segments on this
/// side keep the kernel's share small: it could be gigabytes.
#[track_caller]
fn stalled(daemon: &Daemon, count: usize) -> Vec<TcpStream> {
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_recv_buffer_size(8 * KIB).expect("receive buffer");
        socket.set_send_buffer_size(64 * KIB).expect("send buffer");
        socket.set_tcp_mss(1000).expect("segment size");
        socket.connect(&daemon.address().into()).expect("connect");
        socket.set_nonblocking(true).expect("nonblocking");
        TcpStream::from(socket)
    };
    let mut clients: Vec<_> = (0..count).map(|_| connect()).collect();
    let message = pattern(64 * KIB, 4);
    let (start, mut last, mut resident) = (Instant::now(), Instant::now(), 0);
    while last.elapsed() < Duration::from_millis(300) {
        assert!(start.elapsed() < DEADLINE, "nothing pushes back");
        // On a busy machine it may be the daemon that has not come round to them.
        if daemon.resident() != resident {
            (resident, last) = (daemon.resident(), Instant::now());
        }
        for client in &mut clients {
            match client.write(&message) {
                Ok(n) => last = if n > 0 { Instant::now() } else { last },
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    clients
}

#[test]
fn three_hundred_clients_that_never_read_cost_a_buffer_each() {
    let daemon = Daemon::start(&[]);
    let mut friend = daemon.connect();
    ping(&mut friend, b"before");
    let (files, before) = (daemon.files(), daemon.resident());
    let clients = stalled(&daemon, 300);
    let first = daemon.resident();
    let each = (first - before) / clients.len();
    assert!(each < 80 * KIB, "{each} bytes each");
    ping(&mut friend, b"meanwhile");
    let cpu = daemon.cpu_within(SECOND / 2);
    assert!(cpu < AT_REST, "used {cpu:?}");
    ping(&mut friend, b"meanwhile");

    clients.into_iter().for_each(reset);
    eventually("only one is left", || daemon.files() <= files);
    ping(&mut friend, b"afterwards");
    let clients = stalled(&daemon, 300);
    let second = daemon.resident();
    assert!(second < first + 2 * MIB, "{first} bytes, and then {second}");
    clients.into_iter().for_each(reset);
    leave(friend);
}

#[test]
fn the_buffers_of_clients_that_never_read_are_given_back_when_they_leave() {
    let daemon = Daemon::start(&[]);
    let mut friend = daemon.connect();
    ping(&mut friend, b"before");
    let before = daemon.resident();
    let clients = stalled(&daemon, 200);
    eventually("each has a buffer", || daemon.resident() > before + 8 * MIB);
    clients.into_iter().for_each(reset);
    eventually("the memory is given back", || daemon.resident() < before + 4 * MIB);
    ping(&mut friend, b"afterwards");
    leave(friend);
}

/// This many connections, all accepted, on which nothing happens.
fn idle(daemon: &Daemon, count: usize) -> Option<Vec<TcpStream>> {
    // Beside this test another one may run.
    if raise_file_limit() < count + 2000 {
        eprintln!("NOT RUN: this test needs {} files", count + 2000);
        return None;
    }
    let mut streams: Vec<_> = (0..count).map(|_| daemon.connect()).collect();
    // They are accepted in the order in which they came.
    ping(streams.last_mut().expect("one at least"), b"hello");
    Some(streams)
}

#[test]
#[cfg_attr(mio_unsupported_force_poll_poll, ignore = "over poll(2) mio keeps a list of its own")]
fn ten_thousand_idle_connections_cost_less_than_160_bytes_each() {
    let daemon = Daemon::start(&[]);
    let mut friend = daemon.connect();
    ping(&mut friend, b"hello");
    let before = daemon.resident();
    let Some(streams) = idle(&daemon, 10_000) else { return };
    let each = (daemon.resident() - before) / streams.len();
    assert!(each < 160, "{each} bytes each");
    ping(&mut friend, b"hello");
    leave(friend);
    streams.into_iter().for_each(reset);
}

#[test]
fn three_thousand_idle_connections_keep_nobody_busy() {
    let daemon = Daemon::start(&["--idle-timeout", "1h"]);
    let Some(streams) = idle(&daemon, 3000) else { return };
    let cpu = daemon.cpu_within(3 * SECOND);
    assert!(cpu < SECOND / 20, "used {cpu:?}");
    streams.into_iter().for_each(reset);
}

#[test]
fn an_idle_timeout_shorter_than_a_turn_beside_floods_ends_connections_only() {
    let mut daemon = Daemon::start(&["--idle-timeout", "1us"]);
    let flood = pattern(4 * MIB, 9);
    thread::scope(|scope| {
        for _ in 0..8 {
            let (daemon, flood) = (&daemon, &flood);
            // Each is cut off somewhere, or not: what counts is that the daemon survives.
            scope.spawn(move || {
                for _ in 0..20 {
                    let mut stream = daemon.connect();
                    let mut sender = stream.try_clone().expect("clone");
                    thread::scope(|scope| {
                        scope.spawn(move || drop(sender.write_all(flood)));
                        let _ = std::io::copy(&mut stream, &mut std::io::sink());
                        drop(stream.shutdown(Shutdown::Both));
                    });
                }
            });
        }
    });
    daemon.expect_files_back();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
    assert!(!daemon.log().contains("panicked"), "log: {}", daemon.log());
}

#[test]
fn a_client_that_never_reads_is_ended_by_the_idle_timeout() {
    let daemon = Daemon::start(&["--idle-timeout", "500ms"]);
    let mut client = daemon.connect();
    client.set_nonblocking(true).expect("nonblocking");
    let message = pattern(MIB, 5);
    // It would send for ever, were it not for the reset that an end of its connection brings.
    eventually("the client that never reads is ended", || {
        loop {
            match client.write(&message) {
                Ok(n) => assert!(n > 0),
                Err(e) => break e.kind() != ErrorKind::WouldBlock,
            }
        }
    });
    daemon.expect_files_back();
}

#[test]
fn a_reader_that_stalls_is_not_sent_to_when_its_idle_timeout_is_over() {
    let daemon = Daemon::start(&["-vv", "--idle-timeout", "500ms"]);
    let mut client = daemon.connect();
    stuff(&mut client, &pattern(16 * MIB, 6));
    // What the kernel takes then would count as a sign of the peer.
    eventually("its time is over", || daemon.log().contains(": it was idle"));
    let log = daemon.log();
    let (_, last_look) = log.rsplit_once("asked before it ends").expect("a last look");
    let (last_look, _) = last_look.split_once("shutdown(write)").expect("the end");
    assert!(!last_look.contains("send answers"), "{last_look}");
    drop(client);
}

/// Bytes that the kernel holds for the daemon, sent by this client and not yet received.
fn unread(daemon: &Daemon, client: &TcpStream) -> usize {
    let client = client.local_addr().expect("address").port();
    let filter = format!("sport = :{} and dport = :{client}", daemon.address().port());
    let ss = Command::new("ss").args(["-H", "-tn", &filter]).output().expect("ss");
    let text = String::from_utf8_lossy(&ss.stdout).into_owned();
    let bytes = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    bytes.unwrap_or_else(|| panic!("no such connection: {text:?}"))
}

#[test]
fn what_a_client_is_owed_can_still_be_read_after_the_idle_timeout() {
    if !have("ss", &["-V"]) {
        return;
    }
    let daemon = Daemon::start(&["--idle-timeout", "3s"]);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(16 * KIB).expect("receive buffer");
    socket.connect(&daemon.address().into()).expect("connect");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    stream.set_write_timeout(Some(DEADLINE)).expect("set a deadline");
    let message = pattern(64 * MIB, 6);
    // In small pieces, until the daemon no longer receives, and a little more: what it leaves in the
    // kernel when it closes would make that send a reset.
    let mut sent = 0;
    let mut is_received = true;
    while is_received {
        stream.write_all(&message[sent..sent + 64 * KIB]).expect("send");
        sent += 64 * KIB;
        let start = Instant::now();
        is_received = loop {
            match unread(&daemon, &stream) {
                0 => break true,
                _ if start.elapsed() > Duration::from_millis(500) => break false,
                _ => {}
            }
        };
    }
    stream.write_all(&message[sent..sent + 256 * KIB]).expect("send");
    assert!(unread(&daemon, &stream) > 0);

    daemon.expect_files_back();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).expect("a clean end");
    assert!(got.len() > 64 * KIB, "sent {sent}, got {}", got.len());
    assert!(got == message[..got.len()], "other bytes came back");
}

#[test]
fn a_slow_sender_outlives_the_idle_timeout() {
    let daemon = Daemon::start(&["--idle-timeout", "2s"]);
    let (mut slow, silent) = (daemon.connect(), daemon.connect());
    silent.set_nonblocking(true).expect("nonblocking");
    let start = Instant::now();
    let is_open = |mut stream: &TcpStream| {
        stream.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    };
    while is_open(&silent) || start.elapsed() < 3 * SECOND {
        assert!(start.elapsed() < DEADLINE, "the silent one is never ended");
        ping(&mut slow, b"z");
        thread::sleep(Duration::from_millis(100));
    }
    ping(&mut slow, b"z");
    leave(slow);
}

/// Runs the daemon in a network of its own, which goes away with it. A pair of virtual interfaces
/// leads there.
const IN_ITS_OWN_NETWORK: &str = r#"
set -e
ip link add "$1" type veth peer name "$2" netns "$3"
nsenter -t "$3" -n ip addr add "$4/30" dev "$2"
nsenter -t "$3" -n ip link set "$2" up
ip addr add "$5/30" dev "$1"
ip link set "$1" up
exec "$0" --keepalive 1s "tcp://$5:0"
"#;

#[test]
fn peers_that_vanish_are_given_up() {
    let tools = have("unshare", &["-n", "ip", "link", "add", "type", "veth"])
        && have("unshare", &["-n", "nft", "list", "tables"])
        && have("nsenter", &["-t", &std::process::id().to_string(), "-n", "true"]);
    if !tools {
        return;
    }
    let id = std::process::id();
    // From 198.18.0.0/15, which is set aside for tests of networks.
    let net = id % 0x8000 * 4;
    let address = |host: u32| std::net::Ipv4Addr::from(0xC612_0000 + net + host).to_string();
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", IN_ITS_OWN_NETWORK, ECHOD]);
    command.args([format!("there{id}"), format!("here{id}"), id.to_string()]);
    let daemon = Daemon::spawn(command.args([address(1), address(2)]));

    let mut friend = daemon.connect();
    let mut gone: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for stream in gone.iter_mut().chain([&mut friend]) {
        ping(stream, b"hello");
    }
    let files = daemon.files();
    // Nothing is owed to the first one, and more than it takes to the second.
    let message = pattern(64 * MIB, 7);
    assert!(stuff(&mut gone[1], &message) < message.len(), "nothing pushes back");
    let [a, b, c] = [0, 1, 2].map(|i: usize| gone[i].local_addr().expect("address").port());
    let rules = format!(
        "table ip lost {{
            chain in {{ type filter hook input priority 0; tcp sport {{ {a}, {b} }} drop; }}
            chain out {{ type filter hook output priority 0; tcp dport {{ {a}, {b}, {c} }} drop; }}
        }}"
    );
    let pid = daemon.pid().to_string();
    let nft = Command::new("nsenter").args(["-t", &pid, "-n", "nft", &rules]).status();
    assert!(nft.expect("nsenter").success());
    // The third one has room for its echo, which is lost on the way.
    gone[2].write_all(b"hello?").expect("send");

    eventually("all three are given up", || daemon.files() + gone.len() == files);
    ping(&mut friend, b"still here?");
    leave(friend);
    gone.into_iter().for_each(reset);
}

// What it costs

#[test]
#[cfg_attr(mio_unsupported_force_poll_poll, ignore = "over poll(2) only a would-block arms again")]
fn an_echo_takes_one_receive_one_send_and_a_share_of_a_wait() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 1000;
    if !have_strace() {
        return;
    }
    let output = Output::new("summary");
    let mut daemon = traced(&["-c", "-o", output.path()], &[]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| daemon.connect()).collect();
    let message = pattern(64, 8);
    for _ in 0..ROUNDS {
        // The tracer slows the daemon down, not the clients. Stopped, it finds them all ready
        // together when it goes on. (No `halt`: one that is traced stops in a state of its own.)
        daemon.signal(Signal::SIGSTOP);
        for client in &mut clients {
            client.write_all(&message).expect("send");
        }
        resume(&daemon);
        for client in &mut clients {
            expect_bytes(client, &message);
        }
    }
    clients.into_iter().for_each(leave);
    daemon.last_questions();
    eventually("the summary is written", || output.text().contains("total"));
    let summary = output.text();
    let calls = |names: &[&str]| -> f64 {
        let lines = summary.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let called = lines.filter(|fields| fields.last().is_some_and(|name| names.contains(name)));
        called.map(|fields| fields[3].parse::<f64>().expect("calls")).sum()
    };
    let echoes = f64::from(u32::try_from(CLIENTS * ROUNDS).expect("few"));
    let all = ["read", "recvfrom", "write", "sendto", "epoll_wait", "epoll_pwait"];
    let each = calls(&all) / echoes;
    assert!(each <= 2.05, "{each} calls an echo: {summary}");
}

#[test]
#[cfg_attr(mio_unsupported_force_poll_poll, ignore = "there is no epoll_ctl over poll(2)")]
fn a_connection_is_registered_once_and_never_again() {
    if !have_strace() {
        return;
    }
    let output = Output::new("epoll_ctl");
    let daemon = traced(&["-o", output.path(), "-e", "trace=epoll_ctl"], &[]);
    let mut friend = daemon.connect();
    ping(&mut friend, b"hello");
    let before = output.text();
    let mut clients: Vec<_> = (0..20).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        for i in 0..20 {
            ping(client, &pattern(100, i));
        }
    }
    // Back-pressure, too, comes and goes without the kernel being told.
    let mut slow = daemon.connect();
    let message = pattern(64 * MIB, 9);
    let sent = stuff(&mut slow, &message);
    expect_bytes(&mut slow, &message[..sent]);
    clients.into_iter().chain([slow, friend]).for_each(leave);
    let after = output.text();
    let calls = after.strip_prefix(&before).expect("the calls before, and more");
    assert_eq!(calls.matches("EPOLL_CTL_ADD").count(), 21, "{calls}");
    assert_eq!(calls.lines().count(), 21, "{calls}");
}

#[test]
#[cfg_attr(mio_unsupported_force_poll_poll, ignore = "there is no epoll_wait over poll(2)")]
fn busy_polling_asks_without_sleeping_for_its_time_and_then_sleeps() {
    if !have_strace() {
        return;
    }
    let output = Output::new("epoll_wait");
    let options = ["--busy-poll", "1ms"];
    let daemon = traced(&["-o", output.path(), "-e", "trace=epoll_wait"], &options);
    let mut stream = daemon.connect();
    // Between two tries goes more time by than it polls for.
    eventually("it has polled, and it has slept", || {
        ping(&mut stream, b"hello");
        let waits = output.text();
        waits.matches(", 0) ").count() > 20 && waits.matches(", -1) ").count() > 3
    });
}

#[test]
fn the_congestion_control_that_was_asked_for_is_that_of_every_connection() {
    if !have("ss", &["-V"]) {
        return;
    }
    let daemon = Daemon::start(&["--congestion", "reno"]);
    let mut stream = daemon.connect();
    ping(&mut stream, b"hello");
    let port = format!("sport = :{}", daemon.address().port());
    let shown = Command::new("ss").args(["-tnoiH", "state", "established", &port]).output();
    let shown = String::from_utf8(shown.expect("ss").stdout).expect("text");
    assert!(shown.contains(" reno "), "{shown}");
}
