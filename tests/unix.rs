//! Unix sockets in both programs: what a port does not have, which is a path, its owner and its
//! permissions; and streams that are cut, queued and refused in ways of their own.
#![cfg(all(target_os = "linux", feature = "load"))]

mod common;
#[path = "common/tester.rs"]
mod tester;

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Daemon, connect, eventually, expect_bytes, expect_end, expect_error, half_close,
    have, leave, pattern, ping, stuff,
};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tester::{ECHOLOAD, Tester, errors};

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

const MIB: usize = 1024 * 1024;

/// A folder of the test's own, gone with it. Its name is short: a socket's path may have 107 bytes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("unix-{}-{name}", std::process::id()));
        fs::create_dir(&folder).expect("folder");
        Folder(folder)
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    fn endpoint(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    /// A daemon on `name`.
    #[track_caller]
    fn daemon(&self, name: &str, options: &[&str]) -> Daemon {
        Daemon::spawn(echod(options).arg(self.endpoint(name)))
    }

    #[track_caller]
    fn client(&self, name: &str) -> UnixStream {
        client(&self.path(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn echod(arguments: &[&str]) -> Command {
    let mut command = Command::new(ECHOD);
    command.args(arguments);
    command
}

#[track_caller]
fn client(path: &Path) -> UnixStream {
    with_deadlines(UnixStream::connect(path).expect("connect"))
}

#[track_caller]
fn with_deadlines(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    stream.set_write_timeout(Some(DEADLINE)).expect("set a deadline");
    stream
}

#[track_caller]
fn socket(path: &Path) -> (Socket, SockAddr) {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
    (socket, SockAddr::unix(path).expect("address"))
}

/// A server that nobody accepts from yet, with a queue as short as can be.
#[track_caller]
fn tiny_listener(path: &Path) -> UnixListener {
    let (socket, address) = socket(path);
    socket.bind(&address).expect("bind");
    socket.listen(1).expect("listen");
    socket.into()
}

/// Clients until the queue has no room for one more.
#[track_caller]
fn fill(path: &Path) -> Vec<Socket> {
    let mut queued = Vec::new();
    loop {
        let (client, address) = socket(path);
        client.set_nonblocking(true).expect("nonblocking");
        match client.connect(&address) {
            Ok(()) => queued.push(client),
            Err(e) => {
                assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
                return queued;
            }
        }
    }
}

/// Which file it is, whatever its name.
#[track_caller]
fn identity(path: &Path) -> (u64, u64, u32) {
    let found: Metadata = fs::symlink_metadata(path).expect("it is there");
    (found.dev(), found.ino(), found.mode())
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[track_caller]
fn end(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0), "log: {}", daemon.log());
}

// The daemon and its path

#[test]
fn paths_and_ports_are_printed_in_the_order_of_the_endpoints_and_served_at_once() {
    let folder = Folder::new("order");
    let (first, last) = (folder.endpoint("first"), folder.endpoint("last"));
    let mut daemon = Daemon::spawn(&mut echod(&[&first, "127.0.0.1:0", &last, "127.0.0.2:0"]));
    let [a, b] = daemon.addresses[..] else { panic!("{:?}", daemon.printed) };
    assert_eq!(daemon.printed, [first, format!("tcp://{a}"), last, format!("tcp://{b}")]);
    let mut clients = [folder.client("first"), folder.client("last")];
    let mut over_tcp = [connect(a), connect(b)];
    for i in 0..2 {
        ping(&mut clients[i], b"by path");
        ping(&mut over_tcp[i], b"by port");
    }
    drop((clients, over_tcp));
    daemon.last_questions();
    assert!(!is_there(&folder.path("first")) && !is_there(&folder.path("last")));
}

#[test]
fn a_second_signal_leaves_no_path_behind() {
    let folder = Folder::new("second");
    let mut daemon = folder.daemon("socket", &["--drain-timeout", "1h"]);
    let mut stalled = folder.client("socket");
    stuff(&mut stalled, &pattern(64 * MIB, 1));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end_at_once(Signal::SIGINT).code(), Some(130));
    assert!(!is_there(&folder.path("socket")));
}

#[test]
fn a_start_that_fails_later_leaves_no_path_behind() {
    let folder = Folder::new("later");
    let path = folder.endpoint("socket");
    let other = TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = other.local_addr().expect("address").to_string();
    for (arguments, why) in [
        (vec![path.as_str(), &taken], "choose another port"),
        (vec![&path, "--metrics", &taken], "in use"),
        (vec![&path, &path], "another server listens there"),
    ] {
        expect_error(&mut echod(&arguments), 1, &[why]);
        assert!(!is_there(&folder.path("socket")), "{arguments:?}");
    }
}

#[test]
fn what_a_killed_daemon_leaves_behind_is_not_in_the_way_of_the_next() {
    let folder = Folder::new("stale");
    let mut killed = folder.daemon("socket", &[]);
    killed.signal(Signal::SIGKILL);
    killed.wait();
    let left = fs::symlink_metadata(folder.path("socket")).expect("it is still there");
    assert!(left.file_type().is_socket());
    let daemon = folder.daemon("socket", &[]);
    assert_eq!(daemon.printed, [folder.endpoint("socket")]);
    ping(&mut folder.client("socket"), b"again");
}

/// A second daemon starts while a first one is held up at one of its calls: one of them has the path in
/// the end, and the other one has said why not.
#[track_caller]
fn expect_one_of_two(folder: &Folder, call: &str, delay: &str) {
    let (path, trace) = (folder.path("socket"), folder.path("trace"));
    let mut command = Command::new("strace");
    command.args(["-D", "-qq", "-e", &format!("trace={call}"), "-e"]);
    command.arg(format!("inject={call}:{delay}=500000")).arg("-o").arg(&trace);
    let late = Tester::spawn(command.arg(ECHOD).arg(folder.endpoint("socket")));
    eventually("the call", || fs::read_to_string(&trace).is_ok_and(|calls| calls.contains(call)));
    let swift = Tester::spawn(&mut echod(&[&folder.endpoint("socket")]));
    let said = |tester: &Tester| tester.err.as_ref().expect("runs").so_far();
    let gave_up = |tester: &Tester| said(tester).contains("cannot listen on");
    eventually("one gives up", || gave_up(&late) || gave_up(&swift));
    let (loser, winner) = if gave_up(&late) { (late, swift) } else { (swift, late) };
    assert_eq!(loser.finish().code, Some(1));
    eventually("the other one serves", || UnixStream::connect(&path).is_ok());
    ping(&mut client(&path), b"the one that is left");
    winner.interrupt();
    assert_eq!(winner.finish().code, Some(0));
    assert!(!is_there(&path));
}

#[test]
fn of_two_daemons_that_start_at_once_on_one_path_one_serves_and_one_says_why_not() {
    if !have("strace", &["-D", "-qq", "-o", "/dev/null", "true"]) {
        return;
    }
    let folder = Folder::new("two");
    // The second finds a socket that does not listen yet, and takes it for dead.
    expect_one_of_two(&folder, "listen", "delay_enter");
    // The first has found a dead socket, which the second one meanwhile replaces.
    drop(UnixListener::bind(folder.path("socket")).expect("bind"));
    expect_one_of_two(&folder, "connect", "delay_exit");
}

#[test]
fn a_path_that_is_somebody_elses_is_one_clear_line_and_stays_what_it_is() {
    let folder = Folder::new("taken");
    let live = folder.daemon("live", &[]);
    let full = tiny_listener(&folder.path("full"));
    let queued = fill(&folder.path("full"));
    let datagrams = UnixDatagram::bind(folder.path("datagrams")).expect("bind");
    fs::write(folder.path("file"), "somebody's").expect("file");
    fs::create_dir(folder.path("folder")).expect("folder");
    for (link, to) in [("to-live", "live"), ("to-file", "file"), ("to-nothing", "nothing")] {
        symlink(folder.path(to), folder.path(link)).expect("symlink");
    }
    for (name, why) in [
        ("live", "another server listens there"),
        ("full", "another server listens there"),
        ("datagrams", "whether it is dead cannot be told"),
        ("file", "no socket"),
        ("folder", "no socket"),
        ("to-live", "no socket"),
        ("to-file", "no socket"),
        ("to-nothing", "no socket"),
    ] {
        let (path, endpoint) = (folder.path(name), folder.endpoint(name));
        let before = identity(&path);
        expect_error(&mut echod(&[&endpoint]), 1, &["cannot listen on", &endpoint, why]);
        assert_eq!(identity(&path), before, "{name}");
    }
    for name in ["live", "to-live"] {
        leave(folder.client(name));
    }
    for _ in queued {
        full.accept().expect("accept");
    }
    assert_eq!(datagrams.send_to(b"still here", folder.path("datagrams")).expect("send"), 10);
    assert_eq!(fs::read(folder.path("to-file")).expect("file"), b"somebody's");
    assert!(!is_there(&folder.path("nothing")));
    drop(live);
}

#[test]
fn what_others_have_put_at_the_path_meanwhile_is_left_alone() {
    let folder = Folder::new("theirs");
    let path = folder.path("socket");
    let swapped = |put: &dyn Fn()| {
        let mut daemon = folder.daemon("socket", &[]);
        fs::remove_file(&path).expect("remove");
        put();
        let before = is_there(&path).then(|| identity(&path));
        end(&mut daemon);
        assert_eq!(is_there(&path).then(|| identity(&path)), before);
    };
    swapped(&|| {});
    swapped(&|| fs::write(&path, "somebody's").expect("file"));
    assert_eq!(fs::read(&path).expect("file"), b"somebody's");
    fs::remove_file(&path).expect("remove");
    swapped(&|| drop(UnixListener::bind(&path).expect("bind")));
    // Dead by now, so the next daemon makes way for itself; and then it is renamed, not removed.
    let mut daemon = folder.daemon("socket", &[]);
    fs::rename(&path, folder.path("renamed")).expect("rename");
    end(&mut daemon);
    assert!(is_there(&folder.path("renamed")));
}

#[test]
fn a_drain_gives_the_path_to_the_next_server_at_once_and_still_serves_who_had_found_it() {
    let folder = Folder::new("drain");
    let message = pattern(64 * MIB, 2);
    // One at a time, so that the others are in its queue for as long as the first one does not read.
    let mut old = folder.daemon("socket", &["--drain-timeout", "1h", "--max-connections", "1"]);
    let mut stalled = folder.client("socket");
    let sent = stuff(&mut stalled, &message);
    let mut queued: Vec<_> = (0..10).map(|_| folder.client("socket")).collect();
    for (i, stream) in queued.iter_mut().enumerate() {
        stream.write_all(&message[i..i + 1000]).expect("send");
    }
    old.signal(Signal::SIGTERM);
    eventually("the path is free", || !is_there(&folder.path("socket")));
    let new = folder.daemon("socket", &[]);
    let theirs = identity(&folder.path("socket"));
    expect_bytes(&mut stalled, &message[..sent]);
    expect_end(&mut stalled);
    drop(stalled);
    for (i, mut stream) in queued.into_iter().enumerate() {
        expect_bytes(&mut stream, &message[i..i + 1000]);
        expect_end(&mut stream);
    }
    assert_eq!(old.wait().code(), Some(0));
    assert_eq!(old.counters()["closed_cut_off"], 0);
    assert_eq!(identity(&folder.path("socket")), theirs);
    ping(&mut folder.client("socket"), b"the new one");
    drop(new);
    assert!(!is_there(&folder.path("socket")));
}

#[test]
fn the_permissions_are_those_asked_for_or_666_less_the_umask() {
    let folder = Folder::new("mode");
    for (umask, options, mode) in [
        ("027", &[][..], 0o640),
        ("000", &[], 0o666),
        ("027", &["--unix-mode", "600"], 0o600),
        // What is asked for is not less than that, whatever the umask.
        ("077", &["--unix-mode", "0660"], 0o660),
        ("000", &["--unix-mode", "777"], 0o777),
    ] {
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, ECHOD]).args(options).arg(folder.endpoint("socket"));
        let mut daemon = Daemon::spawn(&mut command);
        let found = identity(&folder.path("socket")).2 & 0o7777;
        assert_eq!(found, mode, "{found:o} with {umask} {options:?}");
        end(&mut daemon);
    }
    for bad in ["668", "1777", "+60", "-1", "rw-rw----", ""] {
        let arguments = [&format!("--unix-mode={bad}"), &folder.endpoint("socket")[..]];
        expect_error(&mut echod(&arguments), 2, &["--unix-mode"]);
    }
    assert!(!is_there(&folder.path("socket")));
}

