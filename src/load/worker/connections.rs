//! The connections of a loop: from a free slot to a client, and from its end back to a free slot.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::load::client::Client;
use crate::load::clock::{Clock, Moment, Nanos};
use crate::load::context::{ClientOptions, Context};
use crate::load::messages::{Failure, Load, Next};
use crate::load::payload::{Fault, Payload};
use crate::load::plan::Plan;
use crate::load::results::statistics::error_name;
use crate::load::worker::connect_queue::ConnectQueue;
use crate::load::worker::connector::Connector;
use crate::load::worker::slots::Stage;
use crate::load::worker::workload::Workload;
use crate::net::deadline::Deadlines;
use crate::net::ready::Progress;
use crate::net::socket::Socket;

/// Number of faults that are examined, which takes some milliseconds each. A server that makes more
/// faults is no echo server.
const EXAMINED: u64 = 16;

/// Most connects of a slot, if it was connected to itself each time.
const SELF_CONNECTS: usize = 10;

/// The clients of a loop, with what they need to be driven, to begin and to end.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(super) workload: Workload,
    pub(super) context: Context,
    pub(super) clients: Slab<Client<Socket>>,
    /// Clients that can go on without an event, each once, and no others.
    pub(super) run_queue: VecDeque<usize>,
    pub(super) connect_queue: ConnectQueue,
    pub(super) connector: Connector,
    pub(super) deadlines: Deadlines,
    /// How long a connect or a message may take.
    pub(super) timeout: Option<Duration>,
    /// Whether every message has a connection of its own.
    pub(super) reconnect: bool,
    /// The time of this turn. When bytes arrive, a client reads the clock again.
    pub(super) now: Moment,
}

impl Connections {
    pub(crate) fn new(
        plan: &Plan,
        thread: usize,
        clock: Clock,
        payload: Arc<Payload>,
    ) -> Connections {
        let Plan { length, pipeline, half_close, .. } = *plan;
        let options = ClientOptions { length, pipeline, half_close };
        Connections {
            workload: Workload::new(plan, thread, clock),
            context: Context::new(payload, options),
            clients: Slab::new(),
            run_queue: VecDeque::new(),
            connect_queue: ConnectQueue::new(plan, thread),
            connector: Connector::new(plan.targets.clone(), plan.source_ips.clone()),
            deadlines: Deadlines::default(),
            timeout: plan.timeout,
            reconnect: plan.reconnect,
            now: clock.moment(clock.instant(0)),
        }
    }

    /// Returns whether connecting is a part of the load, and not a preparation for it.
    pub(super) fn connecting_is_load(&self) -> bool {
        self.reconnect || self.connect_queue.has_rate()
    }

    /// Queues all slots, unless they connect when their first message is due.
    pub(super) fn queue_all(&mut self) {
        if !self.reconnect {
            self.workload.slots.all().for_each(|slot| self.queue(slot));
        }
    }

    /// Returns whether any slot has, or may get, a connection.
    pub(super) fn any_active(&self) -> bool {
        self.workload.slots.any_active()
    }

    /// Drives a client, and does what follows from its progress.
    pub(super) fn drive(&mut self, key: usize, now: Nanos) {
        match self.clients[key].drive(&mut self.context, &mut self.workload, now) {
            Ok(Progress::Blocked) => {}
            Ok(Progress::Again) => self.run_queue.push_back(key),
            Ok(Progress::Done) => self.ended(key),
            Err(failure) => self.failed(key, failure),
        }
    }

    pub(super) fn queue(&mut self, slot: usize) {
        debug_assert_eq!(self.workload.slots.get(slot).stage, Stage::Idle);
        self.workload.slots.get_mut(slot).stage = Stage::Queued;
        self.connect_queue.push(slot);
    }

    /// With a connection for each message: an idle slot connects when its next message is due.
    pub(super) fn offer(&mut self, slot: usize) {
        match self.workload.start_next(slot, self.workload.now()) {
            Next::Due(due) => {
                self.workload.slots.get_mut(slot).message = Some(due);
                self.queue(slot);
            }
            Next::NotYet => {}
            Next::Never => self.workload.slots.retire(slot),
        }
    }

