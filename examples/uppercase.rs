//! A protocol of one's own: answers each line in upper case.
//!
//! Try it: `cargo run --example uppercase 127.0.0.1:7000`, then `nc 127.0.0.1 7000`.

use std::env;
use std::error::Error;

use echoloop::protocol::{Exchange, Malformed, Next, Protocol};
use echoloop::{Config, Server};

/// Lines that end in a newline. A line that is not complete yet stays in the input.
struct Uppercase;

impl Protocol for Uppercase {
    type State = ();

    fn received(&mut self, (): &mut (), exchange: &mut Exchange<'_>) -> Result<Next, Malformed> {
        while let Some(newline) = exchange.input().iter().position(|&byte| byte == b'\n') {
            let line = exchange.input()[..=newline].to_ascii_uppercase();
            if !exchange.answer(&line) {
                return Ok(Next::Send);
            }
            exchange.consume(line.len());
        }
        Ok(Next::Receive)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = env::args().nth(1).unwrap_or("127.0.0.1:65432".into()).parse()?;
    let config = Config::builder().endpoint(endpoint).build()?;
    let server = Server::with_protocol(Uppercase, &config)?;
    for address in server.local_addrs() {
        println!("{address}");
    }
    server.run()?;
    Ok(())
}
