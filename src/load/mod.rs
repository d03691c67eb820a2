//! The load tester: the same pattern from the side that connects.
//!
//! [`Client`](client::Client) is one connection's state machine, [`Share`](share::Share) says when its
//! messages are due and counts them, [`Payload`] makes and checks every byte, and a
//! worker is a loop around a slab of clients. There are as many loops as threads, each with its share
//! of the connections; they meet at the start and at the end, and share nothing in between.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "what is cast is bounded by a buffer's size, or a figure for people"
)]

use std::io;
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::Waker;

pub mod client;
mod clock;
pub mod payload;
pub mod results;
pub mod schedule;
mod worker;

use crate::net::endpoint::Address;
use crate::server::source::Guest;
use client::Nanos;
use clock::Clock;
use payload::Payload;
use results::statistics::{Latencies, Tally, latencies};
use worker::usage::Usage;
use worker::{LAST, Worker};

/// Samples of a loop that may wait to be read.
const SAMPLES: usize = 16;

/// What to do to whom.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Addresses of the server, tried in turn; at least one.
    pub targets: Vec<Address>,
    /// Connections held at once, at least 1.
    pub connections: usize,
    /// Loops, from 1 to as many as there are connections.
    pub threads: usize,
    /// Bytes a message, at least 1.
    pub length: u64,
    /// Messages in flight a connection, at least 1; exactly 1 with `reconnect`.
    pub pipeline: usize,
    /// Messages a second in total; `None` is a closed loop.
    pub rate: Option<u64>,
    /// New connections a second; `None` is as fast as it goes.
    pub connect_rate: Option<u64>,
    /// A new connection for each message.
    pub reconnect: bool,
    /// Shut down our direction right behind the last message.
    pub half_close: bool,
    /// Source addresses, used in turn; none leaves the choice to us and the kernel.
    pub sources: Vec<IpAddr>,
    /// Time at the beginning that is not counted.
    pub warm_up: Duration,
    /// When it ends.
    pub stop: Stop,
    /// After this long a message, or a connect, is given up, and its connection with it.
    pub timeout: Option<Duration>,
    /// How often to report what was measured so far.
    pub interval: Option<Duration>,
    /// After an event, ask for the next ones without sleeping for this long before waiting.
    pub busy_poll: Option<Duration>,
    /// Of the payload.
    pub seed: u64,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// No message becomes due after this time; those that are due come back.
    After(Duration),
    /// This many messages.
    Messages(u64),
}

/// What was measured so far, by all loops.
#[derive(Debug)]
pub struct Sample {
    /// Time since the start, the warm-up included.
    pub elapsed: Duration,
    /// Length of the interval that this sample ends.
    pub interval: Duration,
    /// Messages that came back in the interval, those of the warm-up included.
    pub echoed: u64,
    /// Latency in the interval.
    pub latency: Latencies,
    /// Latency since the start.
    pub latency_so_far: Latencies,
    /// Connections that stand.
    pub up: usize,
    /// Errors since the start.
    pub errors: u64,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// The sum of all loops.
    pub tally: Tally,
    /// The time that was measured.
    pub elapsed: Duration,
    /// Processor time used by the loops, as a part of what they could have used.
    pub cpu: f64,
    /// The most that a loop used or could have used: with the time in which it was given no processor.
    pub demand: f64,
    /// It was stopped before its time.
    pub interrupted: bool,
}

/// What the loops meet at.
#[derive(Debug)]
struct Meeting {
    clock: Clock,
    /// Loops whose connections are still being made.
    unsettled: AtomicUsize,
    start: OnceLock<Nanos>,
    stopped: AtomicBool,
    /// Loops that have not ended.
    running: AtomicUsize,
    wakers: Vec<Waker>,
}

impl Meeting {
    /// A loop's connections are made. With the last loop the messages begin.
    fn settled(&self) {
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.begin();
        }
    }

    fn begin(&self) {
        self.start.get_or_init(|| self.clock.now());
        self.wake_all();
    }

    /// A loop has ended. One that failed takes the others with it: they might wait for it at the start.
    fn leave(&self, done: &io::Result<worker::Done>) {
        self.running.fetch_sub(1, Ordering::AcqRel);
        if done.is_err() {
            self.stop();
        }
        self.wake_all();
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake_all();
    }

    fn wake_all(&self) {
        for waker in &self.wakers {
            // It fails only where the poll is gone, and the loop with it.
            let _ = waker.wake();
        }
    }
}

/// A run that is ready to begin.
pub struct Run {
    workers: Vec<Worker>,
    meeting: Arc<Meeting>,
    samples: Receiver<worker::Sample>,
}

impl Run {
    /// Makes the loops.
    ///
    /// # Errors
    /// No files left.
    pub fn new(plan: &Plan) -> io::Result<Run> {
        let polls: Vec<_> =
            (0..plan.threads).map(|_| mio::Poll::new()).collect::<Result<_, _>>()?;
        let wakers = polls.iter().map(|poll| Waker::new(poll.registry(), worker::WAKER));
        let meeting = Arc::new(Meeting {
            clock: Clock::start(),
            unsettled: AtomicUsize::new(plan.threads),
            start: OnceLock::new(),
            stopped: AtomicBool::new(false),
            running: AtomicUsize::new(plan.threads),
            wakers: wakers.collect::<Result<_, _>>()?,
        });
        let payload = Arc::new(Payload::new(plan.seed));
        let (sender, samples) = mpsc::sync_channel(SAMPLES * plan.threads);
        let workers = polls
            .into_iter()
            .enumerate()
            .map(|(i, poll)| {
                let (meeting, payload) = (Arc::clone(&meeting), Arc::clone(&payload));
                Worker::new(plan, i, poll, meeting, sender.clone(), payload)
            })
            .collect::<Result<_, _>>()?;
        Ok(Run { workers, meeting, samples })
    }

