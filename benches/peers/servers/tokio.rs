//! A task for each connection, on one thread, with tokio: once with a buffer of the same size as the
//! daemon's, and once as in tokio's tutorial, with `copy` and its buffer of 8 KiB.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use super::listener::{BUFFER, listen};

pub fn serve(address: SocketAddr) -> io::Result<()> {
    run(address, echo)
}

pub fn serve_by_copy(address: SocketAddr) -> io::Result<()> {
    run(address, copy)
}

fn run<E>(address: SocketAddr, echo: fn(TcpStream) -> E) -> io::Result<()>
where
    E: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = listen(address)?;
    listener.set_nonblocking(true)?;
    Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(echo(stream));
        }
    })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut page = vec![0; BUFFER];
    loop {
        match stream.read(&mut page).await? {
            0 => return Ok(()),
            n => stream.write_all(&page[..n]).await?,
        }
    }
}

async fn copy(mut stream: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    Ok(())
}
