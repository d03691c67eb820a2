//! The loop.
//!
//! One place waits, [`Wait::wait`], at the top of a turn. Everything below it is a short answer to "this
//! socket may be ready".
//!
//! (One file, so that a turn can be read from top to bottom.)

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use log::info;
use mio::event::Event;
use mio::{Events, Interest, Token};

use crate::net::address::Address;
use crate::net::endpoint::Endpoint;
use crate::net::ready::Readiness;
use crate::net::wait::Wait;
use crate::protocol::{Echo, Protocol};
use crate::server::config::Config;
use crate::server::connections::{Connections, TURN_TIME};
use crate::server::drain::Drain;
use crate::server::listener::Listeners;
use crate::server::source::{Action, EventSource, SourceWaker};
use crate::server::source_set::{FIRST_TOKEN, LoopState, SourceSet};
use crate::server::stop::{RunError, RunSummary, StopReason, Stopper};
use crate::server::warnings::RateLimitedWarning;

/// Number of events taken from the kernel in one wait. More stay there for the next turn, behind which a
/// connection that wants little would wait.
const EVENTS: usize = 1024;

/// First token of the listeners, and the token of the waker. A connection's token is its key in the slab, and
/// no slab is large enough to reach these.
const LISTENERS: usize = usize::MAX / 4;
const WAKER: usize = usize::MAX - 1;

/// A server: one poll, one slab of connections, one loop, one thread.
///
/// Its protocol is a type parameter, so that its calls are inlined into the connection's code. [`Echo`] is
/// the default.
pub struct Server<P: Protocol = Echo> {
    wait: Wait,
    stopper: Stopper,
    listeners: Listeners,
    connections: Connections<P>,
    sources: SourceSet,
    config: Config,
    drain: Option<Drain>,
    stop_reason: Option<StopReason>,
    warning: RateLimitedWarning,
}

impl Server {
    /// Makes an echo server, and binds all endpoints of its configuration. From here on the kernel accepts
    /// connections into the backlog; [`run`](Server::run) serves them.
    ///
    /// # Errors
    /// An endpoint that cannot be bound, or no more files.
    pub fn bind(config: &Config) -> io::Result<Server> {
        Server::with_protocol(Echo, config)
    }
}

impl<P: Protocol> Server<P> {
    /// Makes a server of another protocol; see [`bind`](Server::bind).
    ///
    /// # Errors
    /// Those of [`bind`](Server::bind).
    pub fn with_protocol(protocol: P, config: &Config) -> io::Result<Server<P>> {
        Server::adopt(protocol, Vec::new(), config)
    }

    /// Makes a server that takes sockets which already listen, as systemd hands them over, and binds the
    /// endpoints of the configuration beside them. If there are neither, it binds the default endpoint,
    /// unless [`ConfigBuilder::default_endpoint`](crate::ConfigBuilder::default_endpoint) says otherwise.
    ///
    /// A socket that is taken becomes nonblocking. That holds for every copy of it (`try_clone`, or in
    /// another process), since they share one open file description; see `O_NONBLOCK` in fcntl(2). The same
    /// is true of its options: those that would change what a stream promises, such as `SO_LINGER`, are
    /// reset.
    ///
    /// # Errors
    /// Those of [`bind`](Server::bind), and a file that is not a listening stream socket.
    pub fn adopt(protocol: P, inherited: Vec<OwnedFd>, config: &Config) -> io::Result<Server<P>> {
        let default = [Endpoint::default()];
        let endpoints = match &config.endpoints[..] {
            [] if inherited.is_empty() && config.default_endpoint => &default,
            endpoints => endpoints,
        };
        let (wait, waker) = Wait::new(config.busy_poll, Token(WAKER))?;
        let mut listeners = Listeners::adopt(inherited, endpoints, &config.listen)?;
        listeners.register(|socket, number| {
            wait.registry().register(socket, Token(LISTENERS + number), Interest::READABLE)
        })?;
        Ok(Server {
            wait,
            stopper: Stopper::new(waker),
            listeners,
            connections: Connections::new(protocol, config),
            sources: SourceSet::default(),
            config: config.clone(),
            drain: None,
            stop_reason: None,
            warning: RateLimitedWarning::default(),
        })
    }

    /// Returns the addresses that the server serves: those of adopted sockets, then those of the endpoints in
    /// their order, IPv4 before IPv6, then those that its event sources serve.
    pub fn local_addrs(&self) -> Vec<Address> {
        self.listeners.addresses().into_iter().chain(self.sources.addresses()).collect()
    }

    /// Returns the addresses of the server itself, with a list for each adopted socket and for each endpoint.
    pub fn endpoint_addrs(&self) -> Vec<Vec<Address>> {
        self.listeners.endpoint_addresses()
    }

    /// Returns a handle with which any thread can end the run.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Lowers the most connections held at once, to what is known only after all is bound. At least 1 stays.
    pub fn limit_connections(&mut self, most: usize) {
        self.config.max_connections = self.config.max_connections.min(most.max(1));
    }

    /// Returns the most connections held at once.
    pub fn max_connections(&self) -> usize {
        self.config.max_connections
    }

