//! The gateway under test: the program that `main` starts, on ports that the machine chooses, with a store in a temporary folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use martis_gateway::app::{self, Reload};
use martis_gateway::clock::Clock;
use martis_gateway::config::{self, Config};
use martis_gateway::index::IndexReader;
use martis_gateway::keyring::Keyring;
use martis_gateway::store::{OpenOptions, Random, Store};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::http1::Http1;
use super::keys::{Keys, TestKey, a_key, a_sandbox_key};
use super::message::{Reply, Request};
use super::wait::{eventually, within};

/// The hosts of the two environments.
pub const PRODUCTION: &str = "api.martis.test";
pub const SANDBOX: &str = "sandbox.martis.test";

/// What a gateway is to be like. What is not said is as in a shipped one, but for ports, folders, and a drain that waits for
/// nobody: what a test leaves open must not hold it up.
#[derive(Clone)]
pub struct Setup {
    servers: Vec<String>,
    upstream: Vec<String>,
    listeners: Vec<String>,
    trusted: Vec<String>,
    client_address: Vec<String>,
    limits: Vec<(String, String)>,
    sections: Vec<String>,
    sandbox: String,
    admin: String,
    store: String,
    max_staleness: String,
    clock: Clock,
}

impl Setup {
    /// A gateway that sends everything to this server.
    pub fn before(server: SocketAddr) -> Self {
        let limits = [("drain_timeout", "0s"), ("failed_authentications", "off")];
        Self {
            servers: vec![format!("http://{server}")],
            upstream: Vec::new(),
            listeners: Vec::new(),
            trusted: Vec::new(),
            client_address: Vec::new(),
            limits: limits.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            sections: Vec::new(),
            sandbox: format!("[[environments]]\nname = \"sandbox\"\nhosts = [\"{SANDBOX}\"]\nupstream = \"core\"\n"),
            admin: "[admin]\naddress = \"127.0.0.1:0\"\n".to_owned(),
            store: "data/martis.db".to_owned(),
            max_staleness: "12h".to_owned(),
            clock: Clock::of_the_machine(),
        }
    }

    /// Lines of TOML in the section of the upstream.
    pub fn upstream(mut self, lines: &str) -> Self {
        self.upstream.push(lines.to_owned());
        self
    }

    /// Other servers than the one of the beginning, with their schemes.
    pub fn servers(self, servers: &[String]) -> Self {
        Self { servers: servers.to_vec(), ..self }
    }

