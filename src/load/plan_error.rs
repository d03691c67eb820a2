//! Why a plan cannot be run.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;

/// The setting of a plan that is not valid. The message begins with the name of the setting
/// as `echoload` has it, without the dashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// There is no target.
    Targets,
    /// The length of a message is out of bounds.
    Length,
    /// The number of connections is out of bounds.
    Connections,
    /// The pipeline is out of bounds.
    Pipeline,
    /// All pipelines together are too large.
    InFlight,
    /// The run would take no time.
    Duration,
    /// The run would have no messages.
    Requests,
    /// A new connection for each message excludes a pipeline.
    Reconnect,
    /// The interval is too short.
    Interval,
    /// The number of threads is out of bounds.
    Threads,
    /// A thread would have no connection.
    ThreadsAndConnections,
    /// The rate is zero.
    Rate,
    /// The rate of new connections is zero.
    ConnectRate,
    /// No target can be reached from this address.
    SourceIp(IpAddr),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PlanError::Targets => "targets must have at least one address",
            PlanError::Length => "length must be from 1 to 1GiB",
            PlanError::Connections => "connections must be from 1 to 1M",
            PlanError::Pipeline => "pipeline must be from 1 to 1M",
            PlanError::InFlight => "connections times pipeline must be at most 16M",
            PlanError::Duration => "duration must not be 0",
            PlanError::Requests => "requests must be at least 1",
            PlanError::Reconnect => {
                "reconnect has one message on each connection, so pipeline must be 1"
            }
            PlanError::Interval => "interval must be at least 10ms, or 0 for none",
            PlanError::Threads => "threads must be from 1 to 256",
            PlanError::ThreadsAndConnections => "threads must not be more than connections",
            PlanError::Rate => "rate must be at least 1",
            PlanError::ConnectRate => "connect-rate must be at least 1",
            PlanError::SourceIp(ip) => {
                return write!(f, "source-ip {ip}: no address of the target is of its family");
            }
        })
    }
}

impl Error for PlanError {}