#[test]
fn a_path_is_as_long_as_can_be_and_what_cannot_be_bound_is_one_clear_line() {
    let folder = Folder::new("long");
    let room = 107 - folder.path("").as_os_str().len();
    drop(folder.daemon(&"x".repeat(room), &[]));
    fs::write(folder.path("file"), "").expect("file");
    for (name, why) in [
        ("x".repeat(room + 1), "shorter"),
        ("x".repeat(5000), "shorter"),
        ("no-folder/socket".into(), "No such file or directory"),
        ("file/socket".into(), "Not a directory"),
    ] {
        let endpoint = folder.endpoint(&name);
        expect_error(&mut echod(&[&endpoint]), 1, &["cannot listen on", &endpoint, why]);
    }
}

// Streams

#[test]
fn sixty_four_mib_come_back_whole_then_the_end() {
    let folder = Folder::new("bulk");
    let _daemon = folder.daemon("socket", &[]);
    let message = pattern(64 * MIB + 1, 3);
    let mut stream = folder.client("socket");
    let mut sender = stream.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(|| {
            sender.write_all(&message).expect("send");
            half_close(&sender);
        });
        expect_bytes(&mut stream, &message);
        expect_end(&mut stream);
    });
}

#[test]
fn two_mib_and_the_end_before_the_first_read_come_back_whole() {
    let folder = Folder::new("first");
    let _daemon = folder.daemon("socket", &[]);
    let message = pattern(2 * MIB, 4);
    let mut stream = folder.client("socket");
    // Unlike TCP's, the buffer does not grow by itself.
    if setsockopt(&stream, sockopt::SndBufForce, &(16 * MIB)).is_err() {
        return eprintln!("NOT RUN: this test needs CAP_NET_ADMIN");
    }
    stream.write_all(&message).expect("send");
    half_close(&stream);
    expect_bytes(&mut stream, &message);
    expect_end(&mut stream);
}

