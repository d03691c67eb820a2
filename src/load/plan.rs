//! What to load, with what, and for how long; checked before anything runs.
//!
//! (Longer than other files: most of it is a setter for each option.)

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::load::rate::Rate;
use crate::load::shape::Shape;
use crate::net::address::Address;
use crate::net::endpoint::Endpoint;
use crate::protocol::Kind;

/// More connections than a machine has file descriptors for.
const MAX_CONNECTIONS: usize = 1_000_000;

const MAX_PIPELINE: usize = 1_000_000;

/// Most messages in flight on all connections together. Each takes 16 bytes of memory.
const MAX_IN_FLIGHT: usize = 16_000_000;

const MAX_THREADS: usize = 256;

const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// A load that can be run. It comes from a [`PlanBuilder`], so its settings are valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) targets: Vec<Address>,
    pub(crate) addresses: Addresses,
    /// What is looked up again when a connection is made again.
    pub(crate) name: Option<Endpoint>,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) shape: Shape,
    pub(crate) pipeline: usize,
    pub(crate) rate: Option<Rate>,
    pub(crate) connect_rate: Option<Rate>,
    /// `None`: a connection stays.
    pub(crate) messages_per_connection: Option<u64>,
    /// Whether a lost connection is made again.
    pub(crate) replaces: bool,
    pub(crate) half_close: bool,
    pub(crate) source_ips: Vec<IpAddr>,
    pub(crate) warm_up: Duration,
    pub(crate) stop: Stop,
    pub(crate) timeout: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) busy_poll: Option<Duration>,
    pub(crate) seed: u64,
}

/// To which address of the target a connection goes, if there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Addresses {
    /// To all of them in turn. One that fails is tried less.
    All,
    /// To the first one that works.
    First,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// After this time no message becomes due. Messages in flight are waited for.
    After(Duration),
    /// After this number of messages.
    Messages(u64),
}

impl Plan {
    /// Returns a builder with the defaults of the command `echoload`. `targets` are the addresses of
    /// the server; see [`Addresses`].
    pub fn builder(targets: Vec<Address>) -> PlanBuilder {
        let plan = Plan {
            targets,
            addresses: Addresses::All,
            name: None,
            connections: 50,
            threads: 1,
            shape: Shape::default(),
            pipeline: 1,
            rate: None,
            connect_rate: None,
            messages_per_connection: None,
            replaces: true,
            half_close: false,
            source_ips: Vec::new(),
            warm_up: Duration::ZERO,
            stop: Stop::After(Duration::from_secs(10)),
            timeout: Some(Duration::from_secs(5)),
            interval: None,
            busy_poll: None,
            seed: random_seed(),
        };
        PlanBuilder { plan, framing: Kind::Raw, lengths: None }
    }

    /// Returns whether the targets take datagrams.
    pub(crate) fn is_udp(&self) -> bool {
        self.targets.iter().any(|target| target.as_udp().is_some())
    }

    /// Returns whether a connection ends after a number of messages, so that connecting is part of the load.
    pub(crate) fn reconnects(&self) -> bool {
        self.messages_per_connection.is_some()
    }

    /// Returns the seed of the payload. The same seed gives the same bytes.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// Sets up a [`Plan`]. Nothing is checked before [`build`](PlanBuilder::build).
#[derive(Debug, Clone)]
#[must_use]
pub struct PlanBuilder {
    plan: Plan,
    framing: Kind,
    lengths: Option<RangeInclusive<u64>>,
}

impl PlanBuilder {
    /// Sets the addresses of the server; at least one.
    pub fn targets(mut self, targets: Vec<Address>) -> PlanBuilder {
        self.plan.targets = targets;
        self
    }

    /// Sets to which of the addresses a connection goes; `All` by default.
    pub fn addresses(mut self, addresses: Addresses) -> PlanBuilder {
        self.plan.addresses = addresses;
        self
    }

    /// Sets the endpoint that the targets are the addresses of. If its host is a name, it is looked up again
    /// after a connection was lost or could not be made, on a thread of its own and at most once a second. A
    /// lookup that takes longer than the run leaves its thread behind.
    pub fn name(mut self, name: Endpoint) -> PlanBuilder {
        self.plan.name = Some(name).filter(Endpoint::is_name);
        self
    }

