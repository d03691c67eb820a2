//! Counters of datagrams. They add up: those received are those sent plus those dropped.

use crate::server::source::SourceCounter;

/// Reason why a datagram was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The source port is below 1024.
    Port,
    /// The source or the destination is not the address of one host.
    Address,
    /// The source is an endpoint of this daemon.
    Own,
    /// The source has had as many answers as it may have.
    Rate,
    /// The send buffer is full.
    WouldBlock,
    /// The network has refused the answer.
    Unsendable,
}

impl Cause {
    const ALL: [Cause; 6] = [
        Cause::Port,
        Cause::Address,
        Cause::Own,
        Cause::Rate,
        Cause::WouldBlock,
        Cause::Unsendable,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Cause::Port => "port",
            Cause::Address => "address",
            Cause::Own => "own",
            Cause::Rate => "rate",
            Cause::WouldBlock => "would_block",
            Cause::Unsendable => "unsendable",
        }
    }
}

/// What has become of the datagrams.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    dropped: [u64; Cause::ALL.len()],
    /// Number of calls that failed. No datagram was received by them.
    pub(crate) receive_errors: u64,
}

impl Counters {
    pub(crate) fn drop(&mut self, cause: Cause) {
        self.dropped[cause as usize] += 1;
    }

    pub(crate) fn list(&self) -> Vec<SourceCounter> {
        let plain = |name, help, value| SourceCounter { name, cause: None, help, value };
        let dropped = Cause::ALL.iter().map(|&cause| SourceCounter {
            name: "datagrams_dropped",
            cause: Some(cause.name()),
            help: "Datagrams received and not answered, by cause.",
            value: self.dropped[cause as usize],
        });
        [
            plain("datagrams_received", "Datagrams received.", self.received),
            plain("datagrams_sent", "Datagrams sent.", self.sent),
        ]
        .into_iter()
        .chain(dropped)
        .chain([plain(
            "datagram_receive_errors",
            "Errors of receiving a datagram.",
            self.receive_errors,
        )])
        .collect()
    }
}