#[test]
fn stalled_readers_that_half_closed_get_all_of_it_then_the_end() {
    let folder = Folder::new("stalled");
    let _daemon = folder.daemon("socket", &[]);
    let message = pattern(64 * MIB, 5);
    let stalled = (0..8).map(|_| {
        let mut stream = folder.client("socket");
        let sent = stuff(&mut stream, &message);
        assert!((1..message.len()).contains(&sent), "nothing pushes back");
        half_close(&stream);
        (stream, sent)
    });
    let mut stalled: Vec<_> = stalled.collect();
    for (stream, sent) in &mut stalled {
        expect_bytes(stream, &message[..*sent]);
        expect_end(stream);
    }
}

#[test]
fn small_messages_come_back_one_by_one_and_by_the_thousand() {
    let folder = Folder::new("small");
    let _daemon = folder.daemon("socket", &[]);
    let message = pattern(MIB, 6);
    let mut stream = folder.client("socket");
    for byte in &message[..2000] {
        ping(&mut stream, &[*byte]);
    }
    let mut sender = stream.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(|| {
            for (i, crumbs) in message.chunks(50).enumerate() {
                let (some, others) = crumbs.split_at(i % crumbs.len());
                sender.write_all(some).expect("send");
                sender.write_all(others).expect("send");
            }
        });
        expect_bytes(&mut stream, &message);
    });
    leave(stream);
}

