//! A thread for each connection, with blocking calls.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use super::listener::{BUFFER, listen};

pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        // Not `thread::spawn`, which panics if no thread can be created.
        thread::Builder::new().spawn(|| echo(stream))?;
    }
}

pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut page = vec![0; BUFFER];
    loop {
        match stream.read(&mut page)? {
            0 => return Ok(()),
            n => stream.write_all(&page[..n])?,
        }
    }
}
