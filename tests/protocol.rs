//! A protocol of an embedder's own, over real sockets: what the connection does for it, and to it.

mod common;

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use common::{InProcess, any_port, eventually, expect_bytes, expect_end, half_close, ping};
use echoloop::protocol::{Echo, Exchange, Malformed, Next, Protocol};
use echoloop::{Config, ConfigBuilder, Counters, Server, StopReason};

/// Lines that are commands: `add N` adds to the sum of this connection, `sum` asks for it, `more N` asks
/// for N bytes, `bye` ends the conversation. Anything else is malformed. The end of input is answered with
/// the sum.
#[derive(Default)]
struct Calculator;

#[derive(Default)]
struct Sum {
    sum: u64,
    /// Bytes that `more` still owes.
    more: usize,
}

impl Calculator {
    fn line(sum: &mut Sum, line: &str) -> Result<(Vec<u8>, Next), Malformed> {
        let number = |text: &str| text.parse::<u32>().map_err(|_| Malformed::new("no number"));
        Ok(match line.split_once(' ') {
            Some(("add", n)) => {
                sum.sum += u64::from(number(n)?);
                (Vec::new(), Next::Receive)
            }
            Some(("more", n)) => {
                sum.more = number(n)? as usize;
                (Vec::new(), Next::Send)
            }
            None if line == "sum" => (format!("{}\n", sum.sum).into(), Next::Receive),
            None if line == "bye" => (b"goodbye\n".to_vec(), Next::Close),
            _ => return Err(Malformed::new(format!("no command: {line}"))),
        })
    }
}

impl Protocol for Calculator {
    type State = Sum;

    fn received(&mut self, sum: &mut Sum, exchange: &mut Exchange<'_>) -> Result<Next, Malformed> {
        loop {
            while sum.more > 0 {
                let piece = sum.more.min(100);
                if !exchange.answer(&vec![b'x'; piece]) {
                    return Ok(Next::Send);
                }
                sum.more -= piece;
            }
            let Some(newline) = exchange.input().iter().position(|&byte| byte == b'\n') else {
                return Ok(Next::Receive);
            };
            let line = String::from_utf8_lossy(&exchange.input()[..newline]).into_owned();
            let (answer, next) = Calculator::line(sum, &line)?;
            if !exchange.answer(&answer) {
                return Ok(Next::Send);
            }
            exchange.consume(newline + 1);
            if next == Next::Close {
                return Ok(next);
            }
        }
    }

    fn end_of_input(
        &mut self,
        sum: &mut Sum,
        exchange: &mut Exchange<'_>,
    ) -> Result<Next, Malformed> {
        let answer = format!("total {}\n", sum.sum);
        Ok(if exchange.answer(answer.as_bytes()) { Next::Close } else { Next::Send })
    }
}

fn start(config: ConfigBuilder) -> (InProcess, std::sync::mpsc::Receiver<Counters>) {
    let config = config.endpoint(any_port()).build().expect("a configuration");
    let server = Server::with_protocol(Calculator, &config).expect("bind");
    InProcess::run_counted(server)
}

/// Stops the server, and returns what it counted.
fn counters((server, counters): (InProcess, std::sync::mpsc::Receiver<Counters>)) -> Counters {
    server.stop();
    counters.recv().expect("counters")
}

fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("send");
}

#[test]
fn each_connection_has_its_own_state_and_several_messages_may_arrive_at_once() {
    let server = start(Config::builder());
    let (mut one, mut other) = (server.0.connect(), server.0.connect());
    say(&mut one, "add 1\nadd 2\nsum\n");
    say(&mut other, "add 40\nsum\nadd 2\nsum\n");
    expect_bytes(&mut one, b"3\n");
    expect_bytes(&mut other, b"40\n42\n");
}

#[test]
fn a_message_that_arrives_byte_by_byte_is_answered_once_it_is_whole() {
    let server = start(Config::builder());
    let mut stream = server.0.connect();
    for byte in "add 123\nsum\n".bytes() {
        stream.write_all(&[byte]).expect("send");
    }
    expect_bytes(&mut stream, b"123\n");
}

#[test]
fn the_end_of_input_is_answered_before_the_end() {
    let server = start(Config::builder());
    let mut stream = server.0.connect();
    say(&mut stream, "add 5\nadd 6\nhalf a li");
    half_close(&stream);
    expect_bytes(&mut stream, b"total 11\n");
    expect_end(&mut stream);
    let counters = counters(server);
    assert_eq!((counters.closed_peer, counters.bytes_unsent), (1, 9), "{counters}");
}