/// Sends bytes with files.
fn pass(stream: &UnixStream, bytes: &[u8], files: &[i32]) -> nix::Result<usize> {
    let with_files = [ControlMessage::ScmRights(files)];
    let (bytes, address) = ([IoSlice::new(bytes)], None::<&SockaddrStorage>);
    sendmsg(stream.as_raw_fd(), &bytes, &with_files, MsgFlags::empty(), address)
}

#[test]
fn files_passed_along_are_refused_or_else_hide_no_bytes_and_are_not_kept() {
    let folder = Folder::new("files");
    let daemon = folder.daemon("socket", &[]);
    let mut stream = folder.client("socket");
    ping(&mut stream, b"accepted");
    let files = daemon.files();
    for _ in 0..20 {
        // All of it at once, and announced once: a recv ends behind what the files came with.
        daemon.signal(Signal::SIGSTOP);
        stream.write_all(b"before, ").expect("send");
        let all = match pass(&stream, b"with files, ", &[stream.as_raw_fd(), 0]) {
            Ok(_) => &b"before, with files, behind"[..],
            Err(e) => {
                assert_eq!(e, Errno::EPERM);
                b"before, behind"
            }
        };
        stream.write_all(b"behind").expect("send");
        daemon.signal(Signal::SIGCONT);
        // Not read before all of it is back: that makes room, and the event that says so could be what
        // wakes a server that has overlooked the rest.
        let mut back = [MaybeUninit::uninit(); 100];
        let socket = SockRef::from(&stream);
        eventually("all is back", || socket.peek(&mut back).ok() == Some(all.len()));
        expect_bytes(&mut stream, all);
    }
    assert_eq!(daemon.files(), files);
    leave(stream);
}

