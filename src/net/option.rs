//! Socket options that are integers and that neither socket2 nor rustix has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use uapi::c;

/// A socket option, by the numbers that setsockopt(2) takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IntegerOption {
    level: i32,
    number: i32,
}

impl IntegerOption {
    const fn new(level: i32, number: i32) -> IntegerOption {
        IntegerOption { level, number }
    }

    /// Least number of bytes that make a socket readable (socket(7)).
    pub(crate) const RCVLOWAT: IntegerOption = IntegerOption::new(c::SOL_SOCKET, c::SO_RCVLOWAT);

    /// Whether peers may pass files (Linux 6.16).
    pub(crate) const PASSRIGHTS: IntegerOption =
        IntegerOption::new(c::SOL_SOCKET, if cfg!(target_arch = "sparc64") { 92 } else { 83 });

    /// Whether the kernel joins small sends (tcp(7)).
    pub(crate) const CORK: IntegerOption = IntegerOption::new(c::IPPROTO_TCP, c::TCP_CORK);

    /// How long the kernel waits for the peer's end after ours (tcp(7)).
    pub(crate) const LINGER2: IntegerOption = IntegerOption::new(c::IPPROTO_TCP, c::TCP_LINGER2);

    /// Whether a message of ICMP is an error of the socket at once (ip(7)).
    pub(crate) const RECVERR: IntegerOption = IntegerOption::new(c::IPPROTO_IP, c::IP_RECVERR);

    /// Whether a message of `ICMPv6` is an error of the socket at once (ipv6(7)).
    pub(crate) const RECVERR_V6: IntegerOption =
        IntegerOption::new(c::IPPROTO_IPV6, c::IPV6_RECVERR);

    /// Whether datagrams that arrived are joined to one (udp(7)).
    #[cfg(feature = "cli")]
    pub(crate) const UDP_GRO: IntegerOption = IntegerOption::new(c::IPPROTO_UDP, c::UDP_GRO);

    /// Length of the pieces into which a datagram is cut (udp(7)).
    #[cfg(feature = "cli")]
    pub(crate) const UDP_SEGMENT: IntegerOption =
        IntegerOption::new(c::IPPROTO_UDP, c::UDP_SEGMENT);

    /// Whether datagrams wait to be sent as one (udp(7)).
    #[cfg(feature = "cli")]
    pub(crate) const UDP_CORK: IntegerOption = IntegerOption::new(c::IPPROTO_UDP, c::UDP_CORK);

    /// Sets the option.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub(crate) fn set(self, socket: impl AsFd, value: i32) -> io::Result<()> {
        let file = socket.as_fd().as_raw_fd();
        Ok(uapi::setsockopt(file, self.level, self.number, &value)?)
    }
}