#[test]
fn malformed_input_ends_its_connection_after_what_was_owed_and_is_counted() {
    let server = start(Config::builder());
    let mut good = server.0.connect();
    let mut bad = server.0.connect();
    // What follows the malformed line is unread when we close, and must not cost the answer.
    say(&mut bad, "add 7\nsum\nnonsense\nsum\n");
    expect_bytes(&mut bad, b"7\n");
    expect_end(&mut bad);
    drop(bad);
    say(&mut good, "sum\n");
    expect_bytes(&mut good, b"0\n");
    drop(good);
    let counters = counters(server);
    assert_eq!(counters.closed_malformed, 1, "{counters}");
}

#[test]
fn a_message_larger_than_the_buffer_is_malformed() {
    let server = start(Config::builder().max_buffer(1024));
    let mut stream = server.0.connect();
    stream.write_all(&[b'a'; 2000]).expect("send");
    expect_end(&mut stream);
    drop(stream);
    assert_eq!(counters(server).closed_malformed, 1);
}

#[test]
fn answers_far_larger_than_the_buffer_are_sent_in_parts() {
    let server = start(Config::builder().max_buffer(1024));
    let mut stream = server.0.connect();
    say(&mut stream, "more 5000000\nadd 1\nsum\n");
    expect_bytes(&mut stream, &vec![b'x'; 5_000_000]);
    expect_bytes(&mut stream, b"1\n");
}

#[test]
fn the_protocol_may_end_the_conversation_and_its_last_answer_arrives() {
    let server = start(Config::builder());
    let mut stream = server.0.connect();
    say(&mut stream, "add 1\nsum\nbye\nsum\n");
    expect_bytes(&mut stream, b"1\ngoodbye\n");
    expect_end(&mut stream);
    drop(stream);
    assert_eq!(counters(server).closed_protocol, 1);
}

#[test]
fn half_a_message_does_not_hold_up_the_drain() {
    let server = start(Config::builder().drain_timeout(std::time::Duration::from_secs(3600)));
    let mut stream = server.0.connect();
    say(&mut stream, "add 1\nsum\nhalf");
    expect_bytes(&mut stream, b"1\n");
    server.0.stopper.stop().expect("wake");
    expect_end(&mut stream);
    drop(stream);
    let counters = counters(server);
    assert_eq!((counters.closed_drain, counters.bytes_unsent), (1, 4), "{counters}");
}

#[test]
fn two_servers_of_different_protocols_run_beside_each_other() {
    let calculator = start(Config::builder());
    let config = Config::builder().endpoint(any_port()).build().expect("a configuration");
    let echo = InProcess::run(Server::with_protocol(Echo, &config).expect("bind"));
    ping(&mut echo.connect(), b"sum\n");
    let mut stream = calculator.0.connect();
    say(&mut stream, "sum\n");
    expect_bytes(&mut stream, b"0\n");
    stream.shutdown(Shutdown::Both).expect("close");
}

#[test]
fn a_peer_that_stays_after_our_end_is_let_go_after_a_second() {
    let server = start(Config::builder().max_buffer(1024));
    let large = "a".repeat(2000);
    let stay: Vec<TcpStream> = ["nonsense\n", "bye\n", &large]
        .into_iter()
        .map(|text| {
            let mut stream = server.0.connect();
            say(&mut stream, text);
            stream
        })
        .collect();
    for mut stream in &stay {
        // Our end arrives; theirs never does.
        std::io::copy(&mut stream, &mut std::io::sink()).expect("the end, not a reset");
    }
    eventually("the server has closed them", || {
        // What is sent to a closed socket is answered with a reset.
        stay.iter().all(|mut stream| stream.write(b"?").is_err())
    });
    let counters = counters(server);
    assert_eq!((counters.closed_malformed, counters.closed_protocol), (2, 1), "{counters}");
}

#[test]
fn a_half_closed_peer_that_is_cut_off_is_counted_as_cut_off() {
    let server = start(Config::builder().drain_timeout(std::time::Duration::from_millis(300)));
    let mut stream = server.0.connect();
    say(&mut stream, "more 50000000\n");
    half_close(&stream);
    let mut first = [0; 1000];
    std::io::Read::read_exact(&mut stream, &mut first).expect("the first of them");
    let (mut server, counted) = server;
    server.stopper.stop().expect("wake");
    assert_eq!(server.join(), StopReason::Drained { cut_off: 1 });
    let counters = counted.recv().expect("counters");
    assert_eq!((counters.closed_cut_off, counters.closed_peer), (1, 0), "{counters}");
}