/// A connected TCP socket whose close waits for 30 s: what is sent is never read.
fn lingering() -> (Socket, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    let address = listener.local_addr().expect("address");
    socket.connect(&address.into()).expect("connect");
    socket.set_nonblocking(true).expect("nonblocking");
    while socket.send(&[0; 16_000]).is_ok() {}
    socket.set_linger(Some(Duration::from_secs(30))).expect("SO_LINGER");
    (socket, listener)
}

#[test]
fn a_client_that_passes_a_socket_whose_close_waits_holds_up_nobody() {
    let folder = Folder::new("lingering");
    let mut daemon = folder.daemon("socket", &[]);
    let (mut friend, hostile) = (folder.client("socket"), folder.client("socket"));
    let (socket, _listener) = lingering();
    let passed = pass(&hostile, b"x", &[socket.as_raw_fd()]);
    if passed.is_ok() {
        socket.set_linger(None).expect("SO_LINGER");
        return eprintln!("NOT RUN: this test needs SO_PASSRIGHTS, Linux 6.16");
    }
    assert_eq!(passed, Err(Errno::EPERM));
    drop((socket, hostile));
    for _ in 0..100 {
        ping(&mut friend, b"meanwhile");
    }
    leave(friend);
    daemon.last_questions();
    assert!(daemon.counters()["longest_turn_us"] < 1_000_000, "log: {}", daemon.log());
    assert!(!daemon.log().contains("WARN"), "log: {}", daemon.log());
}

#[test]
fn a_kernel_that_cannot_refuse_files_is_a_warning_unless_only_the_owner_may_connect() {
    if !have("strace", &["-D", "-qq", "-o", "/dev/null", "true"]) {
        return;
    }
    let folder = Folder::new("old");
    for (mode, warns) in [("600", false), ("644", false), ("660", true), ("602", true)] {
        let mut command = Command::new("strace");
        command.args(["-D", "-qq", "-o", "/dev/null", "-e", "trace=setsockopt"]);
        command.args(["-e", "inject=setsockopt:error=ENOPROTOOPT", ECHOD, "--unix-mode", mode]);
        let mut daemon = Daemon::spawn(command.arg(folder.endpoint("socket")));
        daemon.last_questions();
        let log = daemon.log();
        assert_eq!(log.matches("SO_PASSRIGHTS").count(), usize::from(warns), "{mode}: {log}");
    }
}

#[test]
fn folders_that_somebody_keeps_locked_do_not_keep_a_daemon_from_starting() {
    let folder = Folder::new("locked");
    let locked = fs::File::open(&folder.0).expect("folder");
    flock(&locked, FlockOperation::LockExclusive).expect("lock");
    let paths: Vec<_> = (0..20).map(|i| folder.endpoint(&i.to_string())).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let began = Instant::now();
    let mut daemon = Daemon::spawn(&mut echod(&paths));
    // For each path this long it would be 20 s.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    daemon.last_questions();
}

