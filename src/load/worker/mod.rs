//! One loop of the load tester: a poll, its clients, and its part of the messages.
//!
//! [`event_loop`] waits and goes through the steps of a turn. The steps are in [`driving`],
//! [`connecting`] and [`give_up`], and all of them work on the [`connections`]. Below those,
//! [`workload`] gives out the messages and counts them.

mod alarm;
mod connect_queue;
mod connecting;
pub(crate) mod connections;
mod connector;
mod driving;
pub(crate) mod event_loop;
mod give_up;
pub(crate) mod reporter;
mod slots;
pub(crate) mod usage;
pub(crate) mod workload;
