//! The load tester's client over a model of its kernel and of its server: a socket that says as little
//! as an edge-triggered kernel may say, and checks every call. What real sockets do once in a million
//! connections is one short script here.
#![cfg(feature = "load")]

use std::cell::{RefCell, RefMut};
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::panic;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use Action::{Close, Due, Echo, Hint, Stop, Surplus, Take, Turn};
use echoloop::load::client::{Client, ConnectingStream};
use echoloop::load::clock::Nanos;
use echoloop::load::messages::{
    ClientOptions, Context, Driven, Failure, InFlight, Load, Next, Progress,
};
use echoloop::load::noise::Noise;
use echoloop::load::payload::Payload;
use echoloop::load::shape::Shape;
use echoloop::net::nonblocking::Stream;
use echoloop::net::ready::Readiness;
use proptest::prelude::*;

/// What `src/load/messages.rs` promises, under the same name.
const CHUNK: usize = 262_144;

const SEED: u64 = 5;
const MIB: usize = 1024 * 1024;

/// Most messages of a script.
const MESSAGES: usize = 200;

/// It takes longer to make than any script to run.
static NOISE: LazyLock<Arc<Noise>> = LazyLock::new(|| Arc::new(Noise::new(SEED)));

/// What the client has to send: its bytes, and the offsets at which its messages begin.
#[derive(Default)]
struct Script {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Script {
    fn new(payload: &Payload, setup: &Setup) -> Script {
        let most = usize::try_from(setup.lengths.1).expect("small") * MESSAGES;
        let mut bytes = vec![0; most.clamp(4096, 4 * MIB)];
        payload.fill(payload.start(0), &mut bytes);
        let mut starts = vec![0];
        let mut end = 0;
        while end < bytes.len() {
            end += usize::try_from(payload.length(&payload.start(0), starts.len() as u64 - 1))
                .expect("small");
            starts.push(end);
        }
        Script { bytes, starts }
    }

    /// Number of messages that begin before this offset.
    fn begun(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start < offset)
    }

    /// Number of messages that end at this offset or before.
    fn whole(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset) - 1
    }
}

/// What a script is made of: what the server does, what the load does, and what the loop does.
#[derive(Debug, Clone, Copy)]
enum Action {
    /// The server receives up to this much of what is there.
    Take(usize),
    /// It gives back up to this much of what it has.
    Echo(usize),
    /// It gives back a byte that it never got.
    Surplus,
    /// It ends the connection, whatever it owes.
    Close,
    /// So many more messages are due.
    Due(u64),
    /// No more will ever be.
    Stop,
    /// One turn of the loop.
    Turn,
    /// An event without a reason.
    Hint(Readiness),
}

#[derive(Debug, Clone, Copy)]
struct Setup {
    framing: &'static str,
    /// The smallest and the largest message.
    lengths: (u64, u64),
    options: ClientOptions,
    /// What the kernel holds of what the client sends, the server of what it got, and the kernel of
    /// what the server sends.
    room: usize,
    hold: usize,
    window: usize,
    /// The byte that comes back wrong.
    flip: Option<usize>,
    seed: u64,
}

const fn options(pipeline: usize, half_close: bool) -> ClientOptions {
    ClientOptions { pipeline, half_close }
}

impl Setup {
    fn payload(&self) -> Payload {
        let kind = self.framing.parse().expect("a framing");
        let shape = Shape::new(kind, Some(self.lengths.0..=self.lengths.1));
        Payload::new(Arc::clone(&NOISE), shape.expect("a shape"))
    }
}

/// Messages of three bytes through pipes of four.
const NARROW: Setup = Setup {
    framing: "raw",
    lengths: (3, 3),
    options: options(2, false),
    room: 4,
    hold: 4,
    window: 4,
    flip: None,
    seed: 0,
};

