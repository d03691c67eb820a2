//! The connection over a model of its kernel: a socket that says as little as an edge-triggered
//! kernel may say, and checks every call. A hang that real sockets show once in a million connections
//! is one short script here.

use std::cell::{RefCell, RefMut};
use std::io::{self, ErrorKind};
use std::panic;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use Action::{Fin, Finish, Hint, LatchAll, Linger, Pages, Read, Reset, Send, Turn, Urgent};
use echoloop::net::nonblocking::Stream;
use echoloop::net::ready::Readiness;
use echoloop::protocol::{Echo, Exchange, Fixed, Framed, Line, Malformed, Next, Prefix, Protocol};
use echoloop::server::connection::{Connection, Progress};
use echoloop::server::context::Context;
use echoloop::server::counters::CloseReason;
use proptest::prelude::*;

const MIB: usize = 1024 * 1024;
const LARGEST_PAGE: usize = 65_536;

/// What src/server/connection.rs and src/net/buffer.rs promise, under the same names.
const BUDGET: usize = MIB;
const CALL: usize = 4096;
const DISCARD: usize = 16 * MIB;
const SPARSE: usize = 16;

/// What a page of the pool takes from the system, if it is not larger.
const SYSTEM_PAGE: usize = 4096;

/// A protocol as the kernel sees it: what it owes follows from the number of bytes that it received.
trait Shape: Protocol<State: std::fmt::Debug> + Sized {
    /// How often each byte of a whole message comes back.
    const COPIES: usize = 1;

    fn new() -> Self;
    fn traffic() -> &'static Traffic;
}

impl Shape for Echo {
    fn new() -> Echo {
        Echo
    }

    fn traffic() -> &'static Traffic {
        static TRAFFIC: LazyLock<Traffic> = LazyLock::new(|| Traffic::of(|i| vec![random_byte(i)]));
        &TRAFFIC
    }
}

/// Holds the start of a message back until it is whole.
impl Shape for Framed<Fixed> {
    fn new() -> Framed<Fixed> {
        Framed(Fixed(3))
    }

    fn traffic() -> &'static Traffic {
        static TRAFFIC: LazyLock<Traffic> =
            LazyLock::new(|| Traffic::of(|i| (3 * i..3 * i + 3).map(random_byte).collect()));
        &TRAFFIC
    }
}

/// Takes the end of the input for the end of a message.
impl Shape for Framed<Line> {
    fn new() -> Framed<Line> {
        Framed(Line)
    }

    fn traffic() -> &'static Traffic {
        static TRAFFIC: LazyLock<Traffic> = LazyLock::new(|| {
            let line = |i| {
                let letters = (0..usize::from(random_byte(i) % 4)).map(|k| random_byte(4 * i + k));
                letters.map(|byte| byte | 0x80).chain([b'\n']).collect()
            };
            Traffic { ends_with_input: true, ..Traffic::of(line) }
        });
        &TRAFFIC
    }
}

/// Has messages of several lengths, of which the shortest are empty.
impl Shape for Framed<Prefix> {
    fn new() -> Framed<Prefix> {
        Framed(Prefix::U16)
    }

    fn traffic() -> &'static Traffic {
        static TRAFFIC: LazyLock<Traffic> = LazyLock::new(|| {
            Traffic::of(|i| {
                let body = random_byte(i) % 3;
                let bytes = (0..usize::from(body)).map(|k| random_byte(2 * i + k));
                [0, body].into_iter().chain(bytes).collect()
            })
        });
        &TRAFFIC
    }
}

/// Answers each byte twice, so that its answers have no room for all.
struct Doubled;

impl Protocol for Doubled {
    type State = ();

    fn received(&mut self, (): &mut (), exchange: &mut Exchange<'_>) -> Result<Next, Malformed> {
        while let Some(&byte) = exchange.input().first() {
            if !exchange.answer(&[byte, byte]) {
                return Ok(Next::Send);
            }
            exchange.consume(1);
        }
        Ok(Next::Receive)
    }
}

impl Shape for Doubled {
    const COPIES: usize = 2;

    fn new() -> Doubled {
        Doubled
    }

