//! A task for each connection, on one thread, with the crates that smol consists of.

use std::io;
use std::net::{SocketAddr, TcpStream};

use async_executor::LocalExecutor;
use async_io::Async;
use futures_lite::{AsyncReadExt, AsyncWriteExt};

use super::listener::{BUFFER, listen};

pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    let executor = LocalExecutor::new();
    async_io::block_on(executor.run(async {
        let listener = Async::new(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.get_ref().set_nodelay(true)?;
            executor.spawn(echo(stream)).detach();
        }
    }))
}

async fn echo(mut stream: Async<TcpStream>) -> io::Result<()> {
    let mut page = vec![0; BUFFER];
    loop {
        match stream.read(&mut page).await? {
            0 => return Ok(()),
            n => stream.write_all(&page[..n]).await?,
        }
    }
}
