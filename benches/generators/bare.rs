//! A bare generator: only what a closed loop that checks every byte cannot do without. It has no schedule,
//! timeout, signal, interval or report, and no budget, and looks into nothing that is wrong. It is the
//! limit for a generator with one thread that calls recv and send.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::figures::Figures;
use crate::generator::Load;

/// The most bytes of a call: with half as many, messages of 1 MiB are slower.
const CHUNK: usize = 256 * 1024;

/// Number of bytes after which the noise repeats: a prime, so that each of a million messages differs.
const PERIOD: usize = 1_048_573;

/// Set once for each socket. An edge reports when either direction becomes ready again.
const INTEREST: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::ET);

const EVENTS: usize = 1024;

/// The longest time that is told apart from longer ones, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// What all connections share.
struct Shared {
    noise: Vec<u8>,
    room: Vec<u8>,
    length: usize,
    /// Messages that may still be started.
    left: u64,
    latencies: Histogram<u64>,
    /// Number of bytes that have come back.
    bytes: u64,
}

struct Connection {
    socket: TcpStream,
    /// Places in the noise: of the next byte to send, and of the next to come back.
    sent: usize,
    received: usize,
    /// Bytes of the message in flight that were not sent, and that have not come back.
    unsent: usize,
    missing: usize,
    begun: Instant,
}

/// Sends messages over all connections until all have come back.
pub fn load(address: SocketAddr, load: Load) -> io::Result<Figures> {
    let Load { connections, length, messages } = load;
    let mut shared = Shared::new(length as usize, messages)?;
    let begun = Instant::now();
    let connect = |nth| Connection::new(address, nth * PERIOD / connections, begun);
    let mut all: Vec<Connection> = (0..connections).map(connect).collect::<io::Result<_>>()?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    for (nth, connection) in all.iter().enumerate() {
        epoll::add(&poll, &connection.socket, EventData::new_u64(nth as u64), INTEREST)?;
    }
    let mut events = Vec::with_capacity(EVENTS);
    let begun = Instant::now();
    for connection in &mut all {
        connection.start(begun, &mut shared)?;
    }
    while shared.latencies.len() < messages {
        retry_on_intr(|| epoll::wait(&poll, spare_capacity(&mut events), None))?;
        for event in events.drain(..) {
            let nth = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
            all[nth].ready(event.flags, &mut shared)?;
        }
    }
    let us = |quantile| shared.latencies.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Figures {
        messages: shared.latencies.len(),
        bytes: shared.bytes,
        messages_per_s: messages as f64 / begun.elapsed().as_secs_f64(),
        p50_us: us(0.5),
        p99_us: us(0.99),
    })
}

impl Shared {
    fn new(length: usize, left: u64) -> io::Result<Shared> {
        let mut noise = vec![0; PERIOD];
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for byte in &mut noise {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_be_bytes()[0];
        }
        noise.extend_from_within(..CHUNK);
        let latencies = Histogram::new_with_max(LONGEST, 3).map_err(io::Error::other)?;
        Ok(Shared { noise, room: vec![0; CHUNK], length, left, latencies, bytes: 0 })
    }
}

impl Connection {
    fn new(address: SocketAddr, place: usize, begun: Instant) -> io::Result<Connection> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, sent: place, received: place, unsent: 0, missing: 0, begun })
    }

    fn start(&mut self, now: Instant, shared: &mut Shared) -> io::Result<()> {
        if shared.left > 0 {
            shared.left -= 1;
            (self.unsent, self.missing, self.begun) = (shared.length, shared.length, now);
        }
        self.send(shared)
    }

    fn send(&mut self, shared: &Shared) -> io::Result<()> {
        while self.unsent > 0 {
            let bytes = &shared.noise[self.sent..][..self.unsent.min(CHUNK)];
            let n = match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::WOULDBLOCK) => return Ok(()),
                answer => answer?,
            };
            self.unsent -= n;
            self.sent = (self.sent + n) % PERIOD;
        }
        Ok(())
    }

    fn ready(&mut self, said: EventFlags, shared: &mut Shared) -> io::Result<()> {
        if self.unsent > 0 {
            self.send(shared)?;
        }
        while said.contains(EventFlags::IN) {
            let n = match recv(&self.socket, &mut *shared.room, RecvFlags::empty()) {
                Err(Errno::WOULDBLOCK) => break,
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                answer => answer?.0,
            };
            if n > self.missing || shared.room[..n] != shared.noise[self.received..][..n] {
                return Err(io::Error::other("other bytes came back"));
            }
            self.received = (self.received + n) % PERIOD;
            self.missing -= n;
            shared.bytes += n as u64;
            if self.missing == 0 {
                let now = Instant::now();
                let latency = now.duration_since(self.begun).as_nanos();
                shared.latencies.saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
                self.start(now, shared)?;
            }
            if n < CHUNK {
                break;
            }
        }
        Ok(())
    }
}
