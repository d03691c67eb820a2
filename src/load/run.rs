//! From a plan to results: one thread a loop, and their intervals as they come.

use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::net::UdpSocket;

use crate::load::client::Client;
use crate::load::coordination::Coordination;
use crate::load::datagram::DatagramClient;
use crate::load::noise::Noise;
use crate::load::payload::Payload;
use crate::load::plan::Plan;
use crate::load::results::pauses::Pauses;
use crate::load::results::pauses::SHORT;
use crate::load::results::series::{Series, Snapshot, Update};
use crate::load::results::statistics::Statistics;
use crate::load::results::{Generator, Results};
use crate::load::worker::connect::Connect;
use crate::load::worker::connections::Connections;
use crate::load::worker::event_loop::{Finished, WAKER, Worker};
use crate::load::worker::reporter::Reporter;
use crate::load::worker::usage::Usage;
use crate::net::socket::Socket;
use crate::net::wait::Wait;

/// Number of snapshots of a loop that may wait to be read.
const SNAPSHOTS: usize = 16;

/// Runs a loop to its end.
type Task = Box<dyn FnOnce() -> io::Result<Finished> + Send>;

/// A run that is ready to begin.
pub struct Run {
    plan: Plan,
    workers: Vec<Task>,
    coordination: Arc<Coordination>,
    snapshots: Receiver<Snapshot>,
}

/// Ends a run early, from any thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Coordination>);

impl Stopper {
    /// Ends the run. Its results are those of the time until now, and are marked as interrupted.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Run {
    /// Makes the loops. No connection is made before [`run`](Run::run).
    ///
    /// # Errors
    /// No file descriptors are left.
    pub fn new(plan: &Plan) -> io::Result<Run> {
        let waits = (0..plan.threads).map(|_| Wait::new(plan.busy_poll, WAKER));
        let (waits, wakers): (Vec<_>, _) =
            waits.collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
        let coordination = Arc::new(Coordination::new(plan, wakers));
        let payload = Payload::new(Noise::new(plan.seed), plan.shape.clone());
        let (sender, snapshots) = mpsc::sync_channel(SNAPSHOTS * plan.threads);
        let worker = |(thread, wait)| {
            let payload = payload.clone();
            let reporter = Reporter::new(thread, plan.interval, sender.clone());
            let shared = (Arc::clone(&coordination), reporter);
            if plan.is_udp() {
                task::<DatagramClient<UdpSocket>>(plan, wait, payload, shared)
            } else {
                task::<Client<Socket>>(plan, wait, payload, shared)
            }
        };
        let workers = waits.into_iter().enumerate().map(worker).collect::<io::Result<_>>()?;
        Ok(Run { plan: plan.clone(), workers, coordination, snapshots })
    }

    /// Returns a handle that ends the run early.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.coordination))
    }

    /// Runs to the end. `observe` is called on this thread, once for each interval of the plan. If it is
    /// slow, intervals become longer, and the load goes on; but the run does not end before it returns.
    ///
    /// # Errors
    /// A thread could not be started, or a poll failed. What fails on one connection is part of the
    /// results.
    pub fn run(mut self, mut observe: impl FnMut(&Update)) -> io::Result<Results> {
        let workers = mem::take(&mut self.workers);
        let mut series = Series::new(workers.len());
        let threads: Vec<_> = workers.into_iter().map(|worker| self.start(worker)).collect();
        // The channel ends when all loops have ended.
        for snapshot in &self.snapshots {
            if let Some(update) = series.add(snapshot) {
                observe(&update);
            }
        }
        let finished = threads.into_iter().map(|thread| match thread?.join() {
            Ok(finished) => finished,
            Err(_) => Err(io::Error::other("a loop panicked")),
        });
        let finished = finished.collect::<io::Result<_>>()?;
        Ok(self.results(finished))
    }

    fn start(&self, worker: Task) -> io::Result<JoinHandle<io::Result<Finished>>> {
        let guard = StopUnlessFinished(Some(self.stopper()));
        thread::Builder::new().name("load".into()).spawn(move || {
            own_files();
            let finished = worker()?;
            guard.finish();
            Ok(finished)
        })
    }

    fn results(self, finished: Vec<Finished>) -> Results {
        let interrupted = self.coordination.is_stopped();
        let until = finished.iter().map(|loop_| loop_.until).max().unwrap_or(0);
        let mut sum = Statistics::default();
        let (mut usage, mut demand) = (Usage::default(), 0.0_f64);
        let (mut elapsed, mut by_connection) = (Duration::ZERO, Vec::new());
        let (mut pauses, mut addresses) = (Pauses::default(), Vec::new());
        let start = self.coordination.start().unwrap_or(0);
        // Since then, a slow observer may have been waited for.
        let ended = finished.iter().map(|loop_| loop_.ended).max().unwrap_or(0);
        self.coordination.outages().close(ended, true);
        for loop_ in finished {
            let Finished { mut workload, usage: used, .. } = loop_;
            pauses.add(&loop_.pauses);
            loop_.addresses.into_iter().for_each(|counts| counts.add_to(&mut addresses));
            if let Some(start) = self.coordination.start() {
                // A loop whose connects all failed can have ended before the start.
                workload.begin(start);
                elapsed =
                    Duration::from_nanos(until.saturating_sub(workload.schedule.measured_from()));
            }
            let (statistics, echoed) = workload.finish(until, interrupted);
            sum.add(&statistics);
            by_connection.extend(echoed);
            demand = demand.max(used.demand());
            usage = usage + used;
        }
        let is_long_enough = elapsed >= SHORT;
        let generator = Generator {
            cpu: is_long_enough.then(|| usage.used()),
            demand: is_long_enough.then_some(demand),
            lag: sum.lag,
            pauses,
        };
        let outages = self.coordination.outages().outages(start);
        let results = Results::new(self.plan, sum);
        let results = Results { elapsed, interrupted, by_connection, generator, ..results };
        let results = Results { addresses, outages, ..results };
        debug_assert!(results.is_complete(), "messages are missing: {:?}", results.messages);
        results
    }
}