    /// A further listener, with lines of TOML behind its address. Without any there is a plain one.
    pub fn listener(mut self, lines: &str) -> Self {
        self.listeners.push(format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{lines}\n"));
        self
    }

    /// These lines in place of the listeners.
    pub fn listener_as(self, lines: &str) -> Self {
        Self { listeners: vec![lines.to_owned()], ..self }
    }

    /// These lines in place of the section of the admin listener.
    pub fn admin_as(self, lines: &str) -> Self {
        Self { admin: lines.to_owned(), ..self }
    }

    pub fn trusting(mut self, proxy: &str) -> Self {
        self.trusted.push(proxy.to_owned());
        self
    }

    /// Lines of TOML in the section of client addresses.
    pub fn client_address(mut self, lines: &str) -> Self {
        self.client_address.push(lines.to_owned());
        self
    }

    pub fn limit(mut self, name: &str, value: &str) -> Self {
        self.limits.retain(|(known, _)| known != name);
        self.limits.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A section of TOML, or several.
    pub fn section(mut self, lines: &str) -> Self {
        self.sections.push(lines.to_owned());
        self
    }

    /// Another section for the sandbox.
    pub fn sandbox_as(self, lines: &str) -> Self {
        Self { sandbox: lines.to_owned(), ..self }
    }

    /// Another path of the store, from the gateway's folder.
    pub fn store(self, path: &str) -> Self {
        Self { store: path.to_owned(), ..self }
    }

    pub fn max_staleness(self, duration: &str) -> Self {
        Self { max_staleness: duration.to_owned(), ..self }
    }

    pub fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The folder and the store, with two keys, and no node yet.
    pub async fn open(self) -> Prepared {
        self.open_in(tempfile::Builder::new().prefix("martis-gateway-").tempdir().unwrap()).await
    }

    pub async fn open_in(self, folder: TempDir) -> Prepared {
        let config = self.config(&folder);
        let random = Random::of_the_machine();
        // Not where the configuration says: a test of a store that is out of reach still needs keys.
        let path = folder.path().join("data/martis.db");
        let store = Store::open(&path, OpenOptions { create: true }, &random).await.unwrap();
        let keys = Keys::new(Keyring::new(store, self.clock.clone(), random, &config.permission_names)).await;
        let (live, test) = (keys.make(a_key()).await, keys.make(a_sandbox_key()).await);
        Prepared { setup: self, config, folder, keys, live, test }
    }

    /// A gateway that is ready.
    pub async fn start(self) -> TestGateway {
        self.open().await.start().await
    }

    fn config(&self, folder: &TempDir) -> Config {
        config::parse(&self.text(), folder.path(), "gateway.toml", &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn text(&self) -> String {
        let plain = ["[[listeners]]\naddress = \"127.0.0.1:0\"\n".to_owned()];
        let listeners = if self.listeners.is_empty() { plain.concat() } else { self.listeners.concat() };
        let limits: String = self.limits.iter().map(|(name, value)| format!("{name} = {}\n", toml_value(value))).collect();
        format!(
            r#"
[node]
name = "node-under-test"
[store]
url = "sqlite:{store}"
[snapshot]
path = "data/keys.snapshot"
max_staleness = "{max_staleness}"
{listeners}
[[environments]]
name = "production"
hosts = ["{PRODUCTION}"]
upstream = "core"
{sandbox}
[[upstreams]]
name = "core"
servers = {servers:?}
{upstream}
[[permissions]]
name = "payments.charges:write"
routes = ["POST /api/v1/payments/charges", "POST /api/v1/payments/charges/{{id}}/*"]
[[permissions]]
name = "payments.charges:read"
routes = ["GET /api/v1/payments/charges", "GET /api/v1/payments/charges/{{id}}"]
[client_address]
trusted_proxies = {trusted:?}
{client_address}
[limits]
{limits}
{admin}
[log]
access = "access.log"
{sections}
"#,
            sandbox = self.sandbox,
            admin = self.admin,
            store = self.store,
            max_staleness = self.max_staleness,
            servers = self.servers,
            upstream = self.upstream.join("\n"),
            trusted = self.trusted,
            client_address = self.client_address.join("\n"),
            sections = self.sections.join("\n"),
        )
    }
}

/// Counts stand without quotes, durations and sizes with them.
fn toml_value(value: &str) -> String {
    if value.bytes().all(|byte| byte.is_ascii_digit()) { value.to_owned() } else { format!("{value:?}") }
}

/// A store with keys, before its node runs, or after.
pub struct Prepared {
    setup: Setup,
    config: Config,
    pub keys: Keys,
    /// A production key with full access from everywhere.
    pub live: TestKey,
    /// The same for the sandbox.
    pub test: TestKey,
    // Last: what is in it goes when nobody uses it any more.
    pub folder: TempDir,
}

impl Prepared {
    /// Starts the node and waits until it follows the store.
    pub async fn start(self) -> TestGateway {
        let gateway = self.start_unready().await;
        eventually("an index", || gateway.index.heard_at()).await;
        gateway
    }

    /// Starts the node, which may never be ready.
    pub async fn start_unready(self) -> TestGateway {
        self.try_start().await.unwrap_or_else(|error| panic!("the gateway does not start: {error:#}"))
    }

    pub async fn try_start(self) -> anyhow::Result<TestGateway> {
        let (facts, running) = Running::start(self.config.clone(), self.setup.clock.clone()).await?;
        let Facts { listeners, admin, health, index } = facts;
        let address = listeners[0];
        Ok(TestGateway { address, listeners, admin, health, index, running, prepared: self })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A running gateway. Stops when it is dropped.
pub struct TestGateway {
    /// Of the first listener.
    pub address: SocketAddr,
    pub listeners: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub health: Option<SocketAddr>,
    pub index: IndexReader,
    running: Running,
    prepared: Prepared,
}

impl std::ops::Deref for TestGateway {
    type Target = Prepared;

    fn deref(&self) -> &Prepared {
        &self.prepared
    }
}

impl TestGateway {
    /// One request over HTTP/1.1, on a connection of its own.
    pub async fn ask(&self, request: &Request) -> Reply {
        Http1::connect(self.address).await.ask(request).await
    }

    /// A page of the admin listener.
    pub async fn page(&self, path: &str) -> Reply {
        Http1::connect(self.admin).await.ask(&Request::get(path).to("localhost")).await
    }

    /// Drains, waits for the end, and leaves the store. Fails if the gateway did.
    pub async fn stop(self) -> Prepared {
        let Self { running, prepared, .. } = self;
        within(running.stop()).await;
        prepared
    }

    /// Has it do what SIGHUP would: read its certificates anew and open its access log anew.
    pub async fn reload(&self) {
        let (done, reloaded) = oneshot::channel();
        self.running.reload.send(done).unwrap();
        within(reloaded).await.unwrap();
    }

    /// Tells it to drain, and hands over what waits for its end.
    pub fn drain(&mut self) -> impl Future<Output = ()> + use<> {
        self.running.drain()
    }

    /// The lines of the access log, once there are so many.
    pub async fn log_lines(&self, count: usize) -> Vec<Value> {
        let lines = eventually("the lines of the access log", || {
            let text = std::fs::read_to_string(self.path("access.log")).unwrap_or_default();
            let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await;
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }
}

/// What is known of a gateway once it is bound.
struct Facts {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    health: Option<SocketAddr>,
    index: IndexReader,
}

/// The thread that a gateway's control plane runs on.
struct Running {
    shutdown: Option<oneshot::Sender<()>>,
    reload: mpsc::UnboundedSender<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<anyhow::Result<()>>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    async fn start(config: Config, clock: Clock) -> anyhow::Result<(Facts, Self)> {
        let (shutdown, stop) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (reload, reloads) = mpsc::unbounded_channel();
        let program = async move || {
            let bound = match app::bind(config, clock, Random::of_the_machine()).await {
                Ok(bound) => bound,
                Err(error) => return drop(tell.send(Err(error))),
            };
            let (index, listeners) = (bound.index(), bound.listeners.clone());
            let _ = tell.send(Ok(Facts { listeners, admin: bound.admin, health: bound.health, index }));
            let reload = bound.reload();
            let _ = end.send(bound.run(until_stopped(stop, reload, reloads)).await);
        };
        let run = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(program());
        };
        let thread = std::thread::Builder::new().name("gateway".to_owned()).spawn(run)?;
        let facts = within(told).await.expect("the gateway's thread says what became of it")?;
        Ok((facts, Self { shutdown: Some(shutdown), ended: Some(ended), thread: Some(thread), reload }))
    }

    fn drain(&mut self) -> impl Future<Output = ()> + use<> {
        self.shutdown.take();
        let ended = self.ended.take().expect("a gateway is drained once");
        async move { within(ended).await.expect("the gateway's thread does not panic").expect("the gateway ends well") }
    }

    async fn stop(mut self) {
        self.drain().await;
    }
}

/// As `serve` does for signals.
async fn until_stopped(mut stop: oneshot::Receiver<()>, reload: Reload, mut reloads: mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
    loop {
        tokio::select! {
            _ = &mut stop => return,
            Some(done) = reloads.recv() => {
                reload.now();
                let _ = done.send(());
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.take();
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed, and is told by whoever waits for the end.
            let _ = thread.join();
        }
    }
}
