//! The state machine of one UDP socket, from the side that sends first.
//!
//! ```text
//!               first event        last message came back, or was given up
//!   Connecting ------------> Open -----------------------------------------> done
//! ```
//!
//! It stands beside the [client](crate::load::client) of a stream. A datagram is a whole message, and
//! the network may lose it, repeat it or change the order. So each carries its number in its first 8
//! bytes, and what comes back is matched by that number. A message that is not back in time is lost, and
//! the load goes on; if it comes back later, it is late.
//!
//! A datagram of less than 8 bytes is matched by its content, with the oldest that is the same. Then an
//! answer that belongs to another message of the same content cannot be told apart: after a loss, late
//! answers and duplicates can count as answers of messages in flight.
//!
//! (One file, so that the rules of matching and the code that follows them are read together.)

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use crate::load::clock::Nanos;
use crate::load::messages::{Context, Driven, Failure, InFlight, Load, Next, Progress, Stray};
use crate::load::payload::Cursor;
use crate::net::ready::Readiness;

/// Most datagrams that one drive receives, so that no socket keeps the others waiting.
const RECV_BUDGET: usize = 32;

/// Number of messages that were given up and whose late answers are recognized. Older ones count as
/// duplicates.
const REMEMBERED: usize = 4096;

/// A connected datagram socket whose calls never wait.
pub trait DatagramSocket {
    /// Receives one datagram: recv(2).
    ///
    /// # Errors
    /// Those of recv(2).
    fn recv(&self, room: &mut [u8]) -> io::Result<usize>;

    /// Sends one datagram: send(2).
    ///
    /// # Errors
    /// Those of send(2).
    fn send(&self, datagram: &[u8]) -> io::Result<usize>;
}

/// One socket of the load, and its messages.
#[derive(Debug)]
pub struct DatagramClient<S> {
    socket: S,
    ready: Readiness,
    is_connecting: bool,
    slot: usize,
    /// Determines the bytes of its messages.
    stream: Cursor,
    /// Whether no message follows those in flight.
    is_last: bool,
    /// Whether the kernel has not taken the newest message yet.
    is_unsent: bool,
    messages: Messages,
    /// Number of right bytes that came back.
    received: u64,
    /// When its connect was begun.
    begun: Nanos,
}

/// The messages of a socket by number, in ascending order.
#[derive(Debug, Default)]
struct Messages {
    in_flight: VecDeque<(u64, InFlight)>,
    /// Messages that were given up, with their due times.
    given_up: VecDeque<(u64, Nanos)>,
    /// Number of messages that were started.
    started: u64,
    /// Number of messages that came back in time.
    echoed: u64,
}

impl<S: DatagramSocket> DatagramClient<S> {
    /// Returns a client with a connected socket. `slot` is the number of its slot in its loop, `stream`
    /// determines its messages.
    pub fn new(socket: S, slot: usize, stream: Cursor, now: Nanos) -> DatagramClient<S> {
        DatagramClient {
            socket,
            ready: Readiness::default(),
            is_connecting: true,
            slot,
            stream,
            is_last: false,
            is_unsent: false,
            messages: Messages::default(),
            received: 0,
            begun: now,
        }
    }

    /// Returns the number of right bytes that came back.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn send_messages(
        &mut self,
        context: &mut Context,
        load: &mut impl Load,
        now: Nanos,
    ) -> io::Result<()> {
        if self.is_unsent && self.ready.writable {
            self.send(context, now)?;
        }
        let pipeline = context.options.pipeline;
        while !self.is_last && !self.is_unsent && self.messages.in_flight.len() < pipeline {
            match load.next(self.slot, now) {
                Next::Due(due) => {
                    let message = InFlight { due, sent: now };
                    self.messages.in_flight.push_back((self.messages.started, message));
                    self.messages.started += 1;
                    self.send(context, now)?;
                }
                Next::NotYet => break,
                Next::Never => self.is_last = true,
            }
        }
        Ok(())
    }

    /// Sends the newest message.
    fn send(&mut self, context: &mut Context, now: Nanos) -> io::Result<()> {
        let Some((number, message)) = self.messages.in_flight.back_mut() else { return Ok(()) };
        message.sent = now;
        let datagram = context.payload.datagram(&self.stream, *number, &mut context.chunk);
        match answer(|| self.socket.send(datagram)) {
            Ok(sent) => self.is_unsent = sent.is_none(),
            // The queue of the interface is full: the kernel has dropped it, as a network may.
            Err(e) if e.raw_os_error() == Some(NO_BUFFERS) => self.is_unsent = false,
            Err(e) => return Err(e),
        }
        self.ready.writable = !self.is_unsent;
        Ok(())
    }
}

/// What a datagram that came back is the answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// A message in flight. It is reordered if an older one is missing.
    InTime { message: InFlight, is_reordered: bool },
    /// A message that was given up, and when it was due.
    Late(Nanos),
    /// A message that has come back before.
    Duplicate,
}

