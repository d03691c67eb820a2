//! One loop of the load tester: a poll, its clients, and its part of the messages.
//!
//! [`event_loop`] waits and goes through the steps of a turn. [`connections`] drives the clients,
//! [`connecting`] begins connects, and [`give_up`] ends what takes too long. Below them,
//! [`workload`] counts what the clients do.

mod alarm;
mod connect_queue;
mod connecting;
pub(crate) mod connections;
mod connector;
pub(crate) mod event_loop;
mod give_up;
pub(crate) mod reporter;
mod slots;
pub(crate) mod usage;
pub(crate) mod workload;