    /// Adds an event source to the loop. Returns a handle with which any thread can wake it.
    ///
    /// # Errors
    /// Those of [`EventSource::register`].
    pub fn add_source(&mut self, source: Box<dyn EventSource>) -> io::Result<SourceWaker> {
        self.sources.add(source, self.stopper.waker(), state(&self.wait, &self.connections))
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// The poll failed, or an event source. What fails on one connection ends that connection only.
    pub fn run(mut self) -> Result<RunSummary, RunError> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if let Err(error) = self.turn(&mut events) {
                self.connections.close_all();
                let counters = Box::new(self.connections.context.counters);
                return Err(RunError { error, counters });
            }
            if let Some(stop_reason) = self.stop_reason {
                self.connections.close_all();
                return Ok(RunSummary {
                    stop_reason,
                    source_counters: self.sources.counters(),
                    counters: self.connections.context.counters,
                });
            }
        }
    }

    /// One turn of the loop.
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        self.wait(events)?;
        self.connections.begin_turn(events.iter().count());
        for event in &*events {
            self.dispatch(event)?;
        }
        self.connections.run_queued(Some(TURN_TIME));
        self.connections.run_memory_queue();
        self.connections.close_due();
        self.notify(SourceSet::notify_due)?;
        self.accept();
        self.advance_drain();
        self.measure_turn();
        Ok(())
    }

    /// Waits for an event, at most until the earliest deadline.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        self.connections.context.now = self.wait.wait(events, self.due())?;
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        let now = self.connections.context.now;
        let has_room = self.connections.len() < self.config.max_connections;
        let accept = self.listeners.due(now).filter(|_| has_room);
        let drain = self.drain.as_ref().and_then(Drain::due);
        let dues = [self.connections.due(), accept, drain, self.sources.due(now)];
        dues.into_iter().flatten().min()
    }

    fn dispatch(&mut self, event: &Event) -> io::Result<()> {
        match event.token().0 {
            key if key < LISTENERS => self.connections.ready(key, event),
            token if token < FIRST_TOKEN => self.listeners.latch(token - LISTENERS),
            WAKER => self.woken()?,
            token => {
                let readiness = Readiness::from(event);
                self.notify(|sources, state| sources.ready(token, readiness, state))?;
            }
        }
        Ok(())
    }

    fn woken(&mut self) -> io::Result<()> {
        self.wait.take_wakeups();
        if self.stopper.is_wanted() {
            self.begin_drain()?;
        }
        self.notify(SourceSet::notify_woken)
    }

    /// Notifies event sources, and does what they want.
    fn notify(
        &mut self,
        notify: impl FnOnce(&mut SourceSet, LoopState<'_>) -> io::Result<Action>,
    ) -> io::Result<()> {
        match notify(&mut self.sources, state(&self.wait, &self.connections))? {
            Action::Drain => self.begin_drain()?,
            Action::Stop(status) => self.stop_reason = Some(StopReason::Stopped { status }),
            Action::Continue | Action::Again | Action::Leave => {}
        }
        Ok(())
    }

    /// Accepts last, for two reasons: connections that end in this turn have freed their slots, and no key
    /// of the slab is used again within a batch of events, where an event of its last owner could follow.
    fn accept(&mut self) {
        let now = self.connections.context.now;
        if self.connections.take_closed() {
            self.listeners.end_pause();
        }
        self.listeners.begin_turn();
        while self.connections.len() < self.config.max_connections {
            let is_due = self.listeners.due(now).is_some_and(|due| due <= now);
            if is_due && !self.connections.reserve() {
                self.listeners.pause(now, format_args!("no memory for one more connection"));
                break;
            }
            let Some((socket, peer)) = self.listeners.accept(now) else { break };
            if let Err(e) = self.connections.open(socket, &peer, self.wait.registry()) {
                self.warning.warn(now, format_args!("cannot watch the connection of {peer}: {e}"));
            }
        }
        self.connections.context.counters.accept_errors = self.listeners.errors();
        if self.drain.is_some() {
            self.listeners.close_empty(self.connections.len() > 0);
        }
    }

    fn begin_drain(&mut self) -> io::Result<()> {
        if self.drain.is_some() {
            return Ok(());
        }
        info!("draining, {} connections open", self.connections.len());
        let now = self.connections.context.now;
        self.drain = Some(Drain::begin(now, self.config.drain_timeout));
        self.listeners.begin_close();
        self.connections.begin_drain();
        self.notify(SourceSet::notify_drain)
    }

    fn advance_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let now = self.connections.context.now;
        if drain.stops_receiving(now) {
            self.listeners.close_all();
            self.connections.stop_receiving();
        }
        if drain.is_over(now) {
            // What is runnable gets a last turn: with a timeout of 0 it had none yet.
            self.connections.run_queued(None);
        }
        let all_gone = self.connections.len() == 0 && self.listeners.is_empty();
        if all_gone || drain.is_over(now) {
            let cut_off = self.connections.unfinished();
            self.stop_reason.get_or_insert(StopReason::Drained { cut_off });
        }
    }

    fn measure_turn(&mut self) {
        let turn = self.connections.context.now.elapsed();
        let longest = &mut self.connections.context.counters.longest_turn;
        *longest = turn.max(*longest);
    }
}

fn state<'a, P: Protocol>(wait: &'a Wait, connections: &'a Connections<P>) -> LoopState<'a> {
    LoopState {
        registry: wait.registry(),
        counters: &connections.context.counters,
        now: connections.context.now,
    }
}

impl<P: Protocol> fmt::Debug for Server<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.local_addrs())
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}
