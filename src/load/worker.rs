//! One loop of the load: a poll, a slab of clients, and its share of the messages.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Poll, Token};
use slab::Slab;

use crate::deadline::{Deadlines, after};
use crate::guest::{Guest, Wish};
use crate::load::alarm::Alarm;
use crate::load::client::{Client, Failure, Load, Manner, Nanos, Next, Progress, Tools};
use crate::load::dial::Dialer;
use crate::load::payload::{Fault, Payload};
use crate::load::share::Share;
use crate::load::tally::{Corruption, Latencies, Tally, cause};
use crate::load::usage::Usage;
use crate::load::{Meeting, Plan};
use crate::ready::{self, Readiness};

pub(crate) const WAKER: Token = Token(usize::MAX - 1);
const ALARM: Token = Token(usize::MAX - 2);
const GUEST: Token = Token(usize::MAX - 3);

const EVENTS: usize = 1024;

/// Connects under way at once in a loop: more would overflow the server's backlog, and each one that
/// is dropped there waits a second for its next try.
const CONNECTING: usize = 128;

/// How often a slot that connected to itself tries again.
const TRIES: usize = 10;

/// After the end, how long a message may take to come back when there is no timeout.
const GRACE: Duration = Duration::from_secs(10);

/// What one loop has measured so far.
pub(crate) struct Sample {
    pub(crate) thread: usize,
    /// How many intervals have gone by; after the last message, all there will ever be.
    pub(crate) number: u32,
    pub(crate) elapsed: Duration,
    pub(crate) echoed: u64,
    pub(crate) latency: Latencies,
    pub(crate) up: usize,
    pub(crate) errors: u64,
}

/// What one loop has measured.
pub(crate) struct Done {
    pub(crate) tally: Tally,
    pub(crate) elapsed: Duration,
    pub(crate) usage: Usage,
}

/// The place of one connection, or with `reconnect` of one after the other.
#[derive(Debug, Clone, Copy)]
struct Slot {
    stage: Stage,
    /// Connects that have failed in a row.
    tries: usize,
    /// With `reconnect`: when the message was due that the next connection is made for.
    message: Option<Nanos>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for its next message to be due.
    Idle,
    /// Waits for its turn to connect.
    Queued,
    /// Has the client with this key.
    Taken(usize),
    /// Is not used any more.
    Retired,
}

pub(crate) struct Worker {
    poll: Poll,
    meeting: Arc<Meeting>,
    samples: Sender<Sample>,
    guest: Option<Box<dyn Guest>>,
    share: Share,
    tools: Tools,
    /// Each message has a connection of its own.
    reconnect: bool,
    dialer: Dialer,
    alarm: Alarm,
    clients: Slab<Client<TcpStream>>,
    slots: Vec<Slot>,
    /// Slots that are not retired.
    active: usize,
    run_queue: VecDeque<usize>,
    dial_queue: VecDeque<usize>,
    connecting: usize,
    /// Connects begun.
    dialed: u64,
    dial_interval: Option<Duration>,
    deadlines: Deadlines,
    timeout: Option<Duration>,
    interval: Option<Duration>,
    samples_sent: u32,
    /// The clock, read once a turn, in both its forms; a message that comes back has it read anew.
    turn: Nanos,
    now: Instant,
    settled: bool,
    ended: bool,
    usage_at_start: Usage,
    /// Number of this loop, of so many.
    thread: u64,
    threads: u64,
}

impl Worker {
    pub(crate) fn new(
        plan: &Plan,
        thread: usize,
        poll: Poll,
        meeting: Arc<Meeting>,
        samples: Sender<Sample>,
    ) -> io::Result<Worker> {
        let manner =
            Manner { length: plan.length, pipeline: plan.pipeline, half_close: plan.half_close };
        let share = Share::new(plan, thread, meeting.clock);
        let slots = share.slots();
        let per_thread = |rate: u64| Duration::from_secs_f64(plan.threads as f64 / rate as f64);
        Ok(Worker {
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            samples,
            guest: None,
            tools: Tools::new(Payload::new(plan.seed), manner),
            reconnect: plan.reconnect,
            dialer: Dialer::new(plan.targets.clone(), plan.sources.clone()),
            clients: Slab::new(),
            slots: vec![Slot { stage: Stage::Idle, tries: 0, message: None }; slots],
            active: slots,
            run_queue: VecDeque::new(),
            dial_queue: VecDeque::new(),
            connecting: 0,
            dialed: 0,
            dial_interval: plan.connect_rate.map(per_thread),
            deadlines: Deadlines::default(),
            timeout: plan.timeout,
            interval: plan.interval,
            samples_sent: 0,
            turn: 0,
            now: meeting.clock.instant(0),
            settled: false,
            ended: false,
            usage_at_start: Usage::default(),
            thread: thread as u64,
            threads: plan.threads as u64,
            share,
            meeting,
        })
    }