    /// Lets something else live on the first loop's poll, and end the run before its time.
    ///
    /// # Errors
    /// Those of [`Guest::register`].
    pub fn invite(&mut self, guest: Box<dyn Guest>) -> io::Result<()> {
        self.workers[0].invite(guest)
    }

    /// Runs to the end, the first loop on this thread. Every interval `observe` is told how it goes.
    ///
    /// # Errors
    /// A poll failed. What fails on one connection is part of the result.
    pub fn run(self, mut observe: impl FnMut(&Sample)) -> io::Result<Measured> {
        let mut series = Series::new(self.workers.len());
        let mut observe_new = || {
            for sample in self.samples.try_iter() {
                if let Some(sample) = series.add(sample) {
                    observe(&sample);
                }
            }
        };
        let mut workers = self.workers.into_iter();
        let first = workers.next();
        let others: Vec<_> = workers.map(|worker| start(worker, &self.meeting)).collect();
        let mut done = Vec::new();
        if let Some(first) = first {
            let first = first.run(&mut observe_new);
            self.meeting.leave(&first);
            done.push(first);
        }
        for thread in others {
            done.push(thread.and_then(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a loop panicked")))
            }));
        }
        observe_new();
        let done: Vec<_> = done.into_iter().collect::<io::Result<_>>()?;
        let interrupted = self.meeting.stopped.load(Ordering::Acquire);
        let start = self.meeting.start.get();
        let until = done.iter().map(|done| done.until).max().unwrap_or(0);
        let mut tally = Tally::new(0);
        let (mut usage, mut elapsed, mut demand) = (Usage::default(), Duration::ZERO, 0.0_f64);
        for mut done in done {
            if let Some(&start) = start {
                // A loop whose connects have all failed may have left before.
                done.share.begin(start);
                let measured = until.saturating_sub(done.share.measured_from());
                elapsed = Duration::from_nanos(measured);
            }
            if !interrupted {
                done.share.finish(until);
            }
            tally.add(&done.share.tally);
            usage = usage + done.usage;
            demand = demand.max(done.usage.demand());
        }
        let available = usage.wall.as_secs_f64().max(f64::MIN_POSITIVE);
        Ok(Measured {
            tally,
            elapsed,
            cpu: usage.cpu.as_secs_f64() / available,
            demand,
            interrupted,
        })
    }
}

fn start(
    worker: Worker,
    meeting: &Arc<Meeting>,
) -> io::Result<JoinHandle<io::Result<worker::Done>>> {
    let left = Arc::clone(meeting);
    let started = thread::Builder::new().spawn(move || {
        let done = worker.run(|| {});
        left.leave(&done);
        done
    });
    if started.is_err() {
        // It will not come to the start, so the others should not wait for it.
        meeting.running.fetch_sub(1, Ordering::AcqRel);
        meeting.stop();
    }
    started
}

/// Puts the loops' samples together: the latest of each make one of all, once all have come as far.
struct Series {
    latest: Vec<Option<worker::Sample>>,
    number: u32,
    last: Duration,
    echoed: u64,
    errors: u64,
    latency: Latencies,
}

impl Series {
    fn new(threads: usize) -> Series {
        let latest = (0..threads).map(|_| None).collect();
        let (last, latency) = (Duration::ZERO, latencies());
        Series { latest, number: 0, last, echoed: 0, errors: 0, latency }
    }

    fn add(&mut self, sample: worker::Sample) -> Option<Sample> {
        let thread = sample.thread;
        self.latest[thread] = Some(sample);
        let number = self.latest.iter().map(|s| s.as_ref().map_or(0, |s| s.number)).min()?;
        let parts = || self.latest.iter().flatten();
        // Those that are ahead, or have ended, do not take the time of the others' next interval.
        let running = parts().filter(|part| part.number != LAST).map(|part| part.elapsed).min();
        let elapsed = running.or_else(|| parts().map(|part| part.elapsed).max())?;
        let echoed = parts().map(|part| part.echoed).sum();
        let errors = parts().map(|part| part.errors).sum();
        let rest = number == LAST && (echoed, errors) == (self.echoed, self.errors);
        if number <= self.number || elapsed <= self.last || rest {
            return None;
        }
        self.number = number;
        let mut latency_so_far = latencies();
        let mut up = 0;
        for part in parts() {
            latency_so_far += &part.latency;
            up += part.up;
        }
        let mut latency = latency_so_far.clone();
        // What was counted once stays counted, so the difference has no negative count.
        latency.subtract(&self.latency).expect("counts only grow");
        self.latency.clone_from(&latency_so_far);
        let interval = elapsed.saturating_sub(mem::replace(&mut self.last, elapsed));
        let echoed = echoed - mem::replace(&mut self.echoed, echoed);
        self.errors = errors;
        Some(Sample { elapsed, interval, echoed, latency, latency_so_far, up, errors })
    }
}
