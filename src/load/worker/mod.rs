//! One loop of the load tester: a poll, its clients, and its part of the messages.
//!
//! [`event_loop`] waits and goes through the steps of a turn. The steps are methods of the
//! [`connections`]: those that drive a client are there, the others in [`connecting`], [`ending`] and [`retry`].
//! Below those, [`workload`] gives out the messages and counts them, and [`watch`] follows
//! what an outage costs.

mod alarm;
pub(crate) mod connect;
mod connecting;
pub(crate) mod connections;
mod connector;
mod ending;
pub(crate) mod event_loop;
pub(crate) mod gaps;
pub(crate) mod reporter;
mod retries;
mod retry;
mod slot;
pub(crate) mod targets;
pub(crate) mod usage;
mod watch;
pub(crate) mod workload;
