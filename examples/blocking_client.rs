//! A blocking client of messages: the first half of Python's Socket Programming HOWTO as a program.
//!
//! Each message has its length in front, in five digits. The client sends its arguments, one message
//! each, and prints the answers. Try it: `cargo run -- --framing length:ascii5`, then in another terminal
//! `cargo run --example blocking_client 127.0.0.1:65432 hello world`.
use std::env;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

/// Number of digits in front of a message.
const PREFIX: usize = 5;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:65432".into());
    let mut stream = TcpStream::connect(address)?;
    for message in arguments {
        send_message(&stream, message.as_bytes())?;
        // Before the next message is sent. If nobody reads the answers, the server stops reading, and both
        // wait for ever.
        let answer = receive_message(&mut stream)?;
        writeln!(io::stdout(), "{}", String::from_utf8_lossy(&answer))?;
    }
    // "This client is done sending, but can still receive." The server answers with its own end, which is
    // a recv of 0 bytes. Only then has it received everything.
    stream.shutdown(Shutdown::Write)?;
    if stream.read(&mut [0])? != 0 {
        return Err(io::Error::other("the server sent more than it was asked for"));
    }
    // Close. The end of the function would do it as well.
    drop(stream);
    Ok(())
}

/// Sends the length, then the message. The buffer joins them into one send.
fn send_message(stream: &TcpStream, message: &[u8]) -> io::Result<()> {
    let prefix = format!("{:0PREFIX$}", message.len());
    if prefix.len() > PREFIX {
        return Err(io::Error::new(ErrorKind::InvalidInput, "a message is at most 99999 bytes"));
    }
    let mut buffered = BufWriter::new(stream);
    mysend(&mut buffered, prefix.as_bytes())?;
    mysend(&mut buffered, message)?;
    // Without it the message may stay in the buffer, and both sides wait for each other.
    buffered.flush()
}

/// Two loops, as the HOWTO demands: one for the length, one for the message.
fn receive_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let prefix = myreceive(stream, PREFIX)?;
    let length = prefix.iter().try_fold(0, |length, digit| match digit {
        b'0'..=b'9' => Ok(10 * length + usize::from(digit - b'0')),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "the length is not a number")),
    })?;
    myreceive(stream, length)
}

/// Sends all bytes. A send may take fewer than it is given. The library's `write_all` is this loop.
fn mysend(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => sent += n,
            // A signal arrived first (EINTR). Nothing was sent.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Receives exactly `length` bytes, since those behind them belong to the next message. A recv may return
/// fewer than it is asked for. The library's `read_exact` is this loop.
fn myreceive(stream: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let (mut message, mut received) = (vec![0; length], 0);
    while received < length {
        match stream.read(&mut message[received..]) {
            Ok(0) => {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the end, not a message"));
            }
            Ok(n) => received += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(message)
}
