//! The load tester: the same pattern from the side that connects.
//!
//! A [`Plan`] says what to load, a [`Run`] does it, and [`Results`] are what was measured. Inside,
//! [`Client`](client::Client) is the state machine of one connection, and
//! [`DatagramClient`](datagram::DatagramClient) that of one UDP socket. [`Schedule`](schedule::Schedule)
//! says when their messages are due, and [`Payload`](payload::Payload) makes and checks every byte.
//! There are as many loops as threads, each with a part of the connections. They share nothing but the
//! start, an early end, and the outages of the server.
//!
//! ```
//! use echoloop::load::{Plan, Run, Stop};
//! use echoloop::{Config, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::builder().endpoint("tcp://127.0.0.1:0".parse()?).build()?;
//! let server = Server::bind(&config)?;
//! let (targets, server_stopper) = (server.local_addrs(), server.stopper());
//! let server = std::thread::spawn(move || server.run());
//!
//! let plan = Plan::builder(targets).connections(10).stop(Stop::Messages(1000)).build()?;
//! let results = Run::new(&plan)?.run(|update| println!("{update}"))?;
//! assert_eq!(results.messages.echoed, 1000);
//! println!("{:?}", results.latency.summary());
//!
//! server_stopper.stop()?;
//! server.join().expect("no panic")?;
//! # Ok(())
//! # }
//! ```

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "what is cast is bounded by the size of a buffer, or is a figure of a report"
)]

mod backoff;
pub mod client;
pub mod clock;
mod coordination;
pub mod datagram;
mod due_times;
pub mod fault;
mod lookup;
pub mod messages;
pub mod noise;
pub mod outage;
pub mod payload;
mod pipeline;
pub mod plan;
pub mod rate;
pub mod results;
pub mod run;
pub mod schedule;
pub mod shape;
mod worker;

pub use plan::{Addresses, Plan, PlanBuilder, PlanError, Stop};
pub use rate::Rate;
pub use results::{Interval, Results, Update};
pub use run::{Run, Stopper};