impl Default for Setup {
    fn default() -> Setup {
        NARROW
    }
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

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct World {
    setup: Setup,
    script: Rc<Script>,
    dice: Dice,
    clock: Nanos,
    /// When bytes last came.
    moved: Nanos,
    /// Polls until the connection stands, or is refused.
    connects_in: u64,
    refused: Option<ErrorKind>,
    /// How far in the stream: what was sent, what the server got of it, what it gave back, and what
    /// was received.
    sent: usize,
    got: usize,
    given: usize,
    taken: usize,
    our_end: bool,
    /// The server's end, and whether it came before its time.
    its_end: bool,
    early: bool,
    end_taken: bool,
    /// Edges since the last poll.
    pending: Readiness,
    /// Would-blocks since the last event: without one, room is no edge, and poll(2) is deaf.
    armed: Readiness,
    /// Events since the last would-block: without one, a call is a spin.
    told: Readiness,
    /// Calls in this drive.
    recvs: usize,
    sends: usize,
    /// The load.
    due: usize,
    stopped: bool,
    said_never: bool,
    stands: bool,
    /// When the first byte of each message left.
    messages: Vec<Option<Nanos>>,
    /// The only message was taken on with the connect, which is part of its time.
    for_one: bool,
    echoed: usize,
    /// Number of bytes that the load was told of, where the lengths vary.
    counted: usize,
}

impl World {
    /// Number of bytes of the messages that were taken on.
    fn started(&self) -> usize {
        self.script.starts[self.messages.len()]
    }

