//! Clients of UDP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use super::DEADLINE;

/// A client on a port of 127.0.0.1 that the system picks.
#[track_caller]
pub fn client() -> UdpSocket {
    client_of(false)
}

/// A client on a port of the loopback address of that family.
#[track_caller]
pub fn client_of(is_ipv6: bool) -> UdpSocket {
    let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
    from((if is_ipv6 { Ipv6Addr::LOCALHOST.into() } else { v4 }, 0).into()).expect("bind")
}

/// A client on that address.
pub fn from(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    Ok(socket)
}

/// Sends a datagram and gets back the same, from where it was sent to.
#[track_caller]
pub fn ping(client: &UdpSocket, to: SocketAddr, datagram: &[u8]) {
    client.send_to(datagram, to).expect("send");
    expect(client, datagram, to);
}

#[track_caller]
pub fn expect(client: &UdpSocket, datagram: &[u8], from: SocketAddr) {
    let mut got = vec![0; 65_536];
    let (n, source) = client.recv_from(&mut got).expect("receive");
    assert!(got[..n] == *datagram, "{n} other bytes came back");
    assert_eq!(source, from, "answered from another address");
}

/// Sends a datagram until it comes back: one that comes too early can be lost. Returns what has come back. A
/// wildcard address stands for loopback.
pub fn try_echo(mut to: SocketAddr, datagram: &[u8]) -> io::Result<Vec<u8>> {
    if to.ip().is_unspecified() {
        to.set_ip(client_of(to.is_ipv6()).local_addr()?.ip());
    }
    let client = client_of(to.is_ipv6());
    client.connect(to)?;
    let (started, mut got) = (Instant::now(), vec![0; 65_536]);
    client.set_read_timeout(Some(DEADLINE / 60))?;
    loop {
        client.send(datagram)?;
        match client.recv(&mut got) {
            Ok(n) => return Ok(got[..n].to_vec()),
            Err(e) if started.elapsed() > DEADLINE => return Err(e),
            Err(_) => {}
        }
    }
}