impl Messages {
    /// Finds the message that a datagram answers, and removes it. `number` is the number that the
    /// datagram carries, and `is` tells whether it is the message with a number. `None`: it was never
    /// sent.
    fn take(&mut self, number: Option<u64>, is: impl Fn(u64) -> bool) -> Option<Answer> {
        let place = match number {
            Some(number) if number >= self.started || !is(number) => return None,
            Some(number) => self.in_flight.binary_search_by_key(&number, |&(n, _)| n).ok(),
            None => self.in_flight.iter().position(|&(number, _)| is(number)),
        };
        if let Some((_, message)) = place.and_then(|place| self.in_flight.remove(place)) {
            self.echoed += 1;
            return Some(Answer::InTime { message, is_reordered: place > Some(0) });
        }
        let place = self.given_up.iter().position(|&(number, _)| is(number));
        if let Some((_, due)) = place.and_then(|place| self.given_up.remove(place)) {
            return Some(Answer::Late(due));
        }
        let oldest = self.started.saturating_sub(REMEMBERED as u64);
        let is_known = number.is_some() || (oldest..self.started).rev().any(is);
        is_known.then_some(Answer::Duplicate)
    }
}

impl<S: DatagramSocket> Driven for DatagramClient<S> {
    fn slot(&self) -> usize {
        self.slot
    }

    fn echoed(&self) -> u64 {
        self.messages.echoed
    }

    fn is_connecting(&self) -> bool {
        self.is_connecting
    }

    fn waiting_since(&self) -> Option<Nanos> {
        self.messages.in_flight.front().map(|(_, message)| message.sent)
    }

    fn in_flight(&self) -> impl Iterator<Item = &InFlight> {
        self.messages.in_flight.iter().map(|(_, message)| message)
    }

    fn latch(&mut self, readiness: Readiness) {
        self.ready.readable |= readiness.readable;
        self.ready.writable |= readiness.writable;
    }

    fn is_runnable(&self) -> bool {
        !self.is_connecting && (self.ready.readable || self.is_unsent && self.ready.writable)
    }

    /// Receives what has come, up to a budget, then sends what is due.
    ///
    /// | answer | effect |
    /// |---|---|
    /// | recv got a message in flight | count it; also as reordered, if an older one is still missing |
    /// | recv got one that was given up | late |
    /// | recv got one that came back before | duplicate |
    /// | recv got anything else | corrupt |
    /// | a message is due, and fewer than `pipeline` are in flight | send it |
    /// | send would block | send it again after the next event |
    /// | no message is left or in flight | done |
    ///
    /// # Errors
    /// Any other answer ends this client, and no other.
    fn drive(
        &mut self,
        context: &mut Context,
        load: &mut impl Load,
        mut now: Nanos,
    ) -> Result<Progress, Failure> {
        if self.is_connecting {
            self.is_connecting = false;
            now = load.now();
            load.connected(self.slot, self.begun, now);
        }
        for _ in 0..RECV_BUDGET {
            if !self.ready.readable {
                break;
            }
            match answer(|| self.socket.recv(&mut context.chunk)).map_err(Failure::Lost)? {
                Some(n) => {
                    now = load.now();
                    let (payload, got) = (&context.payload, &context.chunk[..n]);
                    let is = |number| payload.is_datagram(&self.stream, number, got);
                    let answer = self.messages.take(self.stream.datagram_number(got), is);
                    let answer = answer.ok_or_else(|| Failure::Corrupt(got.into()))?;
                    self.received += n as u64;
                    report(answer, n, load, now);
                }
                None => self.ready.readable = false,
            }
        }
        self.send_messages(context, load, now).map_err(Failure::Lost)?;
        Ok(match () {
            () if self.is_runnable() => Progress::Again,
            () if self.is_last && self.messages.in_flight.is_empty() => Progress::Done,
            () => Progress::Blocked,
        })
    }

    fn give_up(&mut self, sent_before: Nanos) -> Option<Vec<Nanos>> {
        let mut due_times = Vec::new();
        let messages = &mut self.messages;
        while let Some(&(number, message)) = messages.in_flight.front()
            && message.sent < sent_before
        {
            messages.in_flight.pop_front();
            self.is_unsent &= !messages.in_flight.is_empty();
            if messages.given_up.len() == REMEMBERED {
                messages.given_up.pop_front();
            }
            messages.given_up.push_back((number, message.due));
            due_times.push(message.due);
        }
        Some(due_times)
    }
}

fn report(answer: Answer, bytes: usize, load: &mut impl Load, now: Nanos) {
    match answer {
        Answer::InTime { message, is_reordered } => {
            if is_reordered {
                load.stray(Stray::Reordered);
            }
            load.echoed(message, now);
            load.received(bytes, now);
        }
        Answer::Late(due) => load.stray(Stray::Late { due }),
        Answer::Duplicate => load.stray(Stray::Duplicate),
    }
}

