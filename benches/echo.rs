//! What an echo costs:
//!
//! - one drive of a connection without a socket, alone and among up to a million connections;
//! - the parts of it that buffers and deadlines take;
//! - a round trip over loopback, compared with one to a thread with blocking calls;
//! - a round trip while other clients flood the loop.
//!
//! Absolute times depend on the machine as much as on the server: compare figures of one run only.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use echoloop::net::buffer::Buffer;
use echoloop::net::deadline::{Deadlines, after};
use echoloop::net::nonblocking::Stream;
use echoloop::net::pool::Pool;
use echoloop::net::ready::Readiness;
use echoloop::protocol::Echo;
use echoloop::server::connection::{Connection, Progress};
use echoloop::server::context::Context;
use echoloop::{Config, Server, Stopper};
use slab::Slab;

const MESSAGE: [u8; 64] = [0x5A; 64];

/// A stream without a socket: it delivers one message, takes its echo, and then delivers it again.
struct Loopback {
    waiting: bool,
}

impl Read for Loopback {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !std::mem::take(&mut self.waiting) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf[..MESSAGE.len()].copy_from_slice(&MESSAGE);
        Ok(MESSAGE.len())
    }
}

impl Write for Loopback {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        assert_eq!(buf, MESSAGE);
        self.waiting = true;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Loopback {
    fn short_recv_means_empty(&self) -> bool {
        true
    }

    fn shutdown_write(&self) -> io::Result<()> {
        Ok(())
    }
}

fn drive(c: &mut Criterion) {
    let now = Instant::now();
    let mut context = Context::new(Echo, 64 * 1024, now);
    let mut connection = connection(now);
    c.bench_function("one echo of 64 bytes without a socket", |b| {
        b.iter(|| echo(&mut connection, &mut context));
    });
}

/// A connection that is writable and has received nothing yet.
fn connection(now: Instant) -> Connection<Loopback, Echo> {
    let mut connection = Connection::new(Loopback { waiting: true }, now);
    connection.latch(Readiness { writable: true, ..Readiness::default() });
    connection
}

fn echo(connection: &mut Connection<Loopback, Echo>, context: &mut Context<Echo>) {
    connection.latch(Readiness { readable: true, ..Readiness::default() });
    assert_eq!(connection.drive(context).expect("no error"), Progress::Blocked);
}

/// Numbers of connections, to show which costs do not grow with them.
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// The cost of a turn depends on its events, not on the number of connections. What remains is that
/// more connections are further apart in memory.
fn a_turn(c: &mut Criterion) {
    const EVENTS: usize = 64;
    let now = Instant::now();
    let mut group = c.benchmark_group("a turn of 64 echoes");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for size in SIZES {
        let mut context = Context::new(Echo, 64 * 1024, now);
        let mut connections = Slab::with_capacity(size);
        let mut deadlines = Deadlines::default();
        for key in 0..size {
            connections.insert(connection(now));
            deadlines.schedule(key, after(now, Some(Duration::from_secs(60 + key as u64 % 60))));
        }
        let mut key = 0;
        group.bench_function(BenchmarkId::new("connections", size), |b| {
            b.iter(|| {
                for _ in 0..EVENTS {
                    // A step by a prime reaches every connection, and never two neighbours in a row.
                    key = (key + 7919) % size;
                    echo(&mut connections[key], &mut context);
                }
                deadlines.next()
            });
        });
    }
    group.finish();
}

/// A deadline comes up, but its connection has moved bytes since: it is scheduled again.
fn put_off(c: &mut Criterion) {
    let mut group = c.benchmark_group("a deadline is put off");
    for size in SIZES {
        let mut now = Instant::now();
        let mut deadlines = Deadlines::default();
        for key in 0..size {
            deadlines.schedule(key, after(now, Some(Duration::from_micros(key as u64))));
        }
        group.bench_function(BenchmarkId::new("connections", size), |b| {
            b.iter(|| {
                now = deadlines.next().expect("never empty");
                let key = deadlines.pop_due(now).expect("due");
                deadlines.schedule(key, after(now, Some(Duration::from_secs(60))));
            });
        });
    }
    group.finish();
}

fn buffers(c: &mut Criterion) {
    let mut pool = Pool::new(64 * 1024);
    let mut buffer = Buffer::default();
    c.bench_function("a page is borrowed, filled, sent and given back", |b| {
        b.iter(|| {
            let mut room = buffer.room(&mut pool).expect("memory");
            room.bytes_mut()[..64].copy_from_slice(&MESSAGE);
            buffer.fill(room, 64);
            buffer.consume(64, &mut pool);
        });
    });
}

fn start_server() -> (SocketAddr, Stopper) {
    let endpoint = "127.0.0.1:0".parse().expect("endpoint");
    let config = Config::builder().endpoint(endpoint).build().expect("a configuration");
    let server = Server::bind(&config).expect("bind");
    let address = server.local_addrs()[0].as_tcp().expect("a TCP address");
    let started = (address, server.stopper());
    thread::spawn(move || server.run());
    started
}

/// The first of the three ways to serve that the HOWTO names: a thread for each connection.
fn start_blocking() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.set_nodelay(true).expect("nodelay");
            thread::spawn(move || {
                let mut buf = vec![0; 65_536];
                while let Ok(n @ 1..) = stream.read(&mut buf) {
                    stream.write_all(&buf[..n]).expect("send");
                }
            });
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

fn round_trip(stream: &mut TcpStream, message: &[u8], answer: &mut [u8]) {
    stream.write_all(message).expect("send");
    stream.read_exact(answer).expect("receive");
    assert!(message == answer, "other bytes came back");
}

/// Sets the flag when it is dropped, also if the benchmark panics, so that its threads end.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn round_trips(c: &mut Criterion) {
    let (address, stopper) = start_server();
    let blocking = start_blocking();
    for length in [64, 65_536] {
        let (message, mut answer) = (vec![0x5A; length], vec![0; length]);
        let mut group = c.benchmark_group(format!("round trip of {length} bytes"));
        group.throughput(Throughput::Bytes(length as u64));
        for (name, address) in [("the loop", address), ("a thread that blocks", blocking)] {
            let mut stream = connect(address);
            group.bench_function(name, |b| {
                b.iter(|| round_trip(&mut stream, &message, &mut answer));
            });
        }
        group.finish();
    }
    stopper.stop().expect("wake the server");
}

fn round_trip_beside_floods(c: &mut Criterion) {
    let (address, stopper) = start_server();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let raised = Raised(&over);
        for _ in 0..3 {
            let (mut sender, over) = (connect(address), &over);
            let mut reader = sender.try_clone().expect("clone");
            scope.spawn(move || {
                let flood = vec![0; 65_536];
                while !over.load(Ordering::Relaxed) && sender.write_all(&flood).is_ok() {}
                let _ = sender.shutdown(std::net::Shutdown::Write);
            });
            scope.spawn(move || io::copy(&mut reader, &mut io::sink()));
        }
        let (mut stream, mut answer) = (connect(address), [0; 64]);
        c.bench_function("round trip of 64 bytes beside three floods", |b| {
            b.iter(|| round_trip(&mut stream, &MESSAGE, &mut answer));
        });
        drop(raised);
    });
    stopper.stop().expect("wake the server");
}

criterion_group!(benches, drive, a_turn, put_off, buffers, round_trips, round_trip_beside_floods);
criterion_main!(benches);
