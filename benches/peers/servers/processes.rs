//! A process for each connection, as inetd does it: the socket is its standard input and output.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::listener::listen;
use super::threads;

pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    let itself = std::env::current_exe()?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let input = OwnedFd::from(stream.try_clone()?);
        Command::new(&itself).arg("--copy").stdin(input).stdout(OwnedFd::from(stream)).spawn()?;
        reap();
    }
}

/// The kernel adds the processor time of a child to ours when we wait for it.
fn reap() {
    let next = || waitpid(None, Some(WaitPidFlag::WNOHANG));
    while next().is_ok_and(|status| status != WaitStatus::StillAlive) {}
}

/// The child: copies its input to its output.
pub fn copy() -> io::Result<()> {
    threads::echo(TcpStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}
