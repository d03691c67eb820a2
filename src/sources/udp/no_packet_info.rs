//! Stands in for `packet_info` on systems that are not known to report the address to which a datagram was
//! sent. The system chooses the source of an answer there.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;

pub(crate) const IS_SUPPORTED: bool = false;

/// There is none.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked {}

impl Asked {
    pub(crate) fn is_one_host(self) -> bool {
        match self {}
    }
}

pub(crate) fn enable(_: &socket2::Socket, _: bool) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Length, source and asked address of a datagram.
pub(crate) type Received = (usize, Option<SocketAddr>, Option<Asked>);

pub(crate) fn receive(_: impl AsFd, _: &mut [u8]) -> io::Result<Received> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn send(_: impl AsFd, _: &[u8], _: SocketAddr, from: &Asked) -> io::Result<()> {
    match *from {}
}
