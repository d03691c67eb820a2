//! The address to which a datagram was sent.
//!
//! A socket that is bound to every address would answer from the one that the route to the client prefers.
//! A client that has asked another one drops such an answer. So the kernel is asked for the address
//! (`IP_PKTINFO`, ip(7); `IPV6_RECVPKTINFO`, ipv6(7)), and the answer is sent from there.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// Whether this system can report the address.
pub(crate) const IS_SUPPORTED: bool = true;

/// The address that a client asked, which is the source of the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl Asked {
    fn of(message: &ControlMessageOwned) -> Option<Asked> {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let mut info = *info;
                // The route decides on the interface of the answer.
                info.ipi_ifindex = 0;
                // The kernel does not fill it in for what it has received before it was asked to.
                if info.ipi_spec_dst.s_addr == 0 {
                    info.ipi_spec_dst = info.ipi_addr;
                }
                Some(Asked::V4(info))
            }
            // The interface stays: without it the kernel refuses a link-local source.
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Asked::V6(*info)),
            _ => None,
        }
    }

    /// Returns whether the datagram was sent to this machine alone, neither broadcast nor multicast.
    pub(crate) fn is_one_host(&self) -> bool {
        match self {
            // The second is the address from which the kernel would answer.
            Asked::V4(info) => info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr,
            Asked::V6(info) => !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_multicast(),
        }
    }
}

/// Room for control messages, aligned as they are. An adopted socket may have asked for more than one.
#[repr(align(16))]
struct Control([u8; 256]);

/// Has the kernel report the addresses.
pub(crate) fn enable(socket: &socket2::Socket, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Length, source and asked address of a datagram.
pub(crate) type Received = (usize, Option<SocketAddr>, Option<Asked>);

pub(crate) fn receive(socket: impl AsFd, room: &mut [u8]) -> io::Result<Received> {
    let fd = socket.as_fd().as_raw_fd();
    let mut control = Control([0; 256]);
    let mut room = [IoSliceMut::new(room)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<SockaddrStorage>(fd, &mut room, Some(&mut control.0), flags)?;
    let asked = message.cmsgs().ok().and_then(|mut messages| messages.find_map(|m| Asked::of(&m)));
    Ok((message.bytes, message.address.as_ref().and_then(socket_address), asked))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    to: SocketAddr,
    from: &Asked,
) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let control = match from {
        Asked::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Asked::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    };
    let (bytes, to) = ([IoSlice::new(bytes)], SockaddrStorage::from(to));
    sendmsg(fd, &bytes, &[control], MsgFlags::empty(), Some(&to))?;
    Ok(())
}
