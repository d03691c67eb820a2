//! The loop: one place waits, everything else is a step of a turn.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Token};

use crate::load::clock::Nanos;
use crate::load::coordination::Coordination;
use crate::load::messages::Load;
use crate::load::worker::alarm::Alarm;
use crate::load::worker::connect::Connect;
use crate::load::worker::connections::Connections;
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
    /// What this thread had used when the messages began.
    usage_at_start: Usage,
}

/// What a loop has measured.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) workload: Workload,
    /// The end of the measured time.
    pub(crate) until: Nanos,
    pub(crate) usage: Usage,
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
            for event in &events {
                if event.token() == WAKER {
                    self.wait.take_wakeups();
                }
                self.connections.on_event(event.token().0, Readiness::from(event));
            }
            self.connections.run_queued(queued);
            self.connections.give_up_overdue();
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
        let now = self.wait.wait(events, until)?;
        self.connections.now = self.coordination.clock.moment(now);
        Ok(())
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
        Ok([message, phase, timeout, connect, self.next_report()].into_iter().flatten().min())
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
        if self.phase == Phase::Ready
            && let Some(start) = self.coordination.start()
        {
            self.phase = Phase::Running;
            self.usage_at_start = Usage::of_this_thread();
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
            self.connections.drive_all();
        }
        if matches!(self.phase, Phase::Finishing(Some(until)) if until <= now) {
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
        self.reporter.send_last(&self.connections, instant);
        Finished {
            until: self.connections.workload.measured_until(now, stopped),
            workload: self.connections.workload,
            usage,
        }
    }
}
