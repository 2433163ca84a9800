//! The composition root: from a configuration to sockets to tasks. The one file that knows everybody.
//!
//! The program is bind, then run. Binding takes every socket and reads every file, or fails with one clear error before
//! anything is served. The data plane runs on threads of its own; everything else on the runtime that this is called on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::access::address::AddressSet;
use crate::clock::Clock;
use crate::config::{self, Config, ForwardingHeader, Limits, StoreUrl};
use crate::drain::{self, DrainTrigger};
use crate::gate::client_ip::ForwardingField;
use crate::gate::{self, Gate, HeadLimits, HostTable, Served};
use crate::health::{self, Draining, Health};
use crate::index::{IndexReader, new_index};
use crate::proxy::listener::{Bound as BoundListener, Sources};
use crate::proxy::worker::{self, Plan, WorkerError};
use crate::store::Random;
use crate::sync::snapshot::SnapshotFile;
use crate::sync::{self, Sync};
use crate::telemetry::access_log::{AccessLog, AccessLogControl};
use crate::telemetry::metrics::Metrics;
use crate::tls::{ListenerCertificates, UpstreamTls};

/// Descriptors that are not clients' connections: upstreams', the store's, log files, listeners.
const OTHER_DESCRIPTORS: u64 = 256;
/// How long the last lines of the access log may take to be written.
const LAST_LINES: Duration = Duration::from_secs(5);

/// A node with all its sockets bound, ready to run.
#[derive(Debug)]
pub struct Bound {
    /// Where requests are served, in the order of the configuration.
    pub listeners: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub health: Option<SocketAddr>,
    admin_socket: TcpListener,
    health_socket: Option<TcpListener>,
    workers: Vec<JoinHandle<Result<(), WorkerError>>>,
    drain: DrainTrigger,
    drain_timeout: Option<Duration>,
    sync: Sync,
    answers: Health,
    reload: Reload,
    log_control: AccessLogControl,
    failures: mpsc::Receiver<()>,
}

/// What can be read anew while a node runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reload {
    certificates: Vec<ListenerCertificates>,
    access_log: AccessLog,
    metrics: Metrics,
    clock: Clock,
}

impl Reload {
    /// Reads all certificates anew and opens the access log anew. What fails is reported and stays as it was.
    pub fn now(&self) {
        self.access_log.reopen();
        for certificates in &self.certificates {
            match certificates.reload(self.clock.now()) {
                Ok(()) => tracing::info!("certificates reloaded"),
                Err(error) => tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "the certificates in service stay"),
            }
        }
        self.metrics.set_certificates(self.certificates.iter().flat_map(ListenerCertificates::expiries).collect());
    }
}

/// Binds everything and starts following the store.
///
/// # Errors
/// The first thing that cannot be had, with what it was needed for.
pub async fn bind(config: Config, clock: Clock, random: Random) -> Result<Bound> {
    let mut limits = config.limits.clone();
    limits.connections = bounded_by_descriptors(limits.connections);
    let metrics = Metrics::new(clock.clone());
    let name = node_name(&config.node.name);
    let (access_log, log_control) = AccessLog::start(&config.log.access, &name, &metrics, clock.clone())?;

    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let tls = listener.tls.as_ref().map(|tls| ListenerCertificates::load(tls, clock.now())).transpose();
        let tls = tls.with_context(|| format!("set up TLS for the listener {}", listener.address))?;
        let bound = BoundListener::bind(listener, tls, worker::count());
        listeners.push(bound.with_context(|| format!("listen on {}", listener.address))?);
    }
    let admin_socket =
        TcpListener::bind(config.admin.address).await.with_context(|| format!("listen on {} for [admin]", config.admin.address))?;
    let health_socket = match config.health {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| format!("listen on {address} for [health]"))?),
        None => None,
    };

    let (writer, index) = new_index(config.snapshot.max_staleness);
    let settings = sync_settings(&config, name)?;
    let sync = sync::start(settings, writer, &clock, &random, &metrics).context("draw the id of this node")?;

    let certificates: Vec<_> = listeners.iter().filter_map(|listener| listener.tls.clone()).collect();
    let reload = Reload { certificates, access_log: access_log.clone(), metrics: metrics.clone(), clock: clock.clone() };
    metrics.set_certificates(reload.certificates.iter().flat_map(ListenerCertificates::expiries).collect());

    let addresses = listeners.iter().map(|listener| listener.address).collect();
    let (drain, drained) = drain::channel();
    let shared = Shared {
        config: &config,
        limits: &limits,
        clock: &clock,
        metrics: &metrics,
        access_log: &access_log,
        index: &index,
        random: &random,
    };
    let (failed, failures) = mpsc::channel(1);
    let workers = start_workers(&shared, listeners, &drained, &failed)?;
    drop(drained);
    Ok(Bound {
        listeners: addresses,
        admin: admin_socket.local_addr()?,
        health: health_socket.as_ref().map(TcpListener::local_addr).transpose()?,
        admin_socket,
        health_socket,
        workers,
        drain,
        drain_timeout: limits.drain_timeout,
        answers: Health { index, sync: sync.state(), metrics, clock, draining: Draining::default() },
        sync,
        reload,
        log_control,
        failures,
    })
}

