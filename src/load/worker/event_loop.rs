//! The loop: one place waits, everything else is a step of a turn.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Token};

use crate::load::clock::Nanos;
use crate::load::coordination::Coordination;
use crate::load::messages::Load;
use crate::load::results::addresses::AddressCounts;
use crate::load::results::pauses::Pauses;
use crate::load::worker::alarm::Alarm;
use crate::load::worker::connect::Connect;
use crate::load::worker::connections::Connections;
use crate::load::worker::gaps::{Machine, TICK};
use crate::load::worker::reporter::Reporter;
use crate::load::worker::usage::Usage;
use crate::load::worker::workload::Workload;
use crate::net::deadline::after;
use crate::net::ready::Readiness;
use crate::net::wait::Wait;

/// Token of the wake-ups.
pub(crate) const WAKER: Token = Token(usize::MAX - 1);
const ALARM: Token = Token(usize::MAX - 2);

/// Most events that one wait returns.
const EVENTS: usize = 1024;

/// How long messages in flight are waited for after the end, if there is no timeout.
const GRACE: Duration = Duration::from_secs(10);

/// The phases of a loop, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Connections are made before the messages begin.
    Connecting,
    /// This loop is ready to start, and waits for the others. Where connecting is part of the load, it
    /// is ready at once.
    Ready,
    /// Messages become due.
    Running,
    /// No message becomes due any more. Messages in flight are waited for, until this time if any.
    Finishing(Option<Instant>),
}

/// One loop of the load.
#[derive(Debug)]
pub(crate) struct Worker<C> {
    wait: Wait,
    alarm: Alarm,
    coordination: Arc<Coordination>,
    connections: Connections<C>,
    phase: Phase,
    reporter: Reporter,
    /// What this thread had used when the messages began, and the state of the machine.
    usage_at_start: Usage,
    machine_at_start: Machine,
    /// Number of waits in a row that returned as many events as they can.
    full_waits: usize,
}

/// What a loop has measured.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) workload: Workload,
    /// The end of the measured time.
    pub(crate) until: Nanos,
    /// When the loop has ended.
    pub(crate) ended: Nanos,
    pub(crate) usage: Usage,
    pub(crate) pauses: Pauses,
    pub(crate) addresses: Vec<AddressCounts>,
}