    fn interrupted(&mut self) -> io::Result<()> {
        if self.dice.one_in(8) { Err(ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    fn recv(&mut self, buf: &mut [u8], cuts: bool) -> io::Result<usize> {
        assert!(self.stands, "recv before the connection stands");
        assert!(self.told.readable, "recv after a would-block, and no event");
        assert!(!self.end_taken, "recv after the end");
        assert_eq!(self.recvs, 0, "a second recv in one drive");
        self.interrupted()?;
        self.recvs += 1;
        let mut n = buf.len().min(self.given - self.taken);
        if cuts && n > 0 {
            n = self.dice.cut(n);
        }
        if n == 0 && !self.its_end {
            (self.told.readable, self.armed.readable) = (false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        self.end_taken = n == 0;
        buf[..n].copy_from_slice(&self.script.bytes[self.taken..][..n]);
        if let Some(at) = self.setup.flip.and_then(|flip| flip.checked_sub(self.taken))
            && at < n
        {
            buf[at] ^= 1;
        }
        self.taken += n;
        Ok(n)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.stands, "send before the connection stands");
        assert!(self.told.writable, "send after a would-block, and no event");
        assert!(!self.our_end, "send after our end");
        assert_eq!(self.sends, 0, "a second send in one drive");
        let owed = self.started() - self.sent;
        assert_eq!(bytes.len(), owed.min(CHUNK), "what is owed is offered, in one call");
        assert!(bytes == &self.script.bytes[self.sent..][..bytes.len()], "other bytes are sent");
        self.interrupted()?;
        self.sends += 1;
        let room = self.setup.room - (self.sent - self.got);
        if room == 0 {
            (self.told.writable, self.armed.writable) = (false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = self.dice.cut(bytes.len().min(room));
        let first = self.script.begun(self.sent);
        let last = self.script.begun(self.sent + n);
        for message in &mut self.messages[first..last] {
            *message = Some(self.clock);
        }
        self.sent += n;
        Ok(n)
    }

    fn shutdown_write(&mut self) {
        assert!(self.setup.options.half_close, "a half-close that was not asked for");
        assert!(!self.our_end, "our end is sent twice");
        assert!(self.said_never, "our end is sent before the last message");
        assert_eq!(self.sent, self.started(), "our end is sent too early");
        self.our_end = true;
        self.settle();
    }

    /// A server that has given back all there will ever be ends its direction too.
    fn settle(&mut self) {
        if self.our_end && self.given == self.sent && !self.its_end {
            self.end();
        }
    }

    fn end(&mut self) {
        (self.its_end, self.pending.readable, self.pending.until_would_block) = (true, true, true);
    }

    /// What the server and the load do. Whether that changed anything.
    fn act(&mut self, action: Action) -> bool {
        let before = (self.got, self.given, self.its_end, self.due, self.stopped);
        match action {
            Take(n) if !self.its_end => {
                let fits = self.setup.hold - (self.got - self.given);
                self.got += n.min(self.sent - self.got).min(fits);
                self.pending.writable |= self.got > before.0 && self.armed.writable;
            }
            Echo(n) if !self.its_end => {
                let fits = self.setup.window.saturating_sub(self.given - self.taken);
                self.given += n.min(self.got - self.given).min(fits);
                self.pending.readable |= self.given > before.1;
                self.settle();
            }
            Surplus if !self.its_end && self.stands => {
                (self.got, self.sent) = (self.got + 1, self.sent + 1);
                (self.given, self.pending.readable) = (self.given + 1, true);
            }
            Close if !self.its_end && self.stands => {
                self.early = true;
                self.end();
            }
            Due(n) if !self.stopped => self.due += usize::try_from(n).expect("small"),
            Stop => self.stopped = true,
            _ => {}
        }
        before != (self.got, self.given, self.its_end, self.due, self.stopped)
    }

    /// What happened since the last poll, and never again. Over poll(2), what holds now, but only
    /// where a would-block has armed it.
    fn poll(&mut self, poll2: bool) -> Option<Readiness> {
        if self.connects_in > 0 {
            self.connects_in -= 1;
            self.pending.writable = self.connects_in == 0;
            if self.connects_in > 0 {
                return self.dice.one_in(2).then_some(Readiness::ALL);
            }
        }
        let mut event = std::mem::take(&mut self.pending);
        let room = self.setup.room > self.sent - self.got;
        if poll2 {
            event.readable = self.armed.readable && (self.taken < self.given || self.its_end);
            event.writable = self.armed.writable && room;
        } else if event.readable && self.dice.one_in(4) {
            // What every real kernel does. Were it done always, it would hide hangs.
            event.writable |= room;
        }
        self.armed.readable &= !event.readable;
        self.armed.writable &= !event.writable;
        (event.readable || event.writable).then_some(event)
    }
}

/// The load as the client sees it.
struct Meter(Rc<RefCell<World>>);

impl Load for Meter {
    fn next(&mut self, slot: usize, now: Nanos) -> Next {
        let mut world = self.0.borrow_mut();
        assert_eq!(now, world.clock);
        let in_flight = world.messages.len() - world.echoed;
        assert_eq!(slot, 3);
        assert!(world.stands, "a message before the connection stands");
        assert!(!world.said_never, "asked again after never");
        assert!(
            in_flight < world.setup.options.pipeline,
            "more is taken on than the pipeline holds"
        );
        if world.messages.len() < world.due {
            world.messages.push(None);
            return Next::Due(world.messages.len() as Nanos);
        }
        world.said_never = world.stopped;
        if world.stopped { Next::Never } else { Next::NotYet }
    }

    fn is_over(&self, _: usize, _: Nanos) -> bool {
        let mut world = self.0.borrow_mut();
        world.said_never = world.stopped && world.messages.len() >= world.due;
        world.said_never
    }

    fn connected(&mut self, slot: usize, begun: Nanos, now: Nanos) {
        let mut world = self.0.borrow_mut();
        assert_eq!((slot, begun, now), (3, 0, world.clock));
        assert!(!world.stands, "it stands twice");
        world.stands = true;
    }

    fn echoed(&mut self, message: InFlight, now: Nanos) {
        let mut world = self.0.borrow_mut();
        world.echoed += 1;
        assert_eq!(message.due, world.echoed as Nanos, "not the message that is back");
        assert_eq!(now, world.clock);
        let end = world.script.starts[world.echoed];
        assert!(end <= world.taken, "reported before it is back");
        let left = world.messages[world.echoed - 1];
        assert_eq!(Some(message.sent), left, "not when its first byte left");
    }

    fn received(&mut self, bytes: usize, _: Nanos) {
        self.0.borrow_mut().counted += bytes;
    }

    fn now(&self) -> Nanos {
        let mut world = self.0.borrow_mut();
        // It is asked when the connection stands, and when bytes have come.
        world.clock += 1;
        world.moved = world.clock;
        world.clock
    }
}

/// With `SHORT`, over epoll(7): a recv is short at the end of the queue and nowhere else. Without it,
/// over poll(2), as mio arms it, and a recv may be short anywhere.
struct Socket<const SHORT: bool>(Rc<RefCell<World>>);

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

    fn shutdown_write(&self) -> io::Result<()> {
        self.0.borrow_mut().shutdown_write();
        Ok(())
    }
}

impl<const SHORT: bool> ConnectingStream for Socket<SHORT> {
    fn is_connected(&self) -> io::Result<bool> {
        let world = self.0.borrow();
        assert!(!world.stands, "asked again whether it stands");
        match world.connects_in {
            0 => world.refused.map_or(Ok(true), |kind| Err(kind.into())),
            _ => Ok(false),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Refused,
    Done,
    Lost,
    /// At this offset.
    Corrupt(u64),
}

/// One client, and what the loop does with it.
struct Model<const SHORT: bool> {
    world: Rc<RefCell<World>>,
    context: Rc<RefCell<Context>>,
    client: Client<Socket<SHORT>>,
    queued: bool,
    outcome: Option<Outcome>,
}

thread_local! {
    /// The last of them, with the framing and the lengths that they are of.
    static LAST: RefCell<Option<Made>> = const { RefCell::new(None) };
}

struct Made(&'static str, (u64, u64), Rc<Script>, Rc<RefCell<Context>>);

/// What the clients of this setup send. Many setups in a row send the same.
fn make(setup: &Setup) -> (Rc<Script>, Rc<RefCell<Context>>) {
    LAST.with_borrow_mut(|last| {
        let made = last.take().filter(|made| (made.0, made.1) == (setup.framing, setup.lengths));
        let Made(_, _, script, context) = last.insert(made.unwrap_or_else(|| {
            let payload = setup.payload();
            let script = Rc::new(Script::new(&payload, setup));
            let context = Rc::new(RefCell::new(Context::new(payload, setup.options)));
            Made(setup.framing, setup.lengths, script, context)
        }));
        context.borrow_mut().options = setup.options;
        (Rc::clone(script), Rc::clone(context))
    })
}

impl<const SHORT: bool> Model<SHORT> {
    fn new(setup: Setup) -> Self {
        let (script, context) = make(&setup);
        let world = Rc::new(RefCell::new(World {
            setup,
            script,
            dice: Dice(setup.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            connects_in: 1 + setup.seed % 3,
            armed: Readiness::ALL,
            ..World::default()
        }));
        let socket = Socket(Rc::clone(&world));
        let client = Client::new(socket, 3, context.borrow().payload.start(0), 0);
        Model { world, context, client, queued: false, outcome: None }
    }

    fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    fn is_runnable(&self) -> bool {
        self.client.is_runnable()
    }

    fn act(&mut self, script: &[Action]) {
        for &action in script {
            match action {
                Turn => _ = self.turn(),
                Hint(said) => self.event(said),
                Due(_) | Stop => {
                    self.world().act(action);
                    if !self.client.is_connecting() && !self.is_runnable() {
                        self.drive();
                    }
                }
                Take(_) | Echo(_) | Surplus | Close => _ = self.world().act(action),
            }
        }
    }

    /// Whether there was anything to do.
    fn turn(&mut self) -> bool {
        let queued = self.queued;
        let connects = self.world().connects_in > 0;
        let event = self.world().poll(!SHORT);
        if let Some(said) = event {
            self.event(said);
        }
        if queued {
            self.drive();
        }
        queued || connects || event.is_some()
    }

    fn event(&mut self, said: Readiness) {
        let was_queued = self.is_runnable();
        if self.outcome.is_some() {
            return;
        }
        assert_eq!(was_queued, self.queued, "the run queue holds those that are runnable");
        self.client.latch(said);
        self.world().told.readable |= said.readable;
        self.world().told.writable |= said.writable;
        if !was_queued {
            self.drive();
        }
    }

    #[expect(clippy::too_many_lines, reason = "every promise is checked after every drive")]
    fn drive(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        let mut world = self.world.borrow_mut();
        (world.clock, world.recvs, world.sends) = (world.clock + 1, 0, 0);
        let now = world.clock;
        drop(world);
        let mut meter = Meter(Rc::clone(&self.world));
        let progress = self.client.drive(&mut self.context.borrow_mut(), &mut meter, now);
        let blocked = match progress {
            Ok(Progress::Blocked) => true,
            Ok(Progress::Again) => false,
            Ok(Progress::Done) => return self.close(Outcome::Done),
            Err(Failure::Lost(e)) => {
                let cause = self.world().refused.unwrap_or(ErrorKind::UnexpectedEof);
                assert_eq!(e.kind(), cause);
                return self.close(Outcome::Lost);
            }
            Err(Failure::Corrupt(got)) => {
                let offset = (self.world().taken - got.len()) as u64;
                assert_eq!(self.client.received().offset(), offset);
                return self.close(Outcome::Corrupt(offset));
            }
            Err(Failure::Connect(e)) => {
                assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
                return self.close(Outcome::Refused);
            }
        };
        self.queued = self.is_runnable();
        assert_eq!(self.queued, !blocked, "again means runnable, and blocked means not");
        let world = self.world.borrow();
        assert_eq!(self.client.is_connecting(), !world.stands);
        assert_eq!(self.client.echoed(), world.echoed as u64);
        assert_eq!(world.echoed, world.script.whole(world.taken), "back, and not reported");
        let may = world.setup.options.pipeline.min(world.due - world.echoed);
        let may = if world.stands || world.for_one { may } else { 0 };
        assert_eq!(world.messages.len() - world.echoed, may, "in flight");
        let all_sent = world.sent == world.started();
        let ends = world.setup.options.half_close && world.said_never && all_sent;
        assert_eq!(world.our_end, ends, "our end is right behind the last byte");
        let varies = world.setup.lengths.0 < world.setup.lengths.1;
        assert_eq!(world.counted, if varies { world.taken } else { 0 }, "counted bytes");
        let since = match world.messages.get(world.echoed) {
            _ if !world.stands => Some(0),
            Some(left) => left.or(self.client.waiting_since()),
            None => world.our_end.then_some(world.moved),
        };
        assert_eq!(self.client.waiting_since(), since, "waits since");
    }

    fn close(&mut self, outcome: Outcome) {
        let world = self.world.borrow();
        match outcome {
            Outcome::Done => {
                assert!(world.said_never, "done before the last message");
                assert_eq!(world.echoed, world.messages.len(), "done, and messages are not back");
                assert_eq!(world.taken, world.sent, "done, and bytes are left");
                assert_eq!(world.echoed, world.due, "done, and messages are due");
                let half_close = world.setup.options.half_close;
                assert!(!half_close || world.end_taken, "done before the end");
                assert!(!half_close || world.our_end || world.early, "done without our end");
            }
            Outcome::Lost => assert!(world.early, "lost, and the server did not close"),
            Outcome::Refused => assert!(world.refused.is_some() && !world.stands, "it could stand"),
            Outcome::Corrupt(_) => {}
        }
        drop(world);
        self.queued = false;
        self.outcome = Some(outcome);
    }

    /// Turns, before a server that does its work, until nothing happens any more.
    fn rest(&mut self) {
        let rests = (0..1_000_000).any(|_| {
            let served = [Take(usize::MAX), Echo(usize::MAX)].map(|a| self.world().act(a));
            !self.turn() && served == [false; 2]
        });
        assert!(rests, "it never comes to rest");
    }

    /// A script, and how every script ends: all that is due is back, and then the load ends.
    fn run(mut self, script: &[Action]) -> Outcome {
        self.act(script);
        self.rest();
        if self.outcome.is_none() {
            let world = self.world();
            assert_eq!(world.echoed, world.due, "messages are not back");
            assert!(!world.stopped, "it hangs at the end");
        }
        self.act(&[Stop]);
        self.rest();
        self.outcome.expect("it hangs")
    }
}

/// Over both kernels.
fn run(setup: Setup, script: &[Action]) -> Outcome {
    let outcome = Model::<true>::new(setup).run(script);
    assert_eq!(Model::<false>::new(setup).run(script), outcome);
    outcome
}

#[test]
fn no_script_of_up_to_seven_actions_breaks_a_promise() {
    const ALPHABET: [Action; 6] = [Turn, Due(1), Take(2), Echo(3), Stop, Close];
    for (length, number) in (1..=7).flat_map(|n| (0..6_usize.pow(n)).map(move |i| (n, i))) {
        let letter = |place| ALPHABET[number / 6_usize.pow(place) % 6];
        let script: Vec<Action> = (0..length).map(letter).collect();
        // Over the strict kernel, and over one that plays tricks.
        for (seed, half_close) in [0, number as u64 + 1].into_iter().zip([true, false]) {
            for half_close in [half_close, !half_close] {
                let setup = Setup { options: options(2, half_close), seed, ..NARROW };
                let kept = panic::catch_unwind(|| {
                    Model::<true>::new(setup).run(&script);
                    Model::<false>::new(setup).run(&script);
                });
                assert!(kept.is_ok(), "the script was {script:?}, the setup {setup:?}");
            }
        }
    }
}

fn any_action() -> impl Strategy<Value = Action> {
    let hint = any::<[bool; 3]>().prop_map(|[readable, writable, until_would_block]| {
        Hint(Readiness { readable, writable, until_would_block })
    });
    prop_oneof![
        12 => Just(Turn),
        6 => (1..=4_u64).prop_map(Due),
        6 => (1..=100_usize).prop_map(Take),
        6 => (1..=100_usize).prop_map(Echo),
        2 => hint,
        1 => Just(Stop),
    ]
}

/// Messages and pipes of about the same size, of one length or of several.
fn any_setup() -> impl Strategy<Value = Setup> {
    const FRAMINGS: [&str; 5] = ["raw", "line", "length:ascii5", "length:u16", "length:u32"];
    let pipes = prop_oneof![Just((7..=9_u64, 1..=10_usize)), Just((50..=5000, 100..=20_000))];
    let alike = |(length, pipe): (RangeInclusive<u64>, RangeInclusive<usize>)| {
        (length.clone(), length, pipe.clone(), pipe.clone(), pipe)
    };
    let short = (1..=7_u64, 1..=7_u64, 1..=10_usize, 1..=10_usize, 1..=10_usize);
    let raw = (Just("raw"), short, any::<bool>());
    let framed = (prop::sample::select(&FRAMINGS[..]), pipes.prop_flat_map(alike), any::<bool>());
    let sizes = prop_oneof![raw, framed];
    (sizes, 1..=5_usize, any::<bool>(), any::<u64>()).prop_map(|(sizes, pipeline, end, seed)| {
        let (framing, (one, other, room, hold, window), is_fixed) = sizes;
        let lengths = (one.min(other), if is_fixed { one.min(other) } else { one.max(other) });
        let options = options(pipeline, end);
        Setup { framing, lengths, options, room, hold, window, flip: None, seed }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn no_long_script_breaks_a_promise(
        setup in any_setup(),
        script in proptest::collection::vec(any_action(), 1..40),
    ) {
        prop_assert_eq!(run(setup, &script), Outcome::Done);
    }

    #[test]
    fn one_flipped_bit_is_corrupt_at_its_offset_and_nowhere_else(
        setup in any_setup(),
        at in 0.0..1.0_f64,
        messages in 1..=20_u64,
        script in proptest::collection::vec(any_action(), 1..20),
    ) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let flip = (at * make(&setup).0.starts[messages as usize] as f64) as usize;
        let setup = Setup { flip: Some(flip), ..setup };
        let script = [&[Due(messages)], &script[..]].concat();
        prop_assert_eq!(run(setup, &script), Outcome::Corrupt(flip as u64));
    }
}

#[test]
fn a_message_larger_than_all_the_buffers_on_its_way_comes_back() {
    for half_close in [false, true] {
        let narrow =
            Setup { lengths: (300_000, 300_000), options: options(1, half_close), ..NARROW };
        let narrow = Setup { room: 1000, hold: 100, window: 1000, ..narrow };
        assert_eq!(run(narrow, &[Due(2)]), Outcome::Done);
        let wide = Setup {
            lengths: (MIB as u64, MIB as u64),
            options: options(3, half_close),
            seed: 1,
            ..NARROW
        };
        let wide = Setup { room: 100_000, hold: 65_536, window: 100_000, ..wide };
        assert_eq!(run(wide, &[Due(3)]), Outcome::Done);
    }
}

#[test]
fn an_end_before_all_is_back_is_lost_and_one_behind_it_is_not() {
    for half_close in [false, true] {
        let setup = Setup { options: options(2, half_close), ..NARROW };
        let served = [Take(9), Echo(9), Turn];
        let owes = [&[Turn, Due(2)], &served[..], &[Close, Turn]].concat();
        assert_eq!(run(setup, &owes), Outcome::Lost);
        let idle = [&[Turn, Due(1)], &served[..], &[Close, Turn]].concat();
        assert_eq!(run(setup, &idle), Outcome::Lost);
        // The last bytes and the end together.
        let last = [Turn, Due(1), Stop, Take(9), Echo(9), Close];
        assert_eq!(run(setup, &last), Outcome::Done);
    }
}

#[test]
fn a_byte_that_was_never_sent_is_corrupt_even_if_it_would_be_the_next() {
    for half_close in [false, true] {
        let setup = Setup { options: options(2, half_close), ..NARROW };
        assert_eq!(run(setup, &[Turn, Surplus]), Outcome::Corrupt(0));
        let script = [Turn, Due(1), Take(9), Echo(9), Surplus];
        assert_eq!(run(setup, &script), Outcome::Corrupt(3));
    }
    // Behind the last message, before a would-block has shown that there is nothing.
    let script = [Turn, Due(1), Stop, Take(9), Echo(9), Turn, Surplus, Turn];
    assert_eq!(Model::<false>::new(NARROW).run(&script), Outcome::Corrupt(3));
}

#[test]
fn a_refused_connection_has_failed_to_connect_and_takes_on_nothing() {
    for seed in 0..3 {
        let model = Model::<true>::new(Setup { seed, ..NARROW });
        model.world().refused = Some(ErrorKind::ConnectionRefused);
        assert_eq!(model.run(&[Due(5)]), Outcome::Refused);
    }
}

#[test]
fn a_connection_that_was_reset_before_anybody_looked_did_stand_and_is_lost() {
    for seed in 0..3 {
        let model = Model::<true>::new(Setup { seed, ..NARROW });
        model.world().refused = Some(ErrorKind::ConnectionReset);
        model.world().early = true;
        assert_eq!(model.run(&[Due(5)]), Outcome::Lost);
    }
}

#[test]
fn a_connection_for_one_message_sends_it_and_ends() {
    for (half_close, seed) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
        let setup = Setup { lengths: (9, 9), options: options(1, half_close), seed, ..NARROW };
        let mut model = Model::<true>::new(setup);
        let payload = setup.payload();
        let socket = Socket(Rc::clone(&model.world));
        model.client = Client::new(socket, 3, payload.start(0), 0).with_first(1, true, &payload);
        {
            let mut world = model.world();
            world.messages.push(None);
            world.for_one = true;
            (world.due, world.stopped, world.said_never) = (1, true, true);
        }
        model.rest();
        assert_eq!(model.outcome, Some(Outcome::Done));
    }
}

#[test]
fn a_connection_for_several_messages_has_the_first_with_its_connect() {
    for (half_close, seed) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
        let setup = Setup { options: options(2, half_close), seed, ..NARROW };
        let mut model = Model::<true>::new(setup);
        let payload = setup.payload();
        let socket = Socket(Rc::clone(&model.world));
        model.client = Client::new(socket, 3, payload.start(0), 0).with_first(1, false, &payload);
        {
            let mut world = model.world();
            world.messages.push(None);
            (world.due, world.for_one) = (1, true);
        }
        model.rest();
        assert_eq!(model.outcome, None, "others may follow");
        assert_eq!(model.world().echoed, 1);
        model.act(&[Due(2)]);
        model.rest();
        model.act(&[Stop]);
        model.rest();
        assert_eq!(model.world().echoed, 3);
        assert_eq!(model.outcome, Some(Outcome::Done));
    }
}

#[test]
fn our_end_does_not_wait_for_room_in_the_pipeline() {
    for pipeline in [1, 2, 3] {
        let setup = Setup { lengths: (1, 1), options: options(pipeline, true), ..NARROW };
        let mut model = Model::<true>::new(setup);
        model.act(&[Turn, Due(pipeline as u64), Stop, Turn, Turn, Turn]);
        assert!(model.world().our_end, "{pipeline} in flight");
        let mut model = Model::<true>::new(setup);
        model.act(&[Due(pipeline as u64), Stop, Turn, Turn, Turn, Turn]);
        assert!(model.world().our_end, "{pipeline} in flight");
    }
}

#[test]
fn a_short_recv_spares_the_next_one_over_epoll_only() {
    fn recvs_after_an_echo<const SHORT: bool>() -> bool {
        let mut model = Model::<SHORT>::new(NARROW);
        model.act(&[Turn, Turn, Due(1), Turn, Take(9), Echo(9), Turn]);
        assert_eq!(model.world().echoed, 1);
        model.queued
    }
    assert!(!recvs_after_an_echo::<true>());
    assert!(recvs_after_an_echo::<false>());
}