impl Bound {
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// The running sync task, for whoever changes keys in this process or waits for them.
    pub const fn sync(&self) -> &Sync {
        &self.sync
    }

    /// The read side of the index.
    pub fn index(&self) -> IndexReader {
        self.answers.index.clone()
    }

    /// Serves until `shutdown`, then drains.
    ///
    /// # Errors
    /// If a worker or the admin listener failed.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let (stop, stopped) = drain::channel();
        let draining = self.answers.draining.clone();
        let pages = health::router(self.answers);
        let admin_pages = if self.health_socket.is_some() { axum::Router::new() } else { pages.clone() };
        let admin = tokio::spawn(serve_pages(self.admin_socket, admin_pages, stopped.clone()));
        let health = self.health_socket.map(|socket| tokio::spawn(serve_pages(socket, pages, stopped.clone())));
        drop(stopped);

        tokio::select! {
            () = shutdown => {}
            Some(()) = self.failures.recv() => tracing::error!("a worker failed: the node stops"),
        }
        draining.begin();
        tracing::info!("draining: no new connections, open requests are finished");
        if !self.drain.drain(self.drain_timeout).await {
            tracing::warn!("some requests did not finish within limits.drain_timeout and were cut off");
        }
        let ended = tokio::task::spawn_blocking(move || join(self.workers)).await.context("wait for the workers")?;
        self.sync.stop().await;
        stop.drain(Some(LAST_LINES)).await;
        for pages in std::iter::once(admin).chain(health) {
            pages.abort();
        }
        tokio::task::spawn_blocking(move || self.log_control.close(LAST_LINES)).await.context("close the access log")?;
        ended
    }
}

async fn serve_pages(socket: TcpListener, pages: axum::Router, stopped: drain::Drain) {
    let served = axum::serve(socket, pages).with_graceful_shutdown(async move { stopped.told().await }).await;
    if let Err(error) = served {
        tracing::error!(%error, "the admin listener ended");
    }
}

fn join(workers: Vec<JoinHandle<Result<(), WorkerError>>>) -> Result<()> {
    workers.into_iter().try_for_each(|worker| match worker.join() {
        Ok(ended) => ended.context("a worker failed"),
        Err(_) => bail!("a worker panicked"),
    })
}

/// What all workers are made from.
struct Shared<'a> {
    config: &'a Config,
    limits: &'a Limits,
    clock: &'a Clock,
    metrics: &'a Metrics,
    access_log: &'a AccessLog,
    index: &'a IndexReader,
    random: &'a Random,
}

