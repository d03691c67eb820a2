//! A bare loop of two blocking calls, one datagram after the other. It is the limit for a program with
//! one thread that receives and sends single datagrams.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::listener::BUFFER;

pub fn serve(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    println!("udp://{}", socket.local_addr()?);
    let mut page = vec![0; BUFFER];
    loop {
        let (length, client) = socket.recv_from(&mut page)?;
        // An answer that cannot be sent is lost. This must not end the service for others.
        let _ = socket.send_to(&page[..length], client);
    }
}
