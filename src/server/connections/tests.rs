//! Who is driven when, and who waits for memory, on socket pairs and with a clock of the test's own.

use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use mio::Poll;
use mio::net::UnixStream;

use crate::net::address::Address;
use crate::net::ready::Readiness;
use crate::net::socket::Socket;
use crate::protocol::{Framed, Prefix};
use crate::server::config::Config;
use crate::server::connections::Connections;

const KIB: usize = 1024;
const IDLE: Duration = Duration::from_secs(10);

/// More than half of a buffer, so that it needs a whole one.
const LARGE: usize = 60 * KIB;

/// Connections that may hold two buffers together, and their peers by key.
struct Crowd {
    connections: Connections<Framed<Prefix>>,
    peers: Vec<UnixStream>,
    poll: Poll,
}

impl Crowd {
    fn new() -> Crowd {
        let config = Config::builder().max_buffer(64 * KIB).max_memory(128 * KIB);
        let config = config.idle_timeout(IDLE).build().unwrap();
        let mut connections = Connections::new(Framed(Prefix::U32), &config);
        // Ahead of the system's, so that no turn takes too long.
        connections.context.now += Duration::from_secs(3600);
        Crowd { connections, peers: Vec::new(), poll: Poll::new().unwrap() }
    }

    /// A crowd of which each has sent a large message and its first half was received. They hold so much that
    /// there is no room for the whole of any.
    fn of_half_messages() -> Crowd {
        let mut crowd = Crowd::new();
        let message = message(LARGE);
        let (first, rest) = message.split_at(LARGE / 2);
        for _ in 0..4 {
            crowd.open(first);
        }
        for key in 0..4 {
            crowd.send(key, rest);
        }
        crowd
    }

    /// Adds a connection whose peer sends these bytes, and returns its key.
    fn open(&mut self, bytes: &[u8]) -> usize {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let nobody = Address::Unix(PathBuf::new());
        assert!(self.connections.reserve());
        self.connections.open(Socket::Unix(ours), &nobody, self.poll.registry()).unwrap();
        self.peers.push(theirs);
        let key = self.peers.len() - 1;
        self.send(key, bytes);
        key
    }

    fn send(&mut self, key: usize, bytes: &[u8]) {
        self.peers[key].write_all(bytes).unwrap();
        self.connections.drive(key, Readiness::ALL);
    }

    fn receive(&mut self, key: usize) -> io::Result<usize> {
        self.peers[key].read(&mut vec![0; 64 * KIB])
    }

    fn are_waiting(&self, keys: impl IntoIterator<Item = usize>) -> bool {
        keys.into_iter().all(|key| self.connections.slab[key].is_queued())
    }
}

/// A message of so many bytes, with its length.
fn message(bytes: usize) -> Vec<u8> {
    let mut message = vec![b'x'; bytes];
    message[..4].copy_from_slice(&u32::try_from(bytes - 4).unwrap().to_be_bytes());
    message
}

#[test]
fn half_messages_that_wait_for_the_memory_of_each_other_end_by_the_idle_timeout() {
    let mut crowd = Crowd::of_half_messages();
    assert!(crowd.are_waiting(0..4));
    crowd.connections.context.now += IDLE / 2;
    crowd.connections.run_memory_queue();
    crowd.connections.close_due();
    assert!(crowd.are_waiting(0..4), "not idle for long enough");

    crowd.connections.context.now += IDLE;
    while crowd.connections.deadlines.next().is_some_and(|at| at <= crowd.connections.context.now) {
        crowd.connections.run_memory_queue();
        crowd.connections.close_due();
    }
    assert_eq!(crowd.receive(0).unwrap(), 0, "no end");
    let key = crowd.open(&message(LARGE));
    assert_eq!(crowd.receive(key).unwrap(), LARGE);
}

#[test]
fn one_that_holds_no_memory_waits_for_it_beyond_the_idle_timeout() {
    let mut crowd = Crowd::new();
    let pages: Vec<_> = std::iter::from_fn(|| crowd.connections.context.pool.take().ok()).collect();
    let key = crowd.open(&message(100));
    crowd.connections.context.now += 2 * IDLE;
    crowd.connections.close_due();
    assert!(crowd.are_waiting([key]));
    for page in pages {
        crowd.connections.context.pool.put(page);
    }
    crowd.connections.run_memory_queue();
    assert_eq!(crowd.receive(key).unwrap(), 100);
}

#[test]
fn one_that_wants_little_does_not_wait_behind_those_for_whom_there_is_not_enough() {
    let mut crowd = Crowd::of_half_messages();
    let pages: Vec<_> = std::iter::from_fn(|| crowd.connections.context.pool.take().ok()).collect();
    let key = crowd.open(&message(100));
    assert_eq!(crowd.receive(key).unwrap_err().kind(), ErrorKind::WouldBlock);
    for page in pages {
        crowd.connections.context.pool.put(page);
    }
    crowd.connections.run_memory_queue();
    assert_eq!(crowd.receive(key).unwrap(), 100);
    assert!(crowd.are_waiting(0..4));
}

#[test]
fn one_that_moves_little_is_driven_at_once_and_one_that_moves_much_from_the_queue() {
    let mut crowd = Crowd::new();
    crowd.connections.begin_turn(1000);
    let loud = crowd.open(&message(LARGE));
    assert_eq!(crowd.receive(loud).unwrap(), LARGE);
    crowd.send(loud, &message(LARGE));
    assert_eq!(crowd.receive(loud).unwrap_err().kind(), ErrorKind::WouldBlock);
    let quiet = crowd.open(&message(100));
    assert_eq!(crowd.receive(quiet).unwrap(), 100);
    crowd.connections.run_queued(None);
    assert_eq!(crowd.receive(loud).unwrap(), LARGE);
}

#[test]
fn a_few_may_move_much_at_once_and_many_share_a_turn() {
    let mut crowd = Crowd::new();
    crowd.connections.begin_turn(8);
    let key = crowd.open(&message(LARGE));
    crowd.send(key, &message(LARGE));
    assert_eq!(crowd.receive(key).unwrap(), 64 * KIB, "both were echoed");
    let budgets = [1, 8, 64, 128, 100_000].map(|events| {
        crowd.connections.begin_turn(events);
        crowd.connections.context.budget / KIB
    });
    assert_eq!(budgets, [1024, 1024, 128, 64, 64]);
}

#[test]
fn a_drain_of_many_connections_takes_as_many_turns_as_their_time_needs() {
    let mut crowd = Crowd::new();
    for _ in 0..3 {
        crowd.open(&message(100));
    }
    crowd.connections.begin_drain();
    for driven in 0..=3 {
        let queued = (0..3).filter(|&key| crowd.are_waiting([key])).count();
        assert_eq!(queued, 3 - driven);
        crowd.connections.run_queued(Some(Duration::ZERO));
    }
}