fn start_workers(
    shared: &Shared<'_>,
    listeners: Vec<BoundListener>,
    drain: &drain::Drain,
    failed: &mpsc::Sender<()>,
) -> Result<Vec<JoinHandle<Result<(), WorkerError>>>> {
    let slots = shared.limits.connections.map(|limit| Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))));
    let sources = Sources::default();
    let mut shares: Vec<_> = listeners.into_iter().map(|listener| listener.shares(&slots, &sources)).collect();
    let upstreams = upstreams_of(&shared.config.upstreams)?;
    (0..worker::count())
        .map(|number| {
            let plan = Plan {
                gate: gate_of(shared.config, shared.limits, shared.index.clone()),
                upstreams: upstreams.clone(),
                limits: shared.limits.clone(),
                clock: shared.clock.clone(),
                metrics: shared.metrics.clone(),
                access_log: shared.access_log.clone(),
                listening: shares.iter_mut().filter_map(Vec::pop).collect(),
                drain: drain.clone(),
                failed: failed.clone(),
                seed: u64::from_le_bytes(shared.random.bytes().context("draw a seed for request ids")?),
            };
            worker::start(number, plan).context("start the data plane")
        })
        .collect()
}

fn upstreams_of(upstreams: &[config::Upstream]) -> Result<Vec<(config::Upstream, Option<UpstreamTls>)>> {
    let load = |upstream: &config::Upstream| {
        let tls = UpstreamTls::load(upstream).with_context(|| format!("set up TLS for the upstream {}", upstream.name))?;
        Ok((upstream.clone(), tls))
    };
    upstreams.iter().map(load).collect()
}

/// The gate that a configuration describes.
pub fn gate_of(config: &Config, limits: &Limits, index: IndexReader) -> Gate {
    let mut hosts = HostTable::default();
    for environment in &config.environments {
        let served = Served { environment: environment.name, upstream: environment.upstream };
        environment.hosts.iter().for_each(|host| hosts.serve(host, served));
        if environment.any_host {
            hosts.serve_any(served);
        }
    }
    let field = match config.client_address.header {
        ForwardingHeader::XForwardedFor => ForwardingField::XForwardedFor,
        ForwardingHeader::Forwarded => ForwardingField::Forwarded,
    };
    let addresses = gate::ClientAddressRules { trusted: AddressSet::new(config.client_address.trusted_proxies.iter().copied()), field };
    let limits = HeadLimits {
        head_bytes: limits.head_bytes,
        head_fields: limits.head_fields.map(|fields| fields as u64),
        uri_bytes: limits.uri_bytes,
        body_bytes: limits.body_bytes,
    };
    Gate { hosts, routes: config.permissions.clone(), addresses, limits, index }
}

fn sync_settings(config: &Config, node_name: String) -> Result<sync::Settings> {
    let StoreUrl::Sqlite(path) = &config.store else {
        bail!("store.url: this release keeps its store in SQLite only; write `sqlite:` and a path")
    };
    Ok(sync::Settings {
        store: path.clone(),
        create_store: true,
        snapshot: SnapshotFile::new(config.snapshot.path.clone()),
        max_staleness: config.snapshot.max_staleness,
        node_name,
    })
}

/// The configured name, or the machine's.
pub fn node_name(configured: &str) -> String {
    if configured.is_empty() { rustix::system::uname().nodename().to_string_lossy().into_owned() } else { configured.to_owned() }
}

/// Raises the limit of open files as far as it goes, and lowers the bound on connections to what then fits: each takes two
/// descriptors, its own and one towards the upstream.
fn bounded_by_descriptors(connections: Option<usize>) -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_ok();
    let available = if raised { limit.maximum } else { limit.current };
    let Some(available) = available else { return connections };
    let fits = usize::try_from(available.saturating_sub(OTHER_DESCRIPTORS) / 2).unwrap_or(usize::MAX).max(1);
    match connections {
        Some(wanted) if wanted <= fits => Some(wanted),
        wanted => {
            tracing::warn!(wanted, fits, open_files = available, "limits.connections is lowered to what the limit of open files allows");
            Some(fits)
        }
    }
}
