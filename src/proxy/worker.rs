//! Workers: one thread, one runtime, one listening socket for each listener, one set of upstream connections. Nothing of a
//! worker is shared with another but the index, the counts and the bounds on connections.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BufMut;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::listener::{self, Accepting, Listening};
use super::upstream::Upstream;
use crate::clock::Clock;
use crate::config::{self, Limits};
use crate::drain::Drain;
use crate::gate::Gate;
use crate::gate::reply::{Scratch, X_REQUEST_ID};
use crate::telemetry::access_log::{AccessLog, WorkerLog};
use crate::telemetry::metrics::{Metrics, StreamGauge, WorkerMetrics};
use crate::tls::{TlsError, UpstreamTls};

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How long a log line may wait in a worker.
const FLUSH_LOG: Duration = Duration::from_millis(50);
/// How often a worker adds its counts to the shared ones, and looks for upstream connections that nobody needs.
const FLUSH_COUNTS: Duration = Duration::from_secs(1);

/// What the requests of one thread have in common.
#[derive(Debug)]
pub struct Worker {
    pub gate: Gate,
    pub upstreams: Vec<Upstream>,
    pub limits: Limits,
    pub clock: Clock,
    pub metrics: WorkerMetrics,
    pub log: WorkerLog,
    pub scratch: RefCell<Scratch>,
    pub removals: RefCell<Vec<HeaderName>>,
    shared_metrics: Metrics,
    ids: RefCell<fastrand::Rng>,
}

/// All that a worker is made of; it can be sent to the thread that the worker is to live on.
#[derive(Debug)]
pub struct Plan {
    pub gate: Gate,
    pub upstreams: Vec<(config::Upstream, Option<UpstreamTls>)>,
    pub limits: Limits,
    pub clock: Clock,
    pub metrics: Metrics,
    pub access_log: AccessLog,
    pub listening: Vec<Listening>,
    pub drain: Drain,
    /// For request ids: unlike for each worker and each start.
    pub seed: u64,
    /// Told if the worker ends because it cannot work.
    pub failed: mpsc::Sender<()>,
}

/// A thread that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("start a worker thread")]
pub struct CannotStart(#[source] io::Error);

/// Starts a worker on a thread of its own. It ends when it is drained.
///
/// # Errors
/// If there can be no thread. What goes wrong on it is told by [`Plan::failed`] and by joining it.
pub fn start(number: usize, plan: Plan) -> Result<JoinHandle<Result<(), WorkerError>>, CannotStart> {
    let work = move || {
        let failed = plan.failed.clone();
        // One message is enough, whoever sends it.
        run(plan).inspect_err(|_| {
            let _ = failed.try_send(());
        })
    };
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(work).map_err(CannotStart)
}

/// Why a worker could not work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("start the runtime of a worker")]
    Runtime(#[source] io::Error),
    #[error("listen")]
    Listen(#[source] io::Error),
    #[error("set up TLS towards an upstream")]
    Tls(#[source] TlsError),
}

fn run(plan: Plan) -> Result<(), WorkerError> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).map_err(WorkerError::Runtime)?;
    runtime.block_on(work(plan))
}

async fn work(plan: Plan) -> Result<(), WorkerError> {
    let Plan { gate, upstreams, limits, clock, metrics, access_log, listening, drain, seed, .. } = plan;
    let upstreams = upstreams.iter().map(|(config, tls)| Upstream::new(config, tls.clone(), &limits)).collect::<Result<_, _>>();
    let worker = Rc::new(Worker {
        gate,
        upstreams: upstreams.map_err(WorkerError::Tls)?,
        limits,
        clock,
        metrics: metrics.worker(),
        log: access_log.worker(),
        scratch: RefCell::default(),
        removals: RefCell::default(),
        shared_metrics: metrics,
        ids: RefCell::new(fastrand::Rng::with_seed(seed)),
    });
    tokio::task::spawn_local(flush_log(Rc::clone(&worker)));
    tokio::task::spawn_local(flush_counts(Rc::clone(&worker)));

    // Each connection holds a sender; when the last is gone, all have ended.
    let (open, mut all_ended) = mpsc::channel(1);
    for listening in listening {
        let (accepting, listener) =
            Accepting::new(listening, Rc::clone(&worker), drain.clone(), open.clone()).map_err(WorkerError::Listen)?;
        tokio::task::spawn_local(listener::accept(accepting, listener));
    }
    drop(open);
    tokio::select! {
        _ = all_ended.recv() => {}
        () = drain.stopped() => {}
    }
    worker.log.flush();
    worker.metrics.flush();
    Ok(())
}

async fn flush_log(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(FLUSH_LOG).await;
        worker.log.flush();
    }
}

async fn flush_counts(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(FLUSH_COUNTS).await;
        worker.metrics.flush();
        let now = std::time::Instant::now();
        worker.upstreams.iter().for_each(|upstream| upstream.sweep(now));
    }
}

impl Worker {
    /// The client's request id if it is 1 to 128 of `A-Z a-z 0-9 . _ -`, else a new one.
    pub(super) fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let mut given = headers.get_all(X_REQUEST_ID).iter();
        match (given.next(), given.next()) {
            (Some(id), None) if is_request_id(id.as_bytes()) => id.clone(),
            _ => self.new_request_id(),
        }
    }

    pub(super) fn open_stream(&self) -> StreamGauge {
        self.shared_metrics.stream()
    }

    pub(super) fn shared_metrics(&self) -> &Metrics {
        &self.shared_metrics
    }

    fn new_request_id(&self) -> HeaderValue {
        let mut ids = self.ids.borrow_mut();
        // Eleven base62 characters hold 65 bits, so each half of the id holds all of one number.
        let halves = [ids.u64(..), ids.u64(..)];
        self.scratch.borrow_mut().value(|text| {
            text.put_slice(b"req_");
            for mut number in halves {
                for _ in 0..11 {
                    text.put_u8(BASE62.get((number % 62) as usize).copied().unwrap_or(b'0'));
                    number /= 62;
                }
            }
        })
    }
}

fn is_request_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Runs hyper's own tasks on the worker's thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// How many workers there are: one for each processor that this process may use.
pub fn count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The bound on connections, shared by all workers.
pub type Slots = Option<Arc<tokio::sync::Semaphore>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_request_id_is_kept_only_if_it_is_harmless() {
        for id in ["a", "req_1.x-Y", &"a".repeat(128)] {
            assert!(is_request_id(id.as_bytes()), "{id}");
        }
        for id in ["", "a b", "a\"b", "a/b", "ä", &"a".repeat(129)] {
            assert!(!is_request_id(id.as_bytes()), "{id}");
        }
    }
}
