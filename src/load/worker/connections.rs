//! The connections of a loop, and which of them a turn drives: those with events, those in the run
//! queue, and those whose messages have become due.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::load::clock::{Moment, Nanos};
use crate::load::coordination::Coordination;
use crate::load::messages::{ClientOptions, Context, Load, Next, Progress};
use crate::load::payload::Payload;
use crate::load::plan::Plan;
use crate::load::worker::connect::Connect;
use crate::load::worker::connector::{ConnectQueue, Connector};
use crate::load::worker::gaps::Gaps;
use crate::load::worker::retries::Retries;
use crate::load::worker::slot::Stage;
use crate::load::worker::workload::Workload;
use crate::net::deadline::Deadlines;
use crate::net::ready::Readiness;

/// Most messages that one turn sends because they are due.
const DUE_BUDGET: usize = 1024;

/// The clients of a loop, with what they need to be driven, to begin and to end.
#[derive(Debug)]
pub(crate) struct Connections<C> {
    pub(super) workload: Workload,
    pub(super) context: Context,
    pub(super) clients: Slab<C>,
    /// Clients that can go on without an event, each once, and no others.
    pub(super) run_queue: VecDeque<usize>,
    pub(super) connect_queue: ConnectQueue,
    pub(super) connector: Connector,
    pub(super) deadlines: Deadlines,
    /// How long a connect or a message may take.
    pub(super) timeout: Option<Duration>,
    /// Whether a connection ends after a number of messages, and is made when a message is due.
    pub(super) reconnect: bool,
    /// Slots whose connection is made again.
    pub(super) retries: Retries,
    /// When this loop did not run.
    pub(super) gaps: Gaps,
    /// The time of this turn. When bytes arrive, a client reads the clock again.
    pub(super) now: Moment,
}

impl<C: Connect> Connections<C> {
    pub(crate) fn new(
        plan: &Plan,
        thread: usize,
        coordination: Arc<Coordination>,
        payload: Payload,
    ) -> Connections<C> {
        let Plan { pipeline, half_close, .. } = *plan;
        let options = ClientOptions { pipeline, half_close };
        let clock = coordination.clock;
        let now = clock.moment(clock.instant(0));
        Connections {
            workload: Workload::new(plan, thread, coordination),
            context: Context::new(payload, options),
            clients: Slab::new(),
            run_queue: VecDeque::new(),
            connect_queue: ConnectQueue::new(plan, thread),
            connector: Connector::new(plan, thread, now.instant),
            deadlines: Deadlines::default(),
            timeout: plan.timeout,
            reconnect: plan.reconnects(),
            retries: Retries::new(plan),
            gaps: Gaps::default(),
            now,
        }
    }

    /// Queues all slots, unless they connect when their first message is due.
    pub(super) fn queue_all(&mut self) {
        if !self.reconnect {
            (0..self.workload.slots.len()).for_each(|slot| self.queue(slot));
        }
    }

    /// Drives a client, and does what follows from its progress.
    pub(super) fn drive(&mut self, key: usize, now: Nanos) {
        // While there may be an outage, an echo may have ended it. Asked in each arm: what a client returns
        // would otherwise go through memory, which costs the usual case more than the question.
        match self.clients[key].drive(&mut self.context, &mut self.workload, now) {
            Ok(Progress::Blocked) if self.workload.watched == 0 => {}
            Ok(Progress::Blocked) => self.watch(key),
            Ok(Progress::Again) => {
                self.run_queue.push_back(key);
                if self.workload.watched > 0 {
                    self.watch(key);
                }
            }
            Ok(Progress::Done) => {
                self.watch(key);
                self.ended(key);
            }
            Err(failure) => self.failed(key, failure),
        }
    }

    /// An echo may end an outage. Not inlined: the usual case would pay for it.
    #[cold]
    #[inline(never)]
    fn watch(&mut self, key: usize) {
        let client = &self.clients[key];
        self.workload.watch(client.slot(), client.echoed() > 0);
    }

    pub(super) fn queue(&mut self, slot: usize) {
        debug_assert_eq!(self.workload.slots[slot].stage, Stage::Idle);
        self.workload.slots[slot].stage = Stage::Queued;
        self.connect_queue.slots.push_back(slot);
    }

    /// Where connections end after a number of messages: an idle slot connects when its next message is due.
    pub(super) fn offer(&mut self, slot: usize) {
        match self.workload.start_next(slot, self.workload.now()) {
            Next::Due(due) => {
                self.workload.slots[slot].message = Some(due);
                self.queue(slot);
            }
            Next::NotYet => {}
            Next::Never => self.workload.retire(slot),
        }
    }

    /// Handles an event. An unknown key is that of the waker, of the alarm, or of a client that has
    /// just ended.
    pub(super) fn on_event(&mut self, key: usize, readiness: Readiness) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let was_queued = client.is_runnable();
        client.latch(readiness);
        if !was_queued {
            self.drive(key, self.now.nanos);
        }
    }

    /// Drives the first clients of the run queue, each once.
    pub(super) fn run_queued(&mut self, count: usize) {
        for _ in 0..count {
            let Some(key) = self.run_queue.pop_front() else { break };
            self.drive(key, self.now.nanos);
        }
    }

    /// Drives every client, after a change that concerns all: the messages begin or end.
    pub(super) fn drive_all(&mut self) {
        let keys: Vec<usize> = self.clients.iter().map(|(key, _)| key).collect();
        for key in keys {
            // Each reads the clock again, or the last of thousands would look slow.
            self.drive_idle(key, self.workload.now());
        }
        for slot in 0..self.workload.slots.len() {
            if self.workload.slots[slot].stage == Stage::Idle {
                self.offer(slot);
            }
        }
    }

    /// Drives a client without an event. One in the run queue has its turn there, and one that
    /// connects can do nothing else.
    fn drive_idle(&mut self, key: usize, now: Nanos) {
        let client = &self.clients[key];
        if !client.is_connecting() && !client.is_runnable() {
            self.drive(key, now);
        }
    }

    /// Open loop: drives the clients whose messages have become due. The budget leaves time for events
    /// where the rate is too high for this loop.
    pub(super) fn send_due(&mut self) {
        for _ in 0..DUE_BUDGET {
            let Some((due, slot)) = self.workload.next_due() else { break };
            let now = self.workload.now();
            if due > now {
                break;
            }
            self.workload.became_due(due, now);
            match self.workload.slots[slot].stage {
                Stage::InUse(key) => self.drive_idle(key, now),
                Stage::Idle => self.offer(slot),
                Stage::Queued | Stage::Waiting | Stage::Retired => {}
            }
        }
    }
}