    /// An established connection has ended, with an error or without. The next message of its slot has
    /// another connection, if every message has its own.
    pub(super) fn ended(&mut self, key: usize) {
        let slot = self.remove(key);
        if !self.reconnect {
            return self.workload.slots.retire(slot);
        }
        self.workload.slots.get_mut(slot).failed_connects = 0;
        self.workload.release(slot, self.workload.now());
        self.offer(slot);
    }

    /// Closes the socket of a client, and returns its slot, which is then idle.
    fn remove(&mut self, key: usize) -> usize {
        let client = self.clients.remove(key);
        if client.is_runnable() {
            self.run_queue.retain(|&queued| queued != key);
        }
        self.deadlines.schedule(key, None);
        let slot = self.workload.slots.get_mut(client.slot());
        debug_assert_eq!(slot.stage, Stage::InUse(key));
        slot.echoed += client.echoed();
        slot.stage = Stage::Idle;
        client.slot()
    }

    /// Ends a client that failed, and counts its failure.
    pub(super) fn failed(&mut self, key: usize, failure: Failure) {
        match failure {
            Failure::Connect(e) => {
                self.workload.slots.connecting -= 1;
                let slot = self.remove(key);
                return self.not_connected(slot, &e);
            }
            Failure::Lost(e) => {
                self.workload.statistics.connections.lost += 1;
                self.workload.statistics.count_error(error_name(&e));
            }
            Failure::Corrupt(got) => self.corrupt(key, &got),
        }
        self.workload.statistics.messages.lost += self.in_flight(key);
        self.ended(key);
    }

    /// Returns the number of measured messages of a client that have not come back.
    pub(super) fn in_flight(&self, key: usize) -> u64 {
        let messages = self.clients[key].in_flight();
        messages.filter(|message| self.workload.schedule.is_measured(message.due)).count() as u64
    }

    /// Returns 1 for a slot without a connection that has started a measured message.
    pub(super) fn waiting_message(&self, slot: usize) -> u64 {
        let message = self.workload.slots.get(slot).message;
        message.is_some_and(|due| self.workload.schedule.is_measured(due)).into()
    }

    /// Tries the next address of the target, or the same one again after a connection to itself.
    pub(super) fn not_connected(&mut self, slot: usize, e: &io::Error) {
        let with_itself = e.kind() == ErrorKind::AddrInUse && e.get_ref().is_some();
        let most = if with_itself { SELF_CONNECTS } else { self.connector.targets() };
        let state = self.workload.slots.get_mut(slot);
        state.stage = Stage::Idle;
        state.failed_connects += 1;
        if state.failed_connects < most {
            return self.queue(slot);
        }
        self.workload.statistics.messages.lost += self.waiting_message(slot);
        self.workload.statistics.connections.failed += 1;
        self.workload.statistics.count_error(error_name(e));
        self.workload.slots.retire(slot);
    }

    /// Counts the messages of the connections that are still open, at the end.
    pub(super) fn count_open(&mut self) {
        for (_, client) in &self.clients {
            self.workload.slots.get_mut(client.slot()).echoed += client.echoed();
        }
    }

    fn corrupt(&mut self, key: usize, got: &[u8]) {
        let client = &self.clients[key];
        let connection = |slot| self.workload.slots.get(slot).position.connection();
        let (at, number) = (client.received(), connection(client.slot()));
        let fault = if self.workload.statistics.messages.corrupt >= EXAMINED {
            Fault::Unknown
        } else if at.offset() >= client.sent() {
            Fault::Surplus(got.len() as u64)
        } else {
            let others = self.clients.iter().filter(|&(other, _)| other != key);
            let others = others.map(|(_, client)| (connection(client.slot()), client.received()));
            self.context.payload.diagnose(at, client.sent(), got, others)
        };
        self.workload.statistics.count_corruption(number, at.offset(), fault);
    }
}