    /// Sets the number of connections that are open at the same time, from 1 to a million.
    pub fn connections(mut self, connections: usize) -> PlanBuilder {
        self.plan.connections = connections;
        self
    }

    /// Sets the number of loops, each with a thread and a part of the connections: from 1 to 256, and
    /// no more than there are connections.
    pub fn threads(mut self, threads: usize) -> PlanBuilder {
        self.plan.threads = threads;
        self
    }

    /// Sets how messages are delimited. `Raw`, the default, is not at all.
    pub fn framing(mut self, framing: Kind) -> PlanBuilder {
        self.framing = framing;
        self
    }

    /// Sets the number of bytes of a message with its header or its newline, from 1 to 1 GiB. If it is a
    /// range, each message has a random length in it. Without this, messages have 64 bytes, or the
    /// lengths that the framing determines.
    pub fn lengths(mut self, lengths: RangeInclusive<u64>) -> PlanBuilder {
        self.lengths = Some(lengths);
        self
    }

    /// Sets the most messages in flight on a connection, from 1 to a million.
    pub fn pipeline(mut self, pipeline: usize) -> PlanBuilder {
        self.plan.pipeline = pipeline;
        self
    }

    /// Sets the number of messages a second on all connections together, more than 0: an open loop.
    /// `None` is a closed loop, as fast as it goes.
    pub fn rate(mut self, rate: impl Into<Option<Rate>>) -> PlanBuilder {
        self.plan.rate = rate.into();
        self
    }

    /// Sets the number of new connections a second, more than 0. `None` is as fast as it goes.
    pub fn connect_rate(mut self, connect_rate: impl Into<Option<Rate>>) -> PlanBuilder {
        self.plan.connect_rate = connect_rate.into();
        self
    }

    /// Sets whether every message has a connection of its own: one message on each connection.
    pub fn reconnect(self, reconnect: bool) -> PlanBuilder {
        self.messages_per_connection(reconnect.then_some(1))
    }

    /// Sets the number of messages on a connection, at least 1. Then it is closed, and another one is made when
    /// the next message is due, so that the connect is part of the latency of that message. The pipeline must
    /// not be more. `None`, the default, is without limit.
    pub fn messages_per_connection(mut self, messages: impl Into<Option<u64>>) -> PlanBuilder {
        self.plan.messages_per_connection = messages.into();
        self
    }

    /// Sets whether a connection that was lost, or could not be made, is made again until the end of the run,
    /// as it is by default. The first wait is 10 ms; it doubles with each failure, up to a second.
    pub fn replace_lost(mut self, replace: bool) -> PlanBuilder {
        self.plan.replaces = replace;
        self
    }

    /// Sets whether a client shuts down its sending direction right after its last message.
    pub fn half_close(mut self, half_close: bool) -> PlanBuilder {
        self.plan.half_close = half_close;
        self
    }

    /// Sets the addresses to connect from, in turn. Without any, the kernel chooses, and to an IPv4
    /// loopback target the addresses 127.0.0.x are used when ports run short.
    pub fn source_ips(mut self, source_ips: Vec<IpAddr>) -> PlanBuilder {
        self.plan.source_ips = source_ips;
        self
    }

    /// Sets the time at the beginning that is not measured.
    pub fn warm_up(mut self, warm_up: Duration) -> PlanBuilder {
        self.plan.warm_up = warm_up;
        self
    }

    /// Sets when the run ends.
    pub fn stop(mut self, stop: Stop) -> PlanBuilder {
        self.plan.stop = stop;
        self
    }

    /// Sets how long a connect or a message may take; after that, its connection is closed. Zero is
    /// without limit.
    pub fn timeout(mut self, timeout: Duration) -> PlanBuilder {
        self.plan.timeout = non_zero(timeout);
        self
    }

    /// Sets how often the run reports what was measured so far, at least 10 ms. Zero is never.
    pub fn interval(mut self, interval: Duration) -> PlanBuilder {
        self.plan.interval = non_zero(interval);
        self
    }

    /// Sets how long the loops poll without sleeping after an event before they wait. Zero is never.
    pub fn busy_poll(mut self, busy_poll: Duration) -> PlanBuilder {
        self.plan.busy_poll = non_zero(busy_poll);
        self
    }