impl<C: Connect> Worker<C> {
    pub(crate) fn new(
        wait: Wait,
        coordination: Arc<Coordination>,
        connections: Connections<C>,
        reporter: Reporter,
    ) -> io::Result<Worker<C>> {
        Ok(Worker {
            alarm: Alarm::new(wait.registry(), ALARM)?,
            wait,
            coordination,
            connections,
            phase: Phase::Connecting,
            reporter,
            usage_at_start: Usage::default(),
            machine_at_start: Machine::now(),
            full_waits: 0,
        })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The wait failed. What fails on one connection is counted.
    pub(crate) fn run(mut self) -> io::Result<Finished> {
        self.usage_at_start = Usage::of_this_thread();
        if self.connections.reconnect || self.connections.connect_queue.interval.is_some() {
            self.become_ready();
        }
        self.connections.queue_all();
        let mut events = Events::with_capacity(EVENTS);
        while self.connections.workload.active > 0 && !self.coordination.is_stopped() {
            let queued = self.connections.run_queue.len();
            self.wait(&mut events)?;
            let mut count = 0;
            for event in &events {
                count += 1;
                if event.token() == WAKER {
                    self.wait.take_wakeups();
                }
                self.connections.on_event(event.token().0, Readiness::from(event));
            }
            self.full_waits = if count == EVENTS { self.full_waits + 1 } else { 0 };
            self.connections.run_queued(queued);
            if self.has_read_all() {
                self.connections.give_up_overdue();
            }
            self.connections.settle_established();
            self.connections.retry_due();
            self.begin();
            self.connections.send_due();
            self.end();
            self.connections.connect_due(self.wait.registry(), self.connects_at_rate());
            self.report();
        }
        Ok(self.finish())
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let until = self.deadline()?;
        let before = self.connections.now.instant;
        let tick = before + TICK;
        let latest = until.map_or(tick, |until| until.min(tick));
        let now = self.wait.wait(events, Some(latest))?;
        self.connections.now = self.coordination.clock.moment(now);
        if now > latest {
            self.note_gap((before, now), until);
        }
        Ok(())
    }

    /// Takes note of a turn that comes too late, if it comes so much too late that it counts. The echoes that are still missing at the end are waited for
    /// as much longer.
    fn note_gap(&mut self, turn: (Instant, Instant), until: Option<Instant>) {
        let workload = &self.connections.workload;
        let is_running = matches!(self.phase, Phase::Running | Phase::Finishing(_));
        let from = is_running.then(|| workload.instant(workload.schedule.measured_from()));
        let gap = self.connections.gaps.turn(turn, until, from);
        if let (Phase::Finishing(Some(until)), Some(gap)) = (&mut self.phase, gap) {
            *until += gap;
        }
    }

    /// Returns whether the kernel has reported all that it held. A wait returns a bounded number of events;
    /// after as many full ones as there are clients for, each of them was reported.
    fn has_read_all(&mut self) -> bool {
        let has_read =
            self.full_waits == 0 || self.full_waits > self.connections.clients.len() / EVENTS + 1;
        if has_read {
            self.full_waits = 0;
        }
        has_read
    }

    /// Returns when there is something to do that no event announces.
    fn deadline(&mut self) -> io::Result<Option<Instant>> {
        let now = self.connections.now;
        if !self.connections.run_queue.is_empty() {
            return Ok(Some(now.instant));
        }
        let message = match self.connections.workload.next_due() {
            Some((due, _)) if due <= now.nanos => Some(now.instant),
            Some((due, _)) => self.alarm.set(&self.coordination.clock, due)?,
            None => None,
        };
        let phase = match self.phase {
            Phase::Connecting | Phase::Ready => None,
            Phase::Running => self.end_of_messages(),
            Phase::Finishing(until) => until,
        };
        let timeout = self.connections.deadlines.next();
        let connect = self.connections.next_connect(self.connects_at_rate());
        let retry = self.connections.next_retry();
        let all = [message, phase, timeout, connect, retry, self.next_report()];
        Ok(all.into_iter().flatten().min())
    }

    fn connects_at_rate(&self) -> bool {
        !matches!(self.phase, Phase::Finishing(Some(_)))
    }

    fn end_of_messages(&self) -> Option<Instant> {
        let workload = &self.connections.workload;
        workload.schedule.end().map(|end| workload.instant(end))
    }

    fn become_ready(&mut self) {
        debug_assert_eq!(self.phase, Phase::Connecting);
        self.phase = Phase::Ready;
        self.coordination.ready();
    }

    /// Begins the messages when all loops are ready.
    fn begin(&mut self) {
        if self.phase == Phase::Connecting && self.connections.are_all_made() {
            self.become_ready();
        }
        // Otherwise all connects have failed, and no message is due on what is not there.
        if self.phase == Phase::Ready
            && self.connections.workload.active > 0
            && let Some(start) = self.coordination.start()
        {
            self.phase = Phase::Running;
            self.usage_at_start = Usage::of_this_thread();
            self.machine_at_start = Machine::now();
            self.connections.workload.begin(start);
            self.connections.drive_all();
        }
    }

    /// Ends the messages when the time is over, and everything when the time after that is over.
    fn end(&mut self) {
        let now = self.connections.now.instant;
        if self.phase == Phase::Running && self.is_over(now) {
            let limit = self.connections.timeout.or(Some(GRACE));
            let is_numbered = self.connections.workload.schedule.is_numbered();
            self.phase = Phase::Finishing(after(now, limit.filter(|_| !is_numbered)));
            if !is_numbered {
                self.connections.stop_retries();
            }
            self.connections.drive_all();
        }
        let has_read = self.full_waits == 0;
        if has_read && matches!(self.phase, Phase::Finishing(Some(until)) if until <= now) {
            self.connections.give_up_all();
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        // Where other clients have started the last messages, a client that waits for an echo does not
        // know yet that its own message is the last one.
        let half_close = self.connections.context.options.half_close;
        half_close && self.connections.workload.schedule.is_spent()
            || self.end_of_messages().is_some_and(|end| end <= now)
    }

    fn next_report(&self) -> Option<Instant> {
        self.reporter.next_at(&self.connections.workload)
    }

    fn report(&mut self) {
        if self.next_report().is_some_and(|at| at <= self.connections.now.instant) {
            self.reporter.send(&self.connections);
        }
    }

    fn finish(mut self) -> Finished {
        let stopped = self.coordination.is_stopped();
        if self.phase == Phase::Connecting && !stopped {
            // All connects have failed. The other loops can start.
            self.become_ready();
        }
        self.connections.count_open();
        let now = self.connections.workload.now();
        let instant = self.connections.workload.instant(now);
        // Before the last snapshot, which may have to wait.
        let usage = Usage::of_this_thread() - self.usage_at_start;
        let machine = Machine::now();
        self.reporter.send_last(&self.connections, instant);
        let Connections { workload, gaps, connector, .. } = self.connections;
        Finished {
            ended: now,
            until: workload.measured_until(now, stopped),
            workload,
            usage,
            pauses: Pauses {
                longest_gap: gaps.longest,
                gaps: gaps.sum,
                suspended: machine.suspended_since(&self.machine_at_start),
                stolen: machine.stolen_since(&self.machine_at_start),
            },
            addresses: connector.targets.counts().collect(),
        }
    }
}