#[test]
fn without_proc_a_path_is_bound_with_its_permissions_as_far_as_the_umask_allows() {
    let without_proc = r#"umask "$1"; shift; mount -t tmpfs none /proc && exec "$0" "$@""#;
    if !have("unshare", &["-m", "sh", "-c", "mount -t tmpfs none /proc"]) {
        return;
    }
    let folder = Folder::new("proc");
    for (umask, options, mode, warns) in [
        ("022", &[][..], 0o644, false),
        ("022", &["--unix-mode", "600"], 0o600, false),
        ("022", &["--unix-mode", "660"], 0o640, true),
        ("000", &["--unix-mode", "666"], 0o666, false),
    ] {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", without_proc, ECHOD, umask]).args(options);
        let mut daemon = Daemon::spawn(command.arg(folder.endpoint("socket")));
        let found = identity(&folder.path("socket")).2 & 0o7777;
        assert_eq!(found, mode, "{found:o} with {umask} {options:?}");
        daemon.last_questions();
        let log = daemon.log();
        assert_eq!(log.contains("instead of 660, since /proc is missing"), warns, "{log}");
        assert_eq!(log.matches("WARN").count(), usize::from(warns), "{log}");
    }
}

#[test]
fn a_peer_whose_path_is_an_attack_on_the_terminal_is_logged_on_one_line_and_harmless() {
    let folder = Folder::new("log");
    let mut daemon = folder.daemon("socket", &["-vv"]);
    let (client, address) = socket(&folder.path("socket"));
    let forged = folder.path(OsStr::from_bytes(b"a\n\x1b[31m\xc2\x9b\xffb"));
    client.bind(&SockAddr::unix(&forged).expect("address")).expect("bind");
    client.connect(&address).expect("connect");
    let mut stream = with_deadlines(client.into());
    ping(&mut stream, b"logged");
    leave(stream);
    daemon.last_questions();
    let escaped = format!("from unix:{}/a\\n\\u{{1b}}[31m\\u{{9b}}\\xffb", folder.0.display());
    eventually("the log tells of it", || {
        let log = daemon.log();
        log.lines().any(|line| line.contains(&escaped) && line.contains("closed after"))
    });
    let log = daemon.log();
    assert!(!log.contains(|c: char| c.is_control() && c != '\n'), "{log:?}");
}

/// The kernel tells the length of such an address with a byte more than there is room for.
#[test]
fn a_peer_whose_path_fills_its_address_to_the_last_byte_is_served_like_any_other() {
    const CLIENT: &str = r#"use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die;
        bind(S, pack("S a108", AF_UNIX, "x" x 108)) or die "bind: $!";
        connect(S, pack_sockaddr_un("socket")) or die "connect: $!";
        my $back; syswrite(S, "hi") and sysread(S, $back, 2) and print $back"#;
    if !have("perl", &["-MSocket", "-e", "1"]) {
        return;
    }
    let folder = Folder::new("full");
    let mut daemon = folder.daemon("socket", &["-v"]);
    let client = Command::new("perl").current_dir(&folder.0).args(["-e", CLIENT]).output();
    let client = client.expect("perl");
    assert_eq!(client.stdout, b"hi", "{client:?}");
    daemon.last_questions();
    let path = format!("from unix:{}", "x".repeat(108));
    eventually("the log tells of it", || daemon.log().contains(&path));
}

#[test]
fn the_counters_add_up_and_a_limit_per_address_does_not_concern_who_has_none() {
    let folder = Folder::new("counters");
    let endpoint = folder.endpoint("socket");
    let mut daemon =
        Daemon::spawn(&mut echod(&["--max-connections-per-ip", "1", &endpoint, "127.0.0.1:0"]));
    let mut clients: Vec<_> = (0..20).map(|_| folder.client("socket")).collect();
    for stream in &mut clients {
        ping(stream, &[7; 1000]);
    }
    let mut over_tcp = daemon.connect();
    ping(&mut over_tcp, b"the only one");
    expect_end(&mut daemon.connect());
    clients.into_iter().for_each(leave);
    leave(over_tcp);
    daemon.last_questions();
    let counters = daemon.counters();
    // The daemon's keeper has asked for one echo of eight bytes at the start, and for one at the end.
    for (name, n) in [
        ("accepted", 20 + 1 + 2),
        ("refused", 1),
        ("closed_peer", 20 + 1 + 2),
        ("bytes_in", 20 * 1000 + 12 + 2 * 8),
        ("bytes_out", 20 * 1000 + 12 + 2 * 8),
        ("bytes_unsent", 0),
        ("accept_errors", 0),
    ] {
        assert_eq!(counters[name], n, "{name} of {counters:?}");
    }
}

