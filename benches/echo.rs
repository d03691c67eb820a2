//! What an echo costs: one drive of a connection without any socket; a round trip over loopback,
//! beside the same trip to a thread that blocks; and a round trip while others flood the loop.
//!
//! Absolute times say as much of the machine as of the server. Compare the figures of one run.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echoload::connection::{Connection, Tools};
use echoload::nonblocking::Stream;
use echoload::ready::{Progress, Readiness};
use echoload::{Config, Server, Stopper};

const MESSAGE: [u8; 64] = [0x5A; 64];

/// A peer with one message to say, again and again, that takes any echo.
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
    let mut tools = Tools::new(64 * 1024, now);
    let mut connection = Connection::new(Loopback { waiting: true }, now);
    connection.latch(Readiness { writable: true, ..Readiness::default() });
    c.bench_function("one echo of 64 bytes without a socket", |b| {
        b.iter(|| {
            connection.latch(Readiness { readable: true, ..Readiness::default() });
            assert_eq!(connection.drive(&mut tools).expect("no error"), Progress::Blocked);
        });
    });
}

fn start_server() -> (SocketAddr, Stopper) {
    let endpoints = vec!["127.0.0.1:0".parse().expect("endpoint")];
    let server = Server::bind(&Config { endpoints, ..Config::default() }).expect("bind");
    let address = server.local_addrs()[0].as_tcp().expect("a TCP address");
    let started = (address, server.stopper());
    thread::spawn(move || server.run());
    started
}

/// The first of the three ways to serve: a thread for each connection, that blocks.
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

    let over = AtomicBool::new(false);
    thread::scope(|scope| {
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
        over.store(true, Ordering::Relaxed);
    });
    stopper.stop().expect("wake the server");
}

criterion_group!(benches, drive, round_trips);
criterion_main!(benches);