const NO_BUFFERS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();

/// Makes a call until it is not interrupted. `None` stands for "would block".
fn answer(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            result => return result.map(Some),
        }
    }
}

// One recv must take the largest datagram whole.
const _: () = assert!(crate::load::noise::CHUNK > crate::load::shape::MAX_DATAGRAM as usize);

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::load::messages::ClientOptions;
    use crate::load::noise::Noise;
    use crate::load::payload::Payload;
    use crate::load::shape::Shape;

    /// A socket that has room for some datagrams, and whose peer answers what the test says.
    #[derive(Debug, Default)]
    struct Socket {
        room: Cell<usize>,
        sent: RefCell<Vec<Vec<u8>>>,
        answers: RefCell<VecDeque<Vec<u8>>>,
    }

    impl DatagramSocket for &Socket {
        fn recv(&self, room: &mut [u8]) -> io::Result<usize> {
            let answer = self.answers.borrow_mut().pop_front().ok_or(ErrorKind::WouldBlock)?;
            room[..answer.len()].copy_from_slice(&answer);
            Ok(answer.len())
        }

        fn send(&self, datagram: &[u8]) -> io::Result<usize> {
            let room = self.room.get().checked_sub(1).ok_or(ErrorKind::WouldBlock)?;
            self.room.set(room);
            self.sent.borrow_mut().push(datagram.to_vec());
            Ok(datagram.len())
        }
    }

    /// A load of a number of messages that are due at once.
    #[derive(Default)]
    struct Meter {
        left: u64,
        echoed: Vec<Nanos>,
        strays: Vec<Stray>,
    }

    impl Load for Meter {
        fn next(&mut self, _: usize, now: Nanos) -> Next {
            let Some(left) = self.left.checked_sub(1) else { return Next::Never };
            self.left = left;
            Next::Due(now)
        }

        fn is_over(&self, _: usize, _: Nanos) -> bool {
            self.left == 0
        }

        fn connected(&mut self, _: usize, _: Nanos, _: Nanos) {}

        fn echoed(&mut self, message: InFlight, _: Nanos) {
            self.echoed.push(message.sent);
        }

        fn received(&mut self, _: usize, _: Nanos) {}

        fn stray(&mut self, stray: Stray) {
            self.strays.push(stray);
        }

        fn now(&self) -> Nanos {
            0
        }
    }

    #[test]
    fn every_fate_of_a_datagram_is_told_apart() {
        let payload = Payload::new(Noise::new(1), Shape::default());
        let stream = payload.start(0);
        let options = ClientOptions { pipeline: 3, half_close: false };
        let mut context = Context::new(payload, options);
        let socket = Socket::default();
        let mut load = Meter { left: 4, ..Meter::default() };
        let mut client = DatagramClient::new(&socket, 0, stream, 0);
        let mut drive = |client: &mut DatagramClient<_>, load: &mut Meter, now| {
            client.latch(Readiness::ALL);
            client.drive(&mut context, load, now)
        };
        // The second one finds no room, and is sent after the next event.
        socket.room.set(1);
        assert_eq!(drive(&mut client, &mut load, 0).unwrap(), Progress::Blocked);
        assert_eq!((socket.sent.borrow().len(), load.left), (1, 2));
        socket.room.set(9);
        assert_eq!(drive(&mut client, &mut load, 10).unwrap(), Progress::Blocked);
        assert_eq!((socket.sent.borrow().len(), load.left), (3, 1));
        let answer = |numbers: &[usize]| {
            let sent = socket.sent.borrow();
            socket.answers.borrow_mut().extend(numbers.iter().map(|&n| sent[n].clone()));
        };

        answer(&[1, 1]);
        assert_eq!(drive(&mut client, &mut load, 20).unwrap(), Progress::Blocked);
        assert_eq!(load.echoed, [10]);
        assert_eq!(load.strays, [Stray::Reordered, Stray::Duplicate]);
        assert_eq!(client.give_up(1), Some(vec![0]), "the first one");
        answer(&[0, 2]);
        assert_eq!(drive(&mut client, &mut load, 30).unwrap(), Progress::Blocked);
        assert_eq!(load.echoed, [10, 10]);
        assert_eq!(load.strays[2..], [Stray::Late { due: 0 }]);
        answer(&[3]);
        assert_eq!(drive(&mut client, &mut load, 40).unwrap(), Progress::Done);
        assert_eq!(client.echoed(), 3);
        socket.sent.borrow_mut()[3][63] ^= 1;
        answer(&[3]);
        assert!(matches!(drive(&mut client, &mut load, 50), Err(Failure::Corrupt(_))));
    }
}