    /// Sets the seed of the payload, which is random otherwise.
    pub fn seed(mut self, seed: u64) -> PlanBuilder {
        self.plan.seed = seed;
        self
    }

    /// Checks the settings and returns the plan.
    ///
    /// # Errors
    /// The first setting that is not valid.
    pub fn build(self) -> Result<Plan, PlanError> {
        self.check()?;
        let plan = Plan { shape: self.shape()?, ..self.plan };
        let Plan { targets, source_ips, .. } = &plan;
        if targets.is_empty() {
            return Err("targets must have at least one address".into());
        }
        if plan.is_udp() && targets.iter().any(|target| target.as_udp().is_none()) {
            return Err("targets must all be of UDP, or none".into());
        }
        let target_ips =
            || targets.iter().filter_map(|target| Some(target.as_tcp().or(target.as_udp())?.ip()));
        let fits = |source: &IpAddr| target_ips().any(|ip| ip.is_ipv4() == source.is_ipv4());
        if let Some(ip) = source_ips.iter().find(|source| !fits(source)) {
            let error = format!("source-ip {ip}: no address of the target is of its family");
            return Err(PlanError(error.into()));
        }
        Ok(plan)
    }

    /// Checks all settings that can be checked without the targets, so that a caller need not resolve
    /// a name first.
    ///
    /// # Errors
    /// The first setting that is not valid.
    pub fn check(&self) -> Result<(), PlanError> {
        let plan = &self.plan;
        let is_udp = plan.is_udp();
        self.shape()?;
        let in_flight = plan.connections.saturating_mul(plan.pipeline);
        let rules = [
            ((1..=MAX_CONNECTIONS).contains(&plan.connections), "connections must be from 1 to 1M"),
            ((1..=MAX_PIPELINE).contains(&plan.pipeline), "pipeline must be from 1 to 1M"),
            (plan.stop != Stop::After(Duration::ZERO), "duration must not be 0"),
            (plan.stop != Stop::Messages(0), "requests must be at least 1"),
            (!(is_udp && plan.half_close), "half-close has no meaning with UDP"),
            (!(is_udp && plan.connect_rate.is_some()), "connect-rate has no meaning with UDP"),
            (
                !is_udp || self.framing == Kind::Raw,
                "framing has no meaning with UDP: a datagram is a message",
            ),
            (in_flight <= MAX_IN_FLIGHT, "connections times pipeline must be at most 16M"),
            (
                plan.interval.is_none_or(|interval| interval >= MIN_INTERVAL),
                "interval must be at least 10ms, or 0 for none",
            ),
            ((1..=MAX_THREADS).contains(&plan.threads), "threads must be from 1 to 256"),
            (plan.threads <= plan.connections, "threads must not be more than connections"),
            (is_positive(plan.rate), "rate must be more than 0"),
            (is_positive(plan.connect_rate), "connect-rate must be more than 0"),
        ];
        match rules.into_iter().chain(self.connection_rules()).find(|&(holds, _)| !holds) {
            Some((_, rule)) => Err(rule.into()),
            None => Ok(()),
        }
    }
}

impl PlanBuilder {
    /// Returns what must hold where a connection ends after a number of messages, and whether it does.
    fn connection_rules(&self) -> [(bool, &'static str); 5] {
        let (plan, is_udp) = (&self.plan, self.plan.is_udp());
        [
            (
                plan.messages_per_connection != Some(1) || plan.pipeline == 1,
                "reconnect has one message on each connection, so pipeline must be 1",
            ),
            (plan.messages_per_connection != Some(0), "messages-per-connection must be at least 1"),
            (
                plan.messages_per_connection.is_none_or(|most| most >= plan.pipeline as u64),
                "messages-per-connection must not be less than pipeline",
            ),
            (
                !(is_udp && plan.messages_per_connection == Some(1)),
                "reconnect has no meaning with UDP",
            ),
            (!(is_udp && plan.reconnects()), "messages-per-connection has no meaning with UDP"),
        ]
    }

    fn shape(&self) -> Result<Shape, PlanError> {
        let lengths = self.lengths.clone();
        // Without targets, it cannot be known yet that a message may be empty.
        let may_be_udp = self.plan.targets.is_empty() && self.framing == Kind::Raw;
        let can_be_datagrams = lengths.as_ref().is_some_and(|lengths| *lengths.start() == 0);
        if self.plan.is_udp() || may_be_udp && can_be_datagrams {
            return Shape::datagrams(lengths).map_err(|e| PlanError(e.into()));
        }
        Shape::new(self.framing.clone(), lengths).map_err(|e| PlanError(e.into()))
    }
}

/// A setting of a plan that is not valid. It prints as a sentence that begins with the name of the
/// setting, as `echoload` has it, without the dashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError(Cow<'static, str>);

impl From<&'static str> for PlanError {
    fn from(rule: &'static str) -> PlanError {
        PlanError(rule.into())
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for PlanError {}

fn is_positive(rate: Option<Rate>) -> bool {
    rate.is_none_or(|rate| rate.count > 0)
}

fn non_zero(duration: Duration) -> Option<Duration> {
    Some(duration).filter(|duration| !duration.is_zero())
}

/// Returns a seed that differs from run to run. The keys of the hasher are random enough.
fn random_seed() -> u64 {
    // Nine digits are easy to type again.
    RandomState::new().hash_one("seed") % 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> PlanBuilder {
        Plan::builder(vec![Address::Tcp(([127, 0, 0, 1], 7).into())])
    }

    #[test]
    fn the_defaults_are_a_plan() {
        assert!(builder().build().is_ok());
        let optional = builder().timeout(Duration::ZERO).interval(Duration::ZERO);
        let plan = optional.rate(Rate::from(1)).rate(None).build().expect("a plan");
        assert_eq!((plan.timeout, plan.interval, plan.rate), (None, None, None));
    }

    #[test]
    fn a_plan_that_cannot_run_is_refused_and_the_setting_is_named() {
        const GIB: u64 = 1024 * 1024 * 1024;
        let after = |time| builder().stop(Stop::After(time));
        for (builder, setting) in [
            (builder().targets(Vec::new()), "targets"),
            (builder().lengths(0..=64), "length"),
            (builder().lengths(64..=GIB + 1), "length"),
            (builder().lengths(64..=64).framing(Kind::Fixed(63)), "length"),
            (builder().framing(Kind::Fixed(2 * 1024 * 1024 * 1024)), "framing"),
            (builder().connections(0), "connections"),
            (builder().connections(1_000_001), "connections"),
            (builder().pipeline(0), "pipeline"),
            (builder().pipeline(1_000_001), "pipeline"),
            (builder().connections(1000).pipeline(16_001), "connections times pipeline"),
            (after(Duration::ZERO), "duration"),
            (builder().stop(Stop::Messages(0)), "requests"),
            (builder().reconnect(true).pipeline(2), "reconnect"),
            (builder().messages_per_connection(0), "messages-per-connection"),
            (builder().messages_per_connection(4).pipeline(5), "messages-per-connection"),
            (builder().interval(Duration::from_millis(9)), "interval"),
            (builder().threads(0), "threads must be from"),
            (builder().connections(1000).threads(257), "threads must be from"),
            (builder().connections(2).threads(5), "threads must not be more"),
            (builder().rate(Rate::from(0)), "rate"),
            (builder().connect_rate(Rate::from(0)), "connect-rate"),
            (builder().source_ips(vec!["::1".parse().unwrap()]), "source-ip ::1"),
        ] {
            let error = builder.build().expect_err(setting).to_string();
            assert!(error.starts_with(setting), "{setting}: {error}");
        }
    }

    #[test]
    fn the_bounds_themselves_are_valid() {
        for builder in [
            builder().lengths(1..=1).connections(1).threads(1),
            builder().lengths(1..=1024 * 1024 * 1024),
            builder().connections(1_000_000).pipeline(16).threads(256),
            builder().connections(1).pipeline(1_000_000),
            builder().interval(Duration::from_millis(10)),
            builder().rate(Rate::from_thousandths(1)).connect_rate(Rate::from_thousandths(1)),
            builder().stop(Stop::Messages(1)).reconnect(true),
            builder().messages_per_connection(5).pipeline(5),
            builder().source_ips(vec![[127, 0, 0, 9].into()]),
        ] {
            assert!(builder.clone().build().is_ok(), "{builder:?}");
        }
    }
}