// The load tester

/// What it says of the server at `name`, with this exit code.
#[track_caller]
fn report(folder: &Folder, name: &str, options: &str, code: i32) -> Value {
    let mut command = Command::new(ECHOLOAD);
    command.args(["--output-format", "json"]).args(options.split_whitespace());
    Tester::spawn(command.arg(folder.endpoint(name))).finish().report(code)
}

/// That all came back.
#[track_caller]
fn expect_load(folder: &Folder, n: u32, options: &str) {
    let report = report(folder, "socket", &format!("-n {n} {options}"), 0);
    let counts =
        json!({"sent": n, "echoed": n, "corrupt": 0, "timed_out": 0, "lost": 0, "unsent": 0});
    assert_eq!(report["messages"], counts, "{options}");
    assert_eq!(errors(&report), (vec![], 0), "{options}");
}

#[test]
fn the_load_tester_gets_exactly_as_many_messages_back_as_it_was_asked_to_send() {
    let folder = Folder::new("load");
    let _daemon = folder.daemon("socket", &[]);
    for (n, options) in [
        (1, "-c 1 -l 1"),
        (5000, "-c 200"),
        (999, "-c 7 -t 3 -p 5 -l 63"),
        (12, "-c 2 -t 2 -l 3MiB -p 4"),
        (2000, "-c 200 -t 2 --reconnect"),
        (101, "-c 10 -p 8 --half-close"),
        (20, "-c 2 -p 2 -l 3MiB --half-close"),
        (301, "-c 10 -R 2000"),
        (301, "-c 10 -t 2 --reconnect --half-close -R 2000"),
    ] {
        expect_load(&folder, n, options);
    }
}

#[test]
fn the_load_tester_waits_for_room_in_a_queue_that_is_emptied_slowly() {
    let folder = Folder::new("slow");
    let listener = tiny_listener(&folder.path("socket"));
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // A slow server, not a wait for anything.
            thread::sleep(Duration::from_millis(3));
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    expect_load(&folder, 1000, "-c 100");
    expect_load(&folder, 200, "-c 100 -t 4 --reconnect");
}

#[test]
fn the_load_tester_names_what_keeps_it_from_connecting_and_ends_in_time() {
    let folder = Folder::new("causes");
    let _full = tiny_listener(&folder.path("full"));
    let _queued = fill(&folder.path("full"));
    drop(UnixListener::bind(folder.path("dead")).expect("bind"));
    fs::write(folder.path("file"), "").expect("file");
    let start = Instant::now();
    for (name, options, cause, failed) in [
        ("full", "-c 20 -n 100", "the server's backlog stayed full", 20),
        ("full", "-c 20 -t 2 -d 1s", "the server's backlog stayed full", 20),
        ("full", "-c 20 -t 2 -n 100 --reconnect", "the server's backlog stayed full", 20),
        ("dead", "-c 20 -n 100", "connection refused", 20),
        ("file", "-c 20 -n 100", "connection refused", 20),
        ("nothing", "-c 20 -n 100", "No such file or directory (os error 2)", 20),
        (&"x".repeat(108), "-c 20 -n 100", "path must be shorter than SUN_LEN", 20),
    ] {
        let report = report(&folder, name, &format!("--timeout 1s {options}"), 1);
        assert_eq!(errors(&report), (vec![cause.to_owned()], failed), "{name} {options}");
        assert_eq!(report["connections"]["failed"], failed, "{name} {options}");
    }
    assert!(start.elapsed() < DEADLINE, "the waits are of a second each");
}

#[test]
fn an_address_to_connect_from_is_none_of_a_path() {
    let folder = Folder::new("source");
    let _daemon = folder.daemon("socket", &[]);
    let mut command = Command::new(ECHOLOAD);
    command.args(["--source-ip", "127.0.0.1", &folder.endpoint("socket")]);
    expect_error(&mut command, 2, &[&folder.endpoint("socket"), "127.0.0.1"]);
}
