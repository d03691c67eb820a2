//! One loop of the load: a poll, a slab of clients, and its share of the messages.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token};
use slab::Slab;

use crate::load::client::{Client, Load, Manner, Nanos, Tools};
use crate::load::payload::Payload;
use crate::load::results::statistics::Latencies;
use crate::load::schedule::Share;
use crate::load::worker::alarm::Alarm;
use crate::load::worker::dial::Dialer;
use crate::load::worker::usage::Usage;
use crate::load::{Meeting, Plan};
use crate::net::deadline::{Deadlines, after};
use crate::net::ready::{Progress, Readiness};
use crate::net::socket::Socket;
use crate::server::counters::Counters;
use crate::server::source::{Guest, Host, Wish};

pub(crate) mod alarm;
mod dial;
mod slots;
pub(crate) mod usage;

use slots::GRACE;

pub(crate) const WAKER: Token = Token(usize::MAX - 1);
const ALARM: Token = Token(usize::MAX - 2);
const GUEST: Token = Token(usize::MAX - 3);

const EVENTS: usize = 1024;

/// Messages that a turn may send because they are due.
const DUE: usize = 1024;

/// The number of a loop's last sample: behind it there are no more intervals.
pub(crate) const LAST: u32 = u32::MAX;

/// What one loop has measured so far.
pub(crate) struct Sample {
    pub(crate) thread: usize,
    /// How many intervals have gone by, or [`LAST`].
    pub(crate) number: u32,
    pub(crate) elapsed: Duration,
    pub(crate) echoed: u64,
    pub(crate) latency: Latencies,
    pub(crate) up: usize,
    pub(crate) errors: u64,
}