    fn traffic() -> &'static Traffic {
        static TRAFFIC: LazyLock<Traffic> =
            LazyLock::new(|| Traffic { copies: 2, ..Traffic::of(|i| vec![random_byte(i)]) });
        &TRAFFIC
    }
}

fn random_byte(i: usize) -> u8 {
    i.wrapping_mul(0x9E37_79B9).to_le_bytes()[2]
}

/// What a peer sends. It follows from the position, so that the model need only count.
struct Traffic {
    /// One period, and as much of the next as a call can take.
    bytes: Vec<u8>,
    /// For each place in a period, where the last message that is whole there ends.
    whole: Vec<usize>,
    copies: usize,
    /// The end of the input also ends a message.
    ends_with_input: bool,
}

impl Traffic {
    /// For an echo, whose messages are bytes, the period is a prime, so that no page boundary repeats in
    /// it.
    fn of(message: impl Fn(usize) -> Vec<u8>) -> Traffic {
        const PERIOD: usize = 65_521;
        let (mut bytes, mut whole) = (Vec::new(), Vec::new());
        for i in 0.. {
            if bytes.len() >= PERIOD {
                break;
            }
            let start = bytes.len();
            bytes.extend(message(i));
            whole.resize(bytes.len(), start);
        }
        let next: Vec<u8> = bytes.iter().copied().cycle().take(LARGEST_PAGE).collect();
        bytes.extend(next);
        Traffic { bytes, whole, copies: 1, ends_with_input: false }
    }

    fn bytes(&self, from: usize, n: usize) -> &[u8] {
        &self.bytes[from % self.whole.len()..][..n]
    }

    /// Number of bytes in whole messages, of the first `n` bytes.
    fn whole(&self, n: usize) -> usize {
        let period = self.whole.len();
        n / period * period + self.whole[n % period]
    }
}

/// The traffic of an echo.
impl Default for &'static Traffic {
    fn default() -> &'static Traffic {
        Echo::traffic()
    }
}

/// What a script is made of: what the peer does, and what the loop does.
#[derive(Debug, Clone, Copy)]
enum Action {
    Send(usize),
    /// A byte out of band: it is not in the stream, but a recv stops where it was.
    Urgent,
    Fin,
    Reset,
    /// Up to this much of what is there, which makes room for more.
    Read(usize),
    /// One turn of the loop.
    Turn,
    /// An event without a reason.
    Hint(Readiness),
    /// The drain begins.
    LatchAll,
    /// Half the drain's time is over.
    Finish,
    /// The idle timeout is over.
    Linger,
    /// From now on the buffers may have this many pages.
    Pages(usize),
}

/// Chance that a seed repeats. From 0 comes nothing but 0: a kernel that plays no tricks.
#[derive(Default)]
struct Dice(u64);

impl Dice {
    fn one_in(&mut self, n: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n == n - 1
    }

    fn cut(&mut self, n: usize) -> usize {
        if self.one_in(2) { n.min(1 + usize::from(self.0.to_le_bytes()[3])) } else { n }
    }
}

#[derive(Debug, Default, PartialEq)]
enum Peer {
    #[default]
    Sends,
    HasEnded,
    HasReset,
}

#[derive(Default)]
struct Kernel {
    /// That of the protocol's shape.
    traffic: &'static Traffic,
    dice: Dice,
    peer: Peer,
    /// How far in the stream: what the peer sent, what we received of it, what we sent back, and
    /// what the peer read of that.
    arrived: usize,
    taken: usize,
    given: usize,
    read: usize,
    /// Where a recv stops. There is only one: a newer one takes its place.
    mark: Option<usize>,
    room: usize,
    /// Edges since the last poll.
    pending: Readiness,
    /// Would-blocks since the last event: without one, room is no edge, and poll(2) is deaf.
    armed: Readiness,
    /// Events since the last would-block: without one, a call is a spin.
    told: Readiness,
    end_taken: bool,
    /// What was taken when our end was sent. What comes behind it is discarded.
    our_end: Option<usize>,
    /// `Finish` or `Linger`, whichever came last.
    wish: Option<Action>,
    /// In this drive: the budget spent, and whether a byte moved or our end was sent.
    spent: usize,
    moved: bool,
}

