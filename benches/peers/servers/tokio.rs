//! A task for each connection, on one thread, with tokio.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use super::{BUFFER, listen};

pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    listener.set_nonblocking(true)?;
    Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
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
