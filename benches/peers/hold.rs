//! Idle clients: each has had one echo and then sends nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use echoloop::process::limits;
use socket2::{Domain, Socket, Type};

use crate::process::Process;

const MESSAGE: [u8; 64] = [0x5A; 64];

/// Starts a process that holds `count` idle connections, and waits until it has them.
pub fn start(cpu: usize, count: usize, address: &str) -> io::Result<Process> {
    let itself = std::env::current_exe()?.display().to_string();
    let words = [itself, "--hold".into(), count.to_string(), address.into()];
    let mut holder = Process::pinned(cpu, &words)?;
    match holder.line()? {
        Some(_) => Ok(holder),
        None => Err(io::Error::other(format!("cannot hold {count} connections to {address}"))),
    }
}

/// The body of that process. It does not return.
pub fn hold(count: usize, address: &str) -> io::Result<()> {
    limits::raise_file_limit();
    let address = address.parse().map_err(io::Error::other)?;
    let held: Vec<TcpStream> =
        (0..count).map(|nth| connect(nth, address)).collect::<io::Result<_>>()?;
    println!("{} held", held.len());
    loop {
        thread::park();
    }
}

/// A client that has had one echo. Clients connect from many addresses, none of which the load tester
/// uses, so that there are enough ports.
pub fn connect(nth: usize, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let last = u8::try_from(1 + nth % 250).map_err(io::Error::other)?;
    socket.bind(&SocketAddr::from(([127, 0, 1, last], 0)).into())?;
    socket.connect(&address.into())?;
    let (mut stream, mut answer) = (TcpStream::from(socket), [0; MESSAGE.len()]);
    stream.write_all(&MESSAGE)?;
    stream.read_exact(&mut answer)?;
    if answer == MESSAGE { Ok(stream) } else { Err(io::Error::other("other bytes came back")) }
}