impl Kernel {
    /// Answers to whole messages that were not sent.
    fn owed(&self) -> usize {
        if self.our_end.is_some() { 0 } else { self.answers() - self.given }
    }

    fn answers(&self) -> usize {
        self.whole() * self.traffic.copies
    }

    fn whole(&self) -> usize {
        let all = self.end_taken && self.traffic.ends_with_input;
        if all { self.taken } else { self.traffic.whole(self.taken) }
    }

    /// The start of a message.
    fn held(&self) -> usize {
        if self.our_end.is_some() { 0 } else { self.taken - self.whole() }
    }

    fn discarded(&self) -> usize {
        self.taken - self.our_end.unwrap_or(self.taken)
    }

    /// What can come instead of any answer.
    fn trouble(&mut self, of_a_reset: ErrorKind) -> io::Result<()> {
        match self.peer {
            Peer::HasReset => Err(of_a_reset.into()),
            _ if self.dice.one_in(8) => Err(ErrorKind::Interrupted.into()),
            _ => Ok(()),
        }
    }

    fn recv(&mut self, buf: &mut [u8], cuts: bool) -> io::Result<usize> {
        let flushing = matches!(self.wish, Some(Finish)) && self.our_end.is_none();
        assert!(self.told.readable, "recv after a would-block, and no event");
        assert!(!self.end_taken, "recv after the end");
        assert!(!flushing, "recv after finish()");
        assert!(self.owed() == 0, "recv while bytes are owed");
        assert!(self.spent < BUDGET, "recv beyond the budget");
        assert!(self.discarded() < DISCARD, "recv after too much was discarded");
        self.trouble(ErrorKind::ConnectionReset)?;
        // Only a recv that begins at the mark passes it.
        self.mark.take_if(|mark| *mark == self.taken);
        let mut n = buf.len().min(self.mark.unwrap_or(self.arrived) - self.taken);
        if cuts && n > 0 {
            n = self.dice.cut(n);
        }
        self.spent += n.max(CALL);
        if n == 0 && self.peer == Peer::Sends {
            (self.told.readable, self.armed.readable) = (false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        self.end_taken = n == 0;
        self.moved |= n > 0 && self.our_end.is_none();
        buf[..n].copy_from_slice(self.traffic.bytes(self.taken, n));
        self.taken += n;
        Ok(n)
    }

    fn peek(&mut self) -> io::Result<usize> {
        assert!(self.told.readable, "peek after a would-block, and no event");
        assert!(!self.end_taken, "peek after the end");
        self.trouble(ErrorKind::ConnectionReset)?;
        let mark = self.mark.filter(|&mark| mark != self.taken);
        let n = mark.unwrap_or(self.arrived).saturating_sub(self.taken).min(1);
        if n == 0 && self.peer == Peer::Sends {
            (self.told.readable, self.armed.readable) = (false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        self.end_taken = n == 0;
        Ok(n)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.told.writable, "send after a would-block, and no event");
        assert!(self.our_end.is_none(), "send after our end");
        assert!(bytes.len() <= self.owed(), "more is sent than is owed");
        if self.traffic.copies == 1 {
            let expected = self.traffic.bytes(self.given, bytes.len());
            assert!(bytes == expected, "other bytes come back");
        } else {
            let copies = self.traffic.copies;
            let expected = |i| self.traffic.bytes((self.given + i) / copies, 1)[0];
            let right = bytes.iter().enumerate().all(|(i, &byte)| byte == expected(i));
            assert!(right, "other bytes come back");
        }
        self.trouble(ErrorKind::BrokenPipe)?;
        if self.room == 0 {
            (self.told.writable, self.armed.writable) = (false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = self.dice.cut(bytes.len().min(self.room));
        (self.given, self.room, self.moved) = (self.given + n, self.room - n, true);
        Ok(n)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let lingers = matches!(self.wish, Some(Linger));
        assert!(self.our_end.is_none(), "our end is sent twice");
        assert!(lingers || self.owed() == 0, "our end is sent before what is owed");
        if self.peer == Peer::HasReset {
            return Err(ErrorKind::NotConnected.into());
        }
        (self.our_end, self.moved) = (Some(self.taken), true);
        Ok(())
    }

    fn peer(&mut self, action: Action) {
        match (action, &self.peer) {
            (Read(n), _) => {
                let n = n.min(self.given - self.read);
                (self.read, self.room) = (self.read + n, self.room + n);
                self.pending.writable |= n > 0 && self.armed.writable;
            }
            (Reset, _) => (self.peer, self.pending) = (Peer::HasReset, Readiness::ALL),
            (Send(n), Peer::Sends) => {
                self.arrived += n;
                self.pending.readable = true;
            }
            (Urgent | Fin, Peer::Sends) => {
                (self.pending.readable, self.pending.until_would_block) = (true, true);
                match action {
                    Urgent => self.mark = Some(self.arrived),
                    _ => self.peer = Peer::HasEnded,
                }
            }
            _ => {}
        }
    }

    /// What happened since the last poll, and never again. Over poll(2), what holds now, but only
    /// where a would-block has armed it.
    fn poll(&mut self, poll2: bool) -> Option<Readiness> {
        let mut event = std::mem::take(&mut self.pending);
        if poll2 {
            let (sends, reset) = (self.peer == Peer::Sends, self.peer == Peer::HasReset);
            event.readable = self.armed.readable && (self.taken < self.arrived || !sends);
            event.writable = self.armed.writable && (self.room > 0 || reset);
        } else if event.readable && self.dice.one_in(4) {
            // What every real kernel does. Were it done always, it would hide hangs.
            event.writable |= self.room > 0;
        }
        self.armed.readable &= !event.readable;
        self.armed.writable &= !event.writable;
        (event.readable || event.writable).then_some(event)
    }
}

/// With `SHORT`, over epoll(7): a recv is short at the end of the queue and at the mark, and nowhere
/// else. Without it, over poll(2), as mio arms it, and a recv may be short anywhere.
struct Socket<const SHORT: bool>(Rc<RefCell<Kernel>>);

impl<const SHORT: bool> io::Read for Socket<SHORT> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().recv(buf, !SHORT)
    }
}

impl<const SHORT: bool> io::Write for Socket<SHORT> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().send(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        unreachable!("a socket has nothing to flush")
    }
}

impl<const SHORT: bool> Stream for Socket<SHORT> {
    fn short_recv_means_empty(&self) -> bool {
        SHORT
    }

    fn peek(&self, _: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().peek()
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.0.borrow_mut().shutdown_write()
    }
}

/// One connection, and what src/server/connections.rs does with it.
struct Model<const SHORT: bool, P: Shape = Echo> {
    kernel: Rc<RefCell<Kernel>>,
    connection: Option<Connection<Socket<SHORT>, P>>,
    context: Context<P>,
    page: usize,
    queued: bool,
}

impl<const SHORT: bool, P: Shape> Model<SHORT, P> {
    fn new(page: usize, room: usize, seed: u64) -> Self {
        let kernel = Rc::new(RefCell::new(Kernel {
            traffic: P::traffic(),
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            room,
            // To register a socket makes the kernel report what is ready.
            pending: Readiness { writable: true, ..Readiness::default() },
            armed: Readiness::ALL,
            ..Kernel::default()
        }));
        let now = Instant::now();
        let connection = Some(Connection::new(Socket(Rc::clone(&kernel)), now));
        Model {
            kernel,
            connection,
            context: Context::new(P::new(), page, now),
            page,
            queued: false,
        }
    }

    fn kernel(&self) -> RefMut<'_, Kernel> {
        self.kernel.borrow_mut()
    }

    fn act(&mut self, script: &[Action]) {
        for &action in script {
            match action {
                Turn => _ = self.turn(),
                Hint(said) => self.event(said),
                LatchAll | Finish | Linger => self.begin(action),
                Pages(pages) => self.context.pool.set_limit(pages * SYSTEM_PAGE),
                Send(_) | Urgent | Fin | Reset | Read(_) => self.kernel().peer(action),
            }
        }
    }

    /// As src/server/connections.rs does it.
    fn begin(&mut self, action: Action) {
        let Some(connection) = &mut self.connection else { return };
        if matches!(action, LatchAll) {
            connection.latch(Readiness::ALL);
            self.kernel().told = Readiness::ALL;
            self.drive();
            let settled = self.connection.as_ref().is_some_and(Connection::is_settled);
            let kernel = self.kernel();
            assert!(!settled || kernel.taken == kernel.arrived, "settled, and bytes are left");
        } else if !connection.is_lingering() {
            self.kernel.borrow_mut().wish = Some(action);
            if matches!(action, Finish) {
                connection.finish();
            } else if let Err(e) = connection.linger(CloseReason::Idle, &mut self.context) {
                return self.close(Err(e));
            }
            self.drive();
        }
    }

    /// Whether there was anything to do.
    fn turn(&mut self) -> bool {
        let queued = self.queued;
        let event = self.kernel().poll(!SHORT);
        if let Some(said) = event {
            self.event(said);
        }
        if queued {
            self.drive();
        }
        queued || event.is_some()
    }

    fn event(&mut self, said: Readiness) {
        let Some(connection) = &mut self.connection else { return };
        let was_queued = connection.is_runnable();
        assert_eq!(was_queued, self.queued, "the run queue holds those that are runnable");
        connection.latch(said);
        self.kernel().told.readable |= said.readable;
        self.kernel().told.writable |= said.writable;
        if !was_queued {
            self.drive();
        }
    }

    fn drive(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let before = connection.last_moved();
        self.context.now += Duration::from_millis(1);
        self.kernel.borrow_mut().spent = 0;
        self.kernel.borrow_mut().moved = false;
        let driven = connection.drive(&mut self.context);
        let Context { traffic, counters, .. } = &mut self.context;
        counters.bytes_in += traffic.received;
        counters.bytes_out += traffic.sent;
        let blocked = match driven {
            Ok(Progress::Blocked | Progress::Lingering) => true,
            Ok(Progress::Again) => false,
            Err(e) if e.kind() == ErrorKind::OutOfMemory => {
                assert!(self.context.pool.is_short(), "{e}, and none was asked for in vain");
                self.context.pool.end_shortage();
                false
            }
            ended => return self.close(ended.map(drop)),
        };
        let kernel = self.kernel.borrow();
        let (owed, held, in_use) = (kernel.owed(), kernel.held(), self.context.pool.in_use());
        self.queued = connection.is_runnable();
        assert_eq!(self.queued, !blocked, "again means runnable, and blocked means not");
        let has_memory = self.context.pool.limit() == usize::MAX;
        // A call of the protocol after a wait for memory is paid for, and the kernel does not see it.
        let spent = kernel.spent + CALL >= BUDGET;
        assert!(blocked || spent || P::COPIES > 1 || !has_memory, "again, with budget left");
        let most = owed.min(P::COPIES) + held.min(1);
        assert!(in_use <= most, "{in_use} pages for {owed} bytes and {held}");
        let fills = |bytes| usize::from(bytes * SPARSE >= self.page);
        let most = fills(owed) * P::COPIES + fills(held);
        assert!(in_use <= most || !blocked || !has_memory, "a few bytes keep a page");
        assert!(owed == 0 || !connection.is_settled(), "settled, and bytes are owed");
        assert_eq!(connection.is_lingering(), kernel.our_end.is_some());
        if P::COPIES == 1 {
            let counters = &self.context.counters;
            let counted = counters.bytes_in - counters.bytes_out - counters.bytes_unsent;
            assert_eq!(counted, (owed + held) as u64, "the counters add up: {counters}");
        }
        let progress = if kernel.moved { self.context.now } else { before };
        assert_eq!(connection.last_moved(), progress, "progress is when a byte moved");
    }

    fn close(&mut self, why: io::Result<()>) {
        let kernel = self.kernel.borrow();
        if let Err(e) = why {
            assert_eq!(kernel.peer, Peer::HasReset, "{e}");
        } else {
            // To close a socket with unread input makes the kernel send a reset.
            assert!(kernel.end_taken || kernel.discarded() >= DISCARD, "done before the end");
            assert_eq!(kernel.owed(), 0, "done, and bytes are owed");
        }
        self.queued = false;
        self.connection.take().expect("open").close(&mut self.context);
        assert_eq!(self.context.pool.in_use(), 0, "a page is lost");
    }

    /// Turns, before a peer that reads all, until nothing happens any more.
    fn rest(&mut self) {
        let rests = (0..1_000_000).any(|_| {
            self.kernel().peer(Read(usize::MAX));
            !self.turn()
        });
        assert!(rests, "it never comes to rest");
    }

    /// A script, and how every script ends: first without the peer's end, for that is an event, and
    /// would wake a connection that hangs.
    fn run(mut self, script: &[Action]) {
        self.act(script);
        // Memory comes back, which is no event either.
        self.context.pool.set_limit(usize::MAX);
        self.rest();
        if self.connection.is_some() {
            let kernel = self.kernel();
            assert_eq!(kernel.peer, Peer::Sends, "the end is not answered");
            assert_eq!(kernel.taken, kernel.arrived, "bytes are not received");
            assert_eq!(kernel.owed(), 0, "bytes are not sent");
            assert_eq!(kernel.wish.is_some(), kernel.our_end.is_some(), "our end, if wished");
        }
        self.act(&[Fin]);
        self.rest();
        assert!(self.connection.is_none(), "it hangs");
    }

    #[track_caller]
    fn expect(&mut self, script: &[Action], taken_and_given: (usize, usize)) {
        self.act(script);
        let kernel = self.kernel();
        assert_eq!((kernel.taken, kernel.given), taken_and_given);
    }
}

#[test]
fn no_script_of_up_to_seven_actions_breaks_a_promise() {
    const ALPHABET: [Action; 6] = [Turn, Send(1), Send(9), Fin, Urgent, Read(2)];
    for (length, number) in (1..=7).flat_map(|n| (0..6_usize.pow(n)).map(move |i| (n, i))) {
        let letter = |place| ALPHABET[number / 6_usize.pow(place) % 6];
        let script: Vec<Action> = (0..length).map(letter).collect();
        // Over the strict kernel, and over one that plays tricks.
        for seed in [0, number as u64 + 1] {
            let kept = panic::catch_unwind(|| {
                Model::<true>::new(4, 3, seed).run(&script);
                Model::<false>::new(4, 3, seed).run(&script);
                if length <= 6 {
                    Model::<true, Framed<Fixed>>::new(4, 3, seed).run(&script);
                    Model::<true, Framed<Line>>::new(4, 3, seed).run(&script);
                    Model::<true, Framed<Prefix>>::new(4, 3, seed).run(&script);
                    Model::<true, Doubled>::new(4, 3, seed).run(&script);
                }
            });
            assert!(kept.is_ok(), "the script was {script:?}, the seed {seed}");
        }
    }
}

fn any_action() -> impl Strategy<Value = Action> {
    let hint = any::<[bool; 3]>().prop_map(|[readable, writable, until_would_block]| {
        Hint(Readiness { readable, writable, until_would_block })
    });
    prop_oneof![
        16 => Just(Turn),
        6 => (1..=40_usize).prop_map(Send),
        // With a page of 4, every 1024 bytes spend the budget of calls.
        2 => (1..=3000_usize).prop_map(Send),
        4 => Just(Urgent),
        4 => (1..=40_usize).prop_map(Read),
        2 => (1..=3000_usize).prop_map(Read),
        2 => hint,
        2 => (0..=3_usize).prop_map(Pages),
        1 => Just(LatchAll),
        1 => Just(Fin),
        1 => prop_oneof![Just(Reset), Just(Finish), Just(Linger)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn no_long_script_breaks_a_promise(
        page in prop_oneof![Just(4_usize), Just(1024)],
        room in prop_oneof![1..=100_usize, 100..=4000_usize],
        seed in any::<u64>(),
        script in proptest::collection::vec(any_action(), 1..40),
    ) {
        Model::<true>::new(page, room, seed).run(&script);
        Model::<false>::new(page, room, seed).run(&script);
        Model::<true, Framed<Fixed>>::new(page, room, seed).run(&script);
        Model::<false, Framed<Fixed>>::new(page, room, seed).run(&script);
        Model::<true, Framed<Line>>::new(page, room, seed).run(&script);
        Model::<false, Framed<Line>>::new(page, room, seed).run(&script);
        Model::<true, Framed<Prefix>>::new(page, room, seed).run(&script);
        Model::<false, Framed<Prefix>>::new(page, room, seed).run(&script);
        Model::<true, Doubled>::new(page, room, seed).run(&script);
        Model::<false, Doubled>::new(page, room, seed).run(&script);
    }
}

#[test]
fn data_and_end_together_then_a_stalled_reader_still_gets_all_and_the_end() {
    let mut model = Model::<true>::new(4, 3, 0);
    model.expect(&[Send(9), Fin, Turn, Turn, Turn], (4, 3));
    model.expect(&[Read(3), Turn, Read(3), Turn], (9, 9));
    assert!(model.connection.is_none(), "the end is not answered");
}

#[test]
fn bytes_that_wait_behind_back_pressure_need_no_event_of_their_own() {
    let mut model = Model::<true>::new(4, 3, 0);
    model.expect(&[Send(9), Turn, Turn, Turn], (4, 3));
    model.expect(&[Read(3), Turn, Read(3), Turn], (9, 9));
}

#[test]
fn an_urgent_mark_met_long_after_its_event_hides_nothing() {
    let mut model = Model::<true>::new(8, 3, 0);
    model.expect(&[Send(9), Turn, Urgent, Send(3), Turn], (8, 3));
    model.expect(&[Read(3), Turn, Read(3), Turn, Read(3), Turn], (12, 12));
}

#[test]
fn a_firehose_yields_when_its_budget_of_calls_or_of_bytes_is_spent() {
    let mut crumbs = Model::<true>::new(4, MIB, 0);
    crumbs.act(&[Send(2000), Turn]);
    assert!(crumbs.queued && crumbs.kernel().taken == 1024);
    // An event is no second turn.
    crumbs.act(&[Send(100), Turn]);
    assert!(crumbs.queued && crumbs.kernel().taken == 2048);
    crumbs.expect(&[Turn], (2100, 2100));

    let mut bulk = Model::<true>::new(LARGEST_PAGE, 4 * MIB, 0);
    bulk.act(&[Send(MIB + 9), Turn]);
    assert!(bulk.queued && bulk.kernel().taken == MIB);
    bulk.expect(&[Turn], (MIB + 9, MIB + 9));
}

#[test]
fn a_short_recv_spares_the_next_one_over_epoll_only() {
    let mut epoll = Model::<true>::new(64, 64, 0);
    epoll.expect(&[Send(9), Turn], (9, 9));
    assert_eq!(epoll.kernel().spent, CALL);
    // The mark is passed, and forgotten.
    epoll.expect(&[Urgent, Turn, Read(9), Send(9), Turn], (18, 18));
    assert_eq!(epoll.kernel().spent, CALL);

    let mut poll = Model::<false>::new(64, 64, 0);
    poll.expect(&[Send(9), Turn], (9, 9));
    assert_eq!(poll.kernel().spent, 2 * CALL);
}

#[test]
fn without_memory_nothing_is_received_or_lost_and_no_event_is_needed_when_it_is_back() {
    let mut model = Model::<true>::new(1024, 100, 0);
    model.expect(&[Turn, Pages(0), Send(2000), Turn, Turn], (0, 0));
    assert!(model.queued, "its readiness stays latched");
    model.expect(&[Pages(1), Turn, Read(100), Turn], (1024, 200));

    // The answer has no memory. Its input waits.
    let mut doubled = Model::<true, Doubled>::new(64, 100, 0);
    doubled.expect(&[Turn, Pages(1), Send(8), Turn], (8, 0));
    doubled.expect(&[Pages(2), Turn], (8, 16));
}

#[test]
fn the_end_and_a_reset_of_the_peer_are_seen_without_memory() {
    for last in [Fin, Reset] {
        let mut half = Model::<true, Framed<Line>>::new(64, 100, 0);
        half.act(&[Turn, Pages(0), last, Turn, Turn]);
        assert!(half.connection.is_none(), "it waits for memory behind {last:?}");
    }
}

#[test]
fn an_end_needs_no_memory() {
    let mut model = Model::<true>::new(64, 100, 0);
    model.act(&[Turn, Pages(0), Send(9), Turn, Finish, Fin, Turn]);
    assert!(model.connection.is_none(), "it waits for memory");
}

#[test]
fn finish_sends_the_end_as_soon_as_nothing_is_owed() {
    let mut idle = Model::<true>::new(64, 64, 0);
    idle.expect(&[Turn, Finish], (0, 0));
    assert_eq!(idle.kernel().our_end, Some(0));

    let mut owes = Model::<true>::new(8, 3, 0);
    owes.expect(&[Send(9), Turn, Finish, Read(3), Turn], (8, 6));
    assert_eq!(owes.kernel().our_end, None);
    // The ninth byte was not taken in time, and is discarded.
    owes.expect(&[Read(3), Turn], (9, 8));
    assert_eq!(owes.kernel().our_end, Some(8));
}

#[test]
fn a_lingering_connection_that_is_sent_too_much_is_cut_off() {
    let mut model = Model::<true>::new(1024, 64, 0);
    model.act(&[Turn, Linger, Send(DISCARD - 1)]);
    model.rest();
    assert!(model.connection.is_some(), "cut off too early");
    model.expect(&[Send(2000), Turn], (DISCARD - 1 + 2000, 0));
    assert!(model.connection.is_none(), "not cut off");
}

#[test]
fn who_waits_for_nothing_or_for_little_holds_no_page() {
    let mut model = Model::<true>::new(1024, 100, 0);
    model.expect(&[Turn, Send(100), Turn], (100, 100));
    assert_eq!(model.context.pool.in_use(), 0);
    model.expect(&[Send(63), Turn], (163, 100));
    assert_eq!(model.context.pool.in_use(), 0);
    model.expect(&[Send(64), Read(63), Turn], (227, 163));
    assert_eq!(model.context.pool.in_use(), 1);
}

#[test]
fn an_event_without_a_reason_changes_nothing() {
    let mut model = Model::<true>::new(4, 3, 0);
    model.expect(&[Turn, Hint(Readiness::ALL), Hint(Readiness::ALL)], (0, 0));
    model.expect(&[Send(9), Turn, Hint(Readiness::ALL), Hint(Readiness::ALL)], (4, 3));
    model.run(&[]);
}

#[test]
fn the_start_of_a_message_is_held_back_in_memory_of_its_own_size() {
    let mut model = Model::<true, Framed<Fixed>>::new(1024, 100, 0);
    model.expect(&[Send(4), Turn], (4, 3));
    assert_eq!(model.context.pool.in_use(), 0);
    assert_eq!(model.kernel().held(), 1);
    model.expect(&[Send(1), Turn], (5, 3));
    model.expect(&[Send(1), Turn], (6, 6));
}

#[test]
fn half_a_message_is_owed_to_nobody_and_counted_as_unsent() {
    let mut model = Model::<true, Framed<Fixed>>::new(64, 64, 0);
    model.expect(&[Send(5), Turn, Fin, Turn], (5, 3));
    assert!(model.connection.is_none(), "the end is not answered");
    assert_eq!(model.context.counters.bytes_unsent, 2);

    let mut drained = Model::<true, Framed<Fixed>>::new(64, 64, 0);
    drained.expect(&[Send(5), Turn, Finish], (5, 3));
    assert_eq!(drained.kernel().our_end, Some(5));
}

#[test]
fn a_reader_that_stalls_behind_its_own_end_is_not_waited_for() {
    let held = |n: &usize| n - Framed::<Line>::traffic().whole(*n);
    let n = (1..1000).find(|n| held(n) == 2).expect("a line of two letters");
    let mut model = Model::<true, Framed<Line>>::new(64, n - 1, 0);
    model.expect(&[Send(n), Fin, Turn], (n, n - 1));
    assert!(model.connection.is_some(), "a byte is owed");
    model.act(&[Linger]);
    assert!(model.connection.is_none(), "nothing more can arrive");
}

#[test]
fn answers_without_room_for_all_are_given_in_parts_and_finished_before_the_end() {
    let mut model = Model::<true, Doubled>::new(8, 3, 0);
    model.expect(&[Send(8), Turn], (8, 3));
    model.act(&[Finish, Read(3), Turn, Read(3), Turn, Read(3), Turn, Read(3), Turn]);
    assert_eq!(model.kernel().given, 15);
    assert_eq!(model.kernel().our_end, None);
    model.expect(&[Read(3), Turn], (8, 16));
    assert_eq!(model.kernel().our_end, Some(8));
}
