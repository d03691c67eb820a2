//! Echo of datagrams (RFC 862, "UDP Based Echo Service").
//!
//! A datagram has no connection. There is nothing to accept and no end of a stream: an empty datagram is a
//! datagram. Back-pressure does not exist either. An answer that cannot be sent now is dropped and counted,
//! as any router on the way could have dropped it.
//!
//! # What an echo of datagrams can be used for
//!
//! The source address of a datagram proves nothing, and whoever answers it can be turned against others
//! (CVE-1999-0103, CVE-2024-2169). An answer is never longer than what was received, so an echo does not
//! amplify. What else is done about it:
//!
//! - UDP is off unless an endpoint asks for it.
//! - Source ports below 1024 get no answer. They belong to services, and two of those that answer each other
//!   (echo and chargen, for example) never stop.
//! - Our own endpoints get no answer, for the same reason.
//! - What was sent to, or claims to be from, more than one host gets no answer.
//! - Each source address gets a limited number of answers a second ([`UdpOptions::rate`]).
//!
//! What this cannot stop: a forged datagram between two echo servers on high ports of two machines. It goes
//! back and forth until it is lost. The limit of answers bounds how fast, and ends it if it is ever reached.
//!
//! Sources: RFC 862, udp(7), ip(7), ipv6(7).

mod counters;
mod guard;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod packet_info;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "no_packet_info.rs"]
mod packet_info;
mod rate;
mod responder;
mod service;
mod socket;

pub use service::{UdpEcho, UdpOptions};