/// What one loop has measured.
pub(crate) struct Done {
    pub(crate) share: Share,
    /// The end of the time that is measured.
    pub(crate) until: Nanos,
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

/// A full backlog has no room for a connect, and no event to tell when it has.
#[derive(Debug, Clone, Copy)]
struct TurnedAway {
    since: Instant,
    again: Instant,
}

pub(crate) struct Worker {
    poll: Poll,
    meeting: Arc<Meeting>,
    samples: SyncSender<Sample>,
    guest: Option<Box<dyn Guest>>,
    share: Share,
    tools: Tools,
    /// Each message has a connection of its own.
    reconnect: bool,
    dialer: Dialer,
    alarm: Alarm,
    clients: Slab<Client<Socket>>,
    slots: Vec<Slot>,
    /// Slots that are not retired.
    active: usize,
    run_queue: VecDeque<usize>,
    dial_queue: VecDeque<usize>,
    /// Connects begun.
    dialed: u64,
    dial_interval: Option<Duration>,
    turned_away: Option<TurnedAway>,
    deadlines: Deadlines,
    timeout: Option<Duration>,
    busy_poll: Option<Duration>,
    /// Until when to ask without sleeping.
    busy_until: Option<Instant>,
    interval: Option<Duration>,
    samples_sent: u32,
    /// The clock, read once a turn, in both its forms; a message that comes back has it read anew.
    turn: Nanos,
    now: Instant,
    settled: bool,
    /// The clients know that there are no more messages.
    told: bool,
    /// Once the time is over: until when what is under way is waited for.
    last_moment: Option<Instant>,
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
        samples: SyncSender<Sample>,
        payload: Arc<Payload>,
    ) -> io::Result<Worker> {
        let manner =
            Manner { length: plan.length, pipeline: plan.pipeline, half_close: plan.half_close };
        let share = Share::new(plan, thread, meeting.clock);
        let slots = share.slots();
        Ok(Worker {
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            samples,
            guest: None,
            tools: Tools::new(payload, manner),
            reconnect: plan.reconnect,
            dialer: Dialer::new(plan.targets.clone(), plan.sources.clone()),
            clients: Slab::new(),
            slots: vec![Slot { stage: Stage::Idle, tries: 0, message: None }; slots],
            active: slots,
            run_queue: VecDeque::new(),
            dial_queue: VecDeque::new(),
            dialed: 0,
            dial_interval: plan
                .connect_rate
                .map(|rate| Duration::from_secs(1).div_f64(rate as f64)),
            turned_away: None,
            deadlines: Deadlines::default(),
            timeout: plan.timeout,
            busy_poll: plan.busy_poll,
            busy_until: None,
            interval: plan.interval,
            samples_sent: 0,
            turn: 0,
            now: meeting.clock.instant(0),
            settled: false,
            told: false,
            last_moment: None,
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
        while self.is_needed() && !self.meeting.stopped.load(Ordering::Acquire) {
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

    /// Whether there is anything left to do. The loop with the guest stays for as long as any other
    /// does: a signal is for all.
    fn is_needed(&self) -> bool {
        let others = self.meeting.running.load(Ordering::Acquire) > 1;
        self.active > 0 || self.guest.is_some() && others
    }

    /// The time is over, and what is under way is waited for.
    fn is_late(&self) -> bool {
        self.last_moment.is_some()
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        loop {
            let timeout = self.time_to_wait()?;
            let answer = self.poll.poll(events, timeout);
            self.turn = self.share.now();
            self.now = self.instant(self.turn);
            match answer {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                answer => answer?,
            }
            if !events.is_empty() {
                self.busy_until = after(self.now, self.busy_poll);
            }
            return Ok(());
        }
    }

    /// By the clock as it is now: a turn may have taken a good part of the time.
    fn time_to_wait(&mut self) -> io::Result<Option<Duration>> {
        let turn = self.share.now();
        let now = self.instant(turn);
        if !self.run_queue.is_empty() || self.busy_until.is_some_and(|until| now < until) {
            return Ok(Some(Duration::ZERO));
        }
        let message = match self.share.next_due() {
            Some((due, _)) if due > turn => self.alarm.set(&self.meeting.clock, due)?,
            Some(_) => Some(Duration::ZERO),
            None => None,
        };
        let others = self.timeout().map(|at| at.saturating_duration_since(now));
        Ok([others, message].into_iter().flatten().min())
    }

    /// The next moment, messages apart, at which there is something to do that no event announces.
    fn timeout(&self) -> Option<Instant> {
        let end = self.share.end().filter(|_| !self.told).map(|end| self.instant(end));
        let last = self.last_moment.filter(|_| self.active > 0);
        [self.deadlines.next(), end, last, self.next_dial(), self.next_sample()]
            .into_iter()
            .flatten()
            .min()
    }

    fn instant(&self, at: Nanos) -> Instant {
        self.meeting.clock.instant(at)
    }

    /// The waker and the alarm are no clients: they have done their work by ending the wait.
    fn ready(&mut self, key: usize, said: Readiness) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let was_queued = client.is_runnable();
        client.latch(said);
        if !was_queued {
            self.drive(key, self.turn);
        }
    }

    /// The signals' guest is the only one there is: to drain is to print what was measured so far.
    fn ask_guest(&mut self, event: &Event) -> io::Result<()> {
        let Some(guest) = &mut self.guest else { return Ok(()) };
        // It asks for no counters of a server's.
        let counters = &Counters::default();
        let host = Host { registry: self.poll.registry(), counters, now: self.now };
        if guest.ready(&host, event)? != Wish::Nothing {
            self.meeting.stop();
        }
        Ok(())
    }

    fn drive(&mut self, key: usize, now: Nanos) {
        match self.clients[key].drive(&mut self.tools, &mut self.share, now) {
            Ok(Progress::Blocked) => {}
            Ok(Progress::Again) => self.run_queue.push_back(key),
            Ok(Progress::Done) => self.go_on(key),
            Err(failure) => self.failed(key, failure),
        }
    }

    /// Lets clients see what has changed for all: the messages begin, or end.
    fn drive_all(&mut self) {
        let keys: Vec<usize> = self.clients.iter().map(|(key, _)| key).collect();
        for key in keys {
            // Read anew for each: the first of thousands should not make the last one look slow.
            self.poke(key, self.share.now());
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
        if !client.is_connecting() && !client.is_runnable() {
            self.drive(key, now);
        }
    }

    fn settle(&mut self) {
        self.settled = true;
        self.meeting.settled();
    }

    fn begin(&mut self) {
        if !self.settled && self.dial_queue.is_empty() && self.share.connecting == 0 {
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

    /// Open loop: the clients whose messages have become due, within a budget: at a rate beyond its
    /// means a loop would do nothing else.
    fn send_due(&mut self) {
        let mut now = self.share.now();
        for _ in 0..DUE {
            let next = self.share.next_due().filter(|&(due, _)| due <= now);
            let Some((due, slot)) = next else { break };
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
        // Others took the last messages: a client that waits for its echo does not know yet.
        let spent = self.share.is_spent() && self.tools.manner.half_close;
        let over = self.share.end().is_some_and(|end| self.instant(end) <= self.now);
        if (spent || over) && !self.told {
            self.told = true;
            if !self.share.is_numbered() {
                self.last_moment = after(self.now, self.timeout.or(Some(GRACE)));
            }
            self.drive_all();
        }
        if self.last_moment.is_some_and(|last| last <= self.now) {
            self.give_up_all();
        }
    }

    fn next_sample(&self) -> Option<Instant> {
        let so_far = self.interval?.checked_mul(self.samples_sent + 1)?;
        after(self.instant(self.share.start()?), Some(so_far))
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
        let start = self.share.start().map_or(self.now, |start| self.instant(start));
        // A reader that is slow, or gone, misses a sample; the load is not held up.
        let _ = self.samples.try_send(Sample {
            thread: self.thread as usize,
            number,
            elapsed: self.now.saturating_duration_since(start),
            echoed: tally.returned,
            latency: tally.times.latency(),
            up: self.clients.len() - self.share.connecting,
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
        let now = self.share.now();
        self.now = self.instant(now);
        if self.interval.is_some() {
            self.send_sample(LAST);
        }
        let stopped = self.meeting.stopped.load(Ordering::Acquire);
        let until = self.share.measured_until(now, stopped);
        let usage = Usage::of_this_thread() - self.usage_at_start;
        Done { share: self.share, until, usage }
    }
}