    /// Lets something else live on this loop's poll; see [`Guest`].
    pub(crate) fn invite(&mut self, mut guest: Box<dyn Guest>) -> io::Result<()> {
        guest.register(self.poll.registry(), GUEST)?;
        self.guest = Some(guest);
        Ok(())
    }

    /// Runs to the end; `sampled` is called after each sample.
    pub(crate) fn run(mut self, mut sampled: impl FnMut()) -> io::Result<Done> {
        self.usage_at_start = Usage::of_this_thread();
        if self.reconnect || self.dial_interval.is_some() {
            // Connecting is part of this load, not a preparation for it.
            self.settle();
        }
        if !self.reconnect {
            (0..self.slots.len()).for_each(|slot| self.queue(slot));
        }
        let mut events = Events::with_capacity(EVENTS);
        while self.active > 0 && !self.meeting.stopped.load(Ordering::Acquire) {
            let queued = self.run_queue.len();
            self.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    GUEST => self.ask_guest(event)?,
                    token => self.ready(token.0, Readiness::from(event)),
                }
            }
            for _ in 0..queued {
                let Some(key) = self.run_queue.pop_front() else { break };
                self.drive(key, self.turn);
            }
            self.give_up_overdue();
            self.begin();
            self.send_due();
            self.end();
            self.dial();
            if self.report() {
                sampled();
            }
        }
        Ok(self.done())
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        loop {
            let due = self.share.next_due().map(|(due, _)| self.meeting.clock.instant(due));
            let mut timeout = self.timeout().map(|at| at.saturating_duration_since(self.now));
            if !self.run_queue.is_empty() {
                timeout = Some(Duration::ZERO);
            } else if let Some(due) = due {
                let wait =
                    due.saturating_duration_since(self.meeting.clock.instant(self.share.now()));
                let rest = match wait {
                    Duration::ZERO => Some(wait),
                    wait => self.alarm.set(wait)?,
                };
                timeout = [timeout, rest].into_iter().flatten().min();
            }
            let answer = self.poll.poll(events, timeout);
            self.turn = self.share.now();
            self.now = self.meeting.clock.instant(self.turn);
            match answer {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                answer => return answer,
            }
        }
    }

    /// The next moment, messages apart, at which there is something to do that no event announces.
    fn timeout(&self) -> Option<Instant> {
        let end =
            self.share.end().filter(|_| !self.ended).map(|end| self.meeting.clock.instant(end));
        [self.deadlines.next(), end, self.next_dial(), self.next_sample()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The waker and the alarm are no clients: they have done their work by ending the wait.
    fn ready(&mut self, key: usize, said: Readiness) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let was_queued = client.is_runnable(&self.tools.manner);
        client.latch(said);
        if was_queued {
            return;
        }
        let was_connecting = client.is_connecting();
        match client.drive(&mut self.tools, &mut self.share, self.turn) {
            Ok(Progress::Blocked) if !was_connecting => {}
            progress => self.driven(key, was_connecting, progress),
        }
    }

    /// The signals' guest is the only one there is: to drain is to print what was measured so far.
    fn ask_guest(&mut self, event: &Event) -> io::Result<()> {
        let Some(guest) = &mut self.guest else { return Ok(()) };
        if guest.ready(self.poll.registry(), event)? != Wish::Nothing {
            self.meeting.stop();
        }
        Ok(())
    }

    fn drive(&mut self, key: usize, now: Nanos) {
        let client = &mut self.clients[key];
        let was_connecting = client.is_connecting();
        let progress = client.drive(&mut self.tools, &mut self.share, now);
        self.driven(key, was_connecting, progress);
    }

    fn driven(&mut self, key: usize, was_connecting: bool, progress: Result<Progress, Failure>) {
        if was_connecting && !self.clients[key].is_connecting() {
            self.connecting -= 1;
        }
        match progress {
            Ok(Progress::Blocked) => {}
            Ok(Progress::Again) => self.run_queue.push_back(key),
            Ok(Progress::Done) => {
                let slot = self.remove(key);
                if self.reconnect {
                    self.slots[slot].tries = 0;
                    self.share.free(slot, self.share.now());
                    self.offer(slot);
                } else {
                    self.retire(slot);
                }
            }
            Err(failure) => self.failed(key, failure),
        }
    }

    fn failed(&mut self, key: usize, failure: Failure) {
        let tally = &mut self.share.tally;
        match failure {
            Failure::Connect(e) => {
                self.connecting -= 1;
                let slot = self.remove(key);
                return self.not_connected(slot, &e);
            }
            Failure::Lost(e) => {
                tally.lost += 1;
                tally.error(cause(&e));
            }
            Failure::Corrupt(got) => self.corrupt(key, &got),
        }
        let slot = self.remove(key);
        self.retire(slot);
    }

    /// Tries the next address of the target, or the same one again where it was our own fault.
    fn not_connected(&mut self, slot: usize, e: &io::Error) {
        self.slots[slot].tries += 1;
        let with_itself = e.kind() == ErrorKind::AddrInUse;
        let most = if with_itself { TRIES } else { self.dialer.targets() };
        if self.slots[slot].tries < most {
            return self.queue(slot);
        }
        self.share.tally.failed += 1;
        self.share.tally.error(cause(e));
        self.retire(slot);
    }

    fn corrupt(&mut self, key: usize, got: &[u8]) {
        let client = &self.clients[key];
        let at = client.received();
        let offset = at.offset();
        let fault = if offset >= client.sent() {
            Fault::Surplus(got.len() as u64)
        } else {
            let others = self.clients.iter().filter(|&(other, _)| other != key);
            let others = others.map(|(_, c)| (self.share.number(c.slot()), c.received()));
            self.tools.payload.diagnose(at, got, others)
        };
        let connection = self.share.number(client.slot());
        let tally = &mut self.share.tally;
        tally.corrupt += 1;
        tally.error(match fault {
            Fault::Changed => "bytes were changed",
            Fault::Missing(_) => "bytes were missing",
            Fault::Surplus(_) => "surplus bytes",
            Fault::Misplaced(_) => "bytes of another connection",
        });
        tally.first_corrupt.get_or_insert(Corruption { connection, offset, fault });
    }

    /// Closes the client's socket; its slot.
    fn remove(&mut self, key: usize) -> usize {
        let client = self.clients.remove(key);
        if client.is_runnable(&self.tools.manner) {
            self.run_queue.retain(|&queued| queued != key);
        }
        self.deadlines.schedule(key, None);
        self.share.tally.by_connection[client.slot()] += client.echoed();
        self.slots[client.slot()].stage = Stage::Idle;
        client.slot()
    }

    fn retire(&mut self, slot: usize) {
        self.slots[slot].stage = Stage::Retired;
        self.active -= 1;
    }

    fn queue(&mut self, slot: usize) {
        self.slots[slot].stage = Stage::Queued;
        self.dial_queue.push_back(slot);
    }

    /// With `reconnect`: a free slot connects when its next message is due.
    fn offer(&mut self, slot: usize) {
        match self.share.next(slot, self.share.now()) {
            Next::Due(due) => {
                self.slots[slot].message = Some(due);
                self.queue(slot);
            }
            Next::NotYet => {}
            Next::Never => self.retire(slot),
        }
    }

    /// Lets clients see what has changed for all: the messages begin, or end.
    fn drive_all(&mut self) {
        let now = self.share.now();
        let keys: Vec<usize> = self.clients.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.poke(key, now);
        }
        for slot in 0..self.slots.len() {
            if self.slots[slot].stage == Stage::Idle {
                self.offer(slot);
            }
        }
    }

    /// Drives a client that no event has called. One that is queued has its turn anyway, one that
    /// still connects has nothing to say.
    fn poke(&mut self, key: usize, now: Nanos) {
        let client = &self.clients[key];
        if !client.is_connecting() && !client.is_runnable(&self.tools.manner) {
            self.drive(key, now);
        }
    }

    fn give_up_overdue(&mut self) {
        while let Some(key) = self.deadlines.pop_due(self.now) {
            let client = &self.clients[key];
            let patience = self.timeout.or(self.ended.then_some(GRACE));
            let since =
                client.waiting_since().map_or(self.now, |since| self.meeting.clock.instant(since));
            let due = after(since, patience);
            if due.is_none_or(|due| due > self.now) {
                self.deadlines.schedule(key, due);
                continue;
            }
            let connecting = client.is_connecting();
            let slot = self.remove(key);
            if connecting {
                self.connecting -= 1;
                self.not_connected(slot, &ErrorKind::TimedOut.into());
            } else {
                self.share.tally.timed_out += 1;
                self.share.tally.error("message timed out");
                self.retire(slot);
            }
        }
    }

    fn settle(&mut self) {
        self.settled = true;
        self.meeting.settled();
    }

    fn begin(&mut self) {
        if !self.settled && self.dial_queue.is_empty() && self.connecting == 0 {
            self.settle();
        }
        if self.share.start().is_none()
            && let Some(&start) = self.meeting.start.get()
        {
            self.usage_at_start = Usage::of_this_thread();
            self.share.begin(start);
            (0..self.slots.len()).for_each(|slot| self.share.free(slot, start));
            self.drive_all();
        }
    }

    /// Open loop: the clients whose messages have become due.
    fn send_due(&mut self) {
        let mut now = self.share.now();
        while let Some((due, slot)) = self.share.next_due().filter(|&(due, _)| due <= now) {
            self.share.became_due(due, now);
            match self.slots[slot].stage {
                Stage::Taken(key) => self.poke(key, now),
                Stage::Idle => self.offer(slot),
                Stage::Queued | Stage::Retired => {}
            }
            now = self.share.now();
        }
    }

    fn end(&mut self) {
        let over = self.share.end().is_some_and(|end| self.meeting.clock.instant(end) <= self.now);
        if over && !self.ended {
            self.ended = true;
            self.drive_all();
            if self.timeout.is_none() {
                for (key, _) in &self.clients {
                    self.deadlines.schedule(key, after(self.now, Some(GRACE)));
                }
            }
        }
    }

    /// When a new connection may be begun.
    fn next_dial(&self) -> Option<Instant> {
        let possible = !self.dial_queue.is_empty() && self.connecting < CONNECTING;
        let Some(interval) = self.dial_interval else { return possible.then_some(self.now) };
        let start = self.share.start().filter(|_| possible)?;
        let wait = interval.as_nanos().saturating_mul(self.dialed.into());
        Some(
            self.meeting
                .clock
                .instant(start.saturating_add(Nanos::try_from(wait).unwrap_or(Nanos::MAX))),
        )
    }

    fn dial(&mut self) {
        while self.next_dial().is_some_and(|at| at <= self.now) {
            let Some(slot) = self.dial_queue.pop_front() else { break };
            let over = self.ended || self.share.peek(slot, self.share.now()) == Next::Never;
            if over && !self.reconnect {
                self.retire(slot);
                continue;
            }
            let target = self.slots[slot].tries % self.dialer.targets();
            let number = self.dialed * self.threads + self.thread;
            self.dialed += 1;
            if let Err(e) = self.connect(slot, target, number) {
                self.not_connected(slot, &e);
            }
        }
    }

    fn connect(&mut self, slot: usize, target: usize, number: u64) -> io::Result<()> {
        let mut stream = self.dialer.dial(target, number)?;
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        self.poll.registry().register(&mut stream, Token(key), ready::interest())?;
        // A stream of its own for each connection, those of a slot's earlier connections included.
        let payload = self.tools.payload.key(number);
        let client = Client::new(stream, slot, payload, &self.tools.manner, self.share.now());
        entry.insert(match self.slots[slot].message {
            Some(due) => client.for_one(due),
            None => client,
        });
        self.slots[slot].stage = Stage::Taken(key);
        self.connecting += 1;
        self.deadlines.schedule(key, after(self.now, self.timeout));
        Ok(())
    }

    fn next_sample(&self) -> Option<Instant> {
        let so_far = self.interval?.checked_mul(self.samples_sent + 1)?;
        after(self.meeting.clock.instant(self.share.start()?), Some(so_far))
    }

    fn report(&mut self) -> bool {
        let due = self.next_sample().is_some_and(|at| at <= self.now);
        if due {
            self.samples_sent += 1;
            self.send_sample(self.samples_sent);
        }
        due
    }

    fn send_sample(&self, number: u32) {
        let tally = &self.share.tally;
        let start = self.share.start().map_or(self.now, |start| self.meeting.clock.instant(start));
        // Nobody listens any more only when the run is being torn down.
        let _ = self.samples.send(Sample {
            thread: self.thread as usize,
            number,
            elapsed: self.now.saturating_duration_since(start),
            echoed: tally.echoed,
            latency: tally.times.latency(),
            up: self.clients.len() - self.connecting,
            errors: tally.errors.values().sum(),
        });
    }

    fn done(mut self) -> Done {
        for (_, client) in &self.clients {
            self.share.tally.by_connection[client.slot()] += client.echoed();
        }
        if !self.settled {
            self.settle();
        }
        self.send_sample(u32::MAX);
        let now = self.share.now();
        let last_echo = self.share.tally.last_echo;
        let over = match self.share.covered(now) {
            _ if self.meeting.stopped.load(Ordering::Acquire) => now,
            covered => last_echo.max(covered.unwrap_or(0)),
        };
        let from = self.share.measured_from().unwrap_or(over);
        Done {
            elapsed: Duration::from_nanos(over.saturating_sub(from)),
            usage: Usage::of_this_thread() - self.usage_at_start,
            tally: self.share.tally,
        }
    }
}
