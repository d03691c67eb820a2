//! Event sources of an embedder: what the loop promises them, and what they cannot do to it.

mod common;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{DEADLINE, InProcess, any_port, eventually, ping};
use echoloop::mio::Interest;
use echoloop::server::source::{SourceCounter, TOKENS};
use echoloop::{
    Action, Address, Config, EventSource, LoopHandle, Notification, Server, SourceWaker, StopReason,
};

/// What a source was told, and how often.
type Log = Arc<Mutex<Vec<Notification>>>;

/// A source whose behaviour is a function. It keeps a list of its notifications.
struct Scripted<F> {
    log: Log,
    due: Option<Instant>,
    answer: F,
}

impl<F: FnMut(Notification, &mut Option<Instant>) -> io::Result<Action> + Send> EventSource
    for Scripted<F>
{
    fn register(&mut self, _: &LoopHandle<'_>) -> io::Result<()> {
        Ok(())
    }

    fn notify(&mut self, what: Notification, _: &LoopHandle<'_>) -> io::Result<Action> {
        self.log.lock().expect("log").push(what);
        (self.answer)(what, &mut self.due)
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn addresses(&self) -> Vec<Address> {
        vec![Address::Unix("/a/source".into())]
    }

    fn counters(&self) -> Vec<SourceCounter> {
        let value = self.log.lock().expect("log").len() as u64;
        let (name, help) = ("notifications", "Notifications.");
        vec![SourceCounter { name, cause: None, help, value }]
    }
}

fn server() -> Server {
    let config = Config::builder().endpoint(any_port()).build().expect("a configuration");
    Server::bind(&config).expect("bind")
}

fn add(
    server: &mut Server,
    due: Option<Instant>,
    answer: impl FnMut(Notification, &mut Option<Instant>) -> io::Result<Action> + Send + 'static,
) -> (Log, SourceWaker) {
    let log = Log::default();
    let source = Scripted { log: Arc::clone(&log), due, answer };
    let waker = server.add_source(Box::new(source)).expect("add");
    (log, waker)
}

fn count(log: &Log, what: fn(&Notification) -> bool) -> usize {
    log.lock().expect("log").iter().filter(|notification| what(notification)).count()
}

#[test]
fn a_source_is_called_when_it_is_due_and_its_action_is_performed() {
    for (action, reason) in [
        (Action::Drain, StopReason::Drained { cut_off: 0 }),
        (Action::Stop(3), StopReason::Stopped { status: 3 }),
    ] {
        let mut server = server();
        let at = Instant::now() + Duration::from_millis(50);
        add(&mut server, Some(at), move |what, due| {
            if let Notification::Due = what {
                assert!(Instant::now() >= at, "called before its time");
                *due = None;
                return Ok(action);
            }
            Ok(Action::Continue)
        });
        let mut server = InProcess::run(server);
        ping(&mut server.connect(), b"before");
        assert_eq!(server.join(), reason);
    }
}

#[test]
fn a_source_that_asks_again_is_called_again_without_an_event_until_it_stops_asking() {
    let mut server = server();
    let mut left = 1000;
    let (log, waker) = add(&mut server, None, move |what, _| {
        left -= usize::from(matches!(what, Notification::Again));
        Ok(if left > 0 { Action::Again } else { Action::Continue })
    });
    let server = InProcess::run(server);
    waker.wake().expect("wake");
    eventually("all are served", || count(&log, |n| matches!(n, Notification::Again)) == 1000);
    ping(&mut server.connect(), b"beside it");
    assert_eq!(server.stop(), StopReason::Drained { cut_off: 0 });
}

#[test]
fn another_thread_wakes_the_source_that_it_means() {
    let mut server = server();
    let (first, _) = add(&mut server, None, |_, _| Ok(Action::Continue));
    let (second, waker) = add(&mut server, None, |_, _| Ok(Action::Continue));
    let server = InProcess::run(server);
    std::thread::spawn(move || waker.wake().expect("wake")).join().expect("no panic");
    let is_woken: fn(&Notification) -> bool = |n| matches!(n, Notification::Woken);
    eventually("it is woken", || count(&second, is_woken) == 1);
    assert_eq!(count(&first, is_woken), 0);
    ping(&mut server.connect(), b"a wake is not a stop");
}

#[test]
fn a_time_that_stays_in_the_past_does_not_spin() {
    let mut server = server();
    let past = Some(Instant::now());
    let (log, _) = add(&mut server, past, |_, _| Ok(Action::Continue));
    let began = Instant::now();
    let server = InProcess::run(server);
    eventually("it is called several times", || {
        count(&log, |n| matches!(n, Notification::Due)) >= 20
    });
    server.stop();
    let most = began.elapsed().as_millis() + 1;
    let calls = count(&log, |n| matches!(n, Notification::Due)) as u128;
    assert!(calls <= most, "{calls} calls in {most} ms");
}

#[test]
fn a_source_is_told_of_the_drain_and_may_leave() {
    let mut server = server();
    let (dropped, is_dropped) = mpsc::channel::<()>();
    let (log, _) = add(&mut server, None, move |what, _| {
        let _kept_until_it_leaves: &Sender<()> = &dropped;
        Ok(if matches!(what, Notification::Drain) { Action::Leave } else { Action::Continue })
    });
    let server = InProcess::run(server);
    let stays = server.connect();
    server.stopper.stop().expect("wake");
    let gone = is_dropped.recv_timeout(DEADLINE);
    assert_eq!(gone, Err(mpsc::RecvTimeoutError::Disconnected), "it left, and was dropped");
    drop(stays);
    assert_eq!(server.stop(), StopReason::Drained { cut_off: 0 });
    assert_eq!(count(&log, |n| matches!(n, Notification::Drain)), 1);
}

#[test]
fn a_source_that_fails_ends_the_run_and_the_counters_are_not_lost() {
    let mut server = server();
    let (_, waker) = add(&mut server, None, |what, _| match what {
        Notification::Woken => Err(io::Error::other("the source failed")),
        _ => Ok(Action::Continue),
    });
    let address = server.local_addrs()[0].as_tcp().expect("a TCP address");
    let running = std::thread::spawn(move || server.run());
    ping(&mut common::connect(address), b"six!!!");
    waker.wake().expect("wake");
    let error = running.join().expect("no panic").expect_err("it failed");
    assert_eq!(error.to_string(), "the loop failed: the source failed");
    assert_eq!((error.counters.bytes_in, error.counters.bytes_out), (6, 6));
    assert_eq!(error.counters.open(), 0);
}

#[test]
fn addresses_and_counters_of_a_source_stand_beside_the_servers() {
    let mut server = server();
    add(&mut server, None, |_, _| Ok(Action::Continue));
    let addresses = server.local_addrs();
    assert_eq!(addresses[1], Address::Unix("/a/source".into()));
    let stopper = server.stopper();
    stopper.stop().expect("wake");
    let summary = server.run().expect("no error");
    assert_eq!(summary.source_counters[0].value, 1, "the drain");
    assert!(summary.to_string().ends_with(" notifications=1"), "{summary}");
}

/// A listener that answers every client with its number of bytes, and a number that is out of range.
struct Greeter {
    listener: mio::net::TcpListener,
    refused: Sender<io::Error>,
}

impl EventSource for Greeter {
    fn register(&mut self, handle: &LoopHandle<'_>) -> io::Result<()> {
        let refused = handle.register(&mut self.listener, TOKENS, Interest::READABLE);
        self.refused.send(refused.expect_err("out of range")).expect("send");
        handle.register(&mut self.listener, TOKENS - 1, Interest::READABLE)
    }

    fn notify(&mut self, what: Notification, _: &LoopHandle<'_>) -> io::Result<Action> {
        if let Notification::Ready { number, readiness } = what {
            assert!(number == TOKENS - 1 && readiness.readable);
            while let Ok((mut stream, _)) = self.listener.accept() {
                stream.write_all(b"hello from the source")?;
            }
        }
        Ok(Action::Continue)
    }
}

#[test]
fn a_source_owns_its_numbers_and_one_out_of_range_is_an_error_not_a_panic() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("address");
    let (refused, errors): (_, Receiver<io::Error>) = mpsc::channel();
    let mut server = server();
    add(&mut server, None, |_, _| Ok(Action::Continue));
    let listener = mio::net::TcpListener::from_std(listener);
    server.add_source(Box::new(Greeter { listener, refused })).expect("add");
    assert_eq!(errors.recv().expect("an error").kind(), io::ErrorKind::InvalidInput);
    let server = InProcess::run(server);
    let mut text = String::new();
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream.read_to_string(&mut text).expect("receive");
    assert_eq!(text, "hello from the source");
    ping(&mut server.connect(), b"and the server");
}