/// Gives this thread a file table of its own. While a table is shared, the kernel counts the references to
/// a file in each call with atomic operations: one percent of a message. Where it is refused, only that is
/// lost.
fn own_files() {
    #[cfg(target_os = "linux")]
    let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES);
}

/// Returns a loop that drives clients of the type `C`.
fn task<C: Connect + Send + 'static>(
    plan: &Plan,
    wait: Wait,
    payload: Payload,
    (coordination, reporter): (Arc<Coordination>, Reporter),
) -> io::Result<Task> {
    let connections =
        Connections::<C>::new(plan, reporter.thread, Arc::clone(&coordination), payload);
    let worker = Worker::new(wait, coordination, connections, reporter)?;
    Ok(Box::new(|| worker.run()))
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// Stops the other loops if one is not started, fails or panics: they would wait for it at the start.
#[derive(Debug)]
struct StopUnlessFinished(Option<Stopper>);

impl StopUnlessFinished {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for StopUnlessFinished {
    fn drop(&mut self) {
        if let Some(stopper) = &self.0 {
            stopper.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;
    use crate::load::plan::{PlanBuilder, Stop};
    use crate::load::rate::Rate;
    use crate::net::address::Address;

    const LONG: Duration = Duration::from_secs(60);

    /// A plan for an echo server in blocking threads.
    fn plan() -> PlanBuilder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("accept");
                thread::spawn(move || io::copy(&mut stream.try_clone()?, &mut stream));
            }
        });
        Plan::builder(vec![Address::Tcp(address)]).connections(4).threads(2)
    }

    #[test]
    fn the_intervals_add_up_to_the_results() {
        for stop in [Stop::Messages(5000), Stop::After(Duration::from_millis(100))] {
            let plan = plan().stop(stop).interval(Duration::from_millis(10)).build().unwrap();
            let mut observed = Vec::new();
            let run = Run::new(&plan).expect("a run");
            let results = run.run(|update| match update {
                Update::Interval(interval) => observed.push(interval.clone()),
                Update::Connecting(_) => {}
            });
            let results = results.expect("results");
            assert_eq!(observed.iter().map(|i| i.echoed).sum::<u64>(), results.messages.echoed);
            let length: Duration = observed.iter().map(|i| i.length).sum();
            assert_eq!(Some(length), observed.last().map(|i| i.elapsed));
            assert_eq!(results.by_connection.iter().sum::<u64>(), results.messages.echoed);
            assert_eq!(results.latency.len(), results.messages.echoed);
            assert!(!results.interrupted && results.is_complete());
        }
    }

    #[test]
    fn a_stopper_ends_a_run_early_from_another_thread() {
        let interval = Duration::from_millis(10);
        for plan in [plan(), plan().rate(Rate::from(100)), plan().reconnect(true)] {
            let plan = plan.stop(Stop::After(LONG)).interval(interval).build().unwrap();
            let (run, begun) = (Run::new(&plan).expect("a run"), Instant::now());
            let stopper = run.stopper();
            let results = run.run(|update| {
                if matches!(update, Update::Interval(interval) if interval.echoed > 0) {
                    let stopper = stopper.clone();
                    thread::spawn(move || stopper.stop());
                }
            });
            let results = results.expect("results");
            assert!(results.interrupted && results.messages.echoed > 0);
            assert!(begun.elapsed() < LONG / 2);
        }
    }

    #[test]
    fn a_run_that_was_stopped_before_it_began_has_results_too() {
        let run = Run::new(&plan().build().unwrap()).expect("a run");
        run.stopper().stop();
        let results = run.run(|_| ()).expect("results");
        assert!(results.interrupted);
        assert_eq!((results.messages.sent, results.elapsed), (0, Duration::ZERO));
    }
}
