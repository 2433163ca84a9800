//! Ten thousand keys that are made, restricted, paused, rotated and revoked at random, against a model of the rules that is
//! written a second time, as plainly as can be. Every change goes the whole way: keyring, store, feed, index. What becomes of
//! requests is asked of the gate for all of them, and over the wire for a sample.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use martis_gateway::access::address::ClientAddress;
use martis_gateway::access::key::KeyId;
use martis_gateway::access::time::Timestamp;
use martis_gateway::app;
use martis_gateway::clock::{Clock, TestClock};
use martis_gateway::gate::{Gate, Head};
use martis_gateway::keyring::view::{Confirmation, IpRestrictionsView};
use martis_gateway::keyring::{Edit, KeyringError, ListKeys, NewKey, Restrict, parse_duration};

use crate::support::gateway::{PRODUCTION, SANDBOX, Setup, TestGateway};
use crate::support::http1::Http1;
use crate::support::http2::Http2;
use crate::support::keys::Keys;
use crate::support::message::Request;
use crate::support::upstream::TestUpstream;

const SEED: u64 = 20_261_122;
const ACCOUNTS: usize = 5;
/// Made in one go before the node runs, and one by one while it does.
const IMPORTED: usize = 9_500;
const CREATED: usize = 500;
const BATCHES: usize = 30;
/// Changes under way at once; each is of another key.
const AT_ONCE: usize = 48;

/// Addresses that restrictions are made of: a range by its first three parts, or one address.
const RANGES: [(&str, [u8; 3]); 3] =
    [("203.0.113.0/24", [203, 0, 113]), ("198.51.100.0/24", [198, 51, 100]), ("192.0.2.0/24", [192, 0, 2])];
const READ: &str = "payments.charges:read";
const WRITE: &str = "payments.charges:write";

/// What is known of a key, as somebody with pencil and paper would keep it.
#[derive(Clone)]
struct Model {
    id: KeyId,
    secret: String,
    sandbox: bool,
    account: usize,
    state: State,
    created: Timestamp,
    expires: Option<Timestamp>,
    restricted: bool,
    /// Numbers of [`RANGES`].
    allowed: Vec<usize>,
    /// None: full.
    permissions: Option<BTreeSet<&'static str>>,
    replaced: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Paused,
    Revoked,
}

/// A request, as far as the rules look at it.
#[derive(Clone)]
struct Ask {
    sandbox: bool,
    client: Ipv4Addr,
    method: &'static str,
    path: &'static str,
}

impl Model {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| now >= end)
    }

    fn is_active(&self, now: Timestamp) -> bool {
        self.state == State::Active && !self.is_expired(now)
    }

    /// The code of the first row that refuses; none if the request passes.
    fn meets(&self, ask: &Ask, suspended: &[bool], now: Timestamp) -> Option<&'static str> {
        if self.sandbox != ask.sandbox {
            return Some("environment_mismatch");
        }
        if self.state == State::Revoked {
            return Some("revoked_api_key");
        }
        if self.is_expired(now) {
            return Some("expired_api_key");
        }
        if self.state == State::Paused {
            return Some("paused_api_key");
        }
        if self.restricted && !self.allowed.iter().any(|&range| ask.client.octets()[..3] == RANGES[range].1) {
            return Some("ip_not_allowed");
        }
        if suspended[self.account] {
            return Some("account_suspended");
        }
        let needed = match (ask.method, ask.path) {
            ("POST", "/api/v1/payments/charges") => Some(WRITE),
            ("GET", "/api/v1/payments/charges") => Some(READ),
            _ => None,
        };
        match &self.permissions {
            None => None,
            Some(list) if needed.is_some_and(|needed| list.contains(needed)) => None,
            Some(_) => Some("insufficient_permissions"),
        }
    }
}

/// One change of one key.
#[derive(Clone, Debug)]
enum Change {
    Restrict(Vec<usize>),
    SwitchOn,
    SwitchOff,
    Rename,
    Pause,
    Resume,
    Rotate(&'static str),
    Revoke,
}

impl Change {
    fn random(random: &mut fastrand::Rng) -> Self {
        match random.u8(0..12) {
            0..3 => Self::Restrict(random_ranges(random)),
            3 => Self::SwitchOn,
            4 => Self::SwitchOff,
            5 => Self::Rename,
            6 | 7 => Self::Pause,
            8 | 9 => Self::Resume,
            10 => Self::Rotate(["0s", "20s", "1h"][random.usize(0..3)]),
            _ => Self::Revoke,
        }
    }

    /// What the rules say of it: an error's code, or what becomes of the key, but for the successor of a rotation.
    fn expected(&self, key: &Model, now: Timestamp) -> Result<Model, &'static str> {
        let mut key = key.clone();
        let may = match self {
            Self::Restrict(_) | Self::SwitchOn | Self::SwitchOff | Self::Rename | Self::Revoke => key.state != State::Revoked,
            Self::Pause => key.is_active(now),
            Self::Resume => key.state == State::Paused && !key.is_expired(now),
            Self::Rotate(_) => key.is_active(now) && !key.replaced,
        };
        if !may {
            return Err("wrong_status");
        }
        match self {
            Self::Restrict(ranges) => (key.restricted, key.allowed) = (true, ranges.clone()),
            Self::SwitchOn if key.allowed.is_empty() => return Err("invalid_fields"),
            Self::SwitchOn => key.restricted = true,
            Self::SwitchOff => key.restricted = false,
            Self::Rename => {}
            Self::Pause => key.state = State::Paused,
            Self::Resume => key.state = State::Active,
            Self::Revoke => key.state = State::Revoked,
            Self::Rotate(overlap) => {
                key.replaced = true;
                match seconds(overlap) {
                    0 => key.state = State::Revoked,
                    overlap => {
                        let end = now.plus(Duration::from_secs(overlap));
                        key.expires = Some(key.expires.map_or(end, |earlier| earlier.min(end)));
                    }
                }
            }
        }
        Ok(key)
    }

    /// Does it; gives the secret and the id of a successor.
    async fn done(&self, keys: &Keys, id: KeyId) -> Result<(Confirmation, Option<(KeyId, String)>), KeyringError> {
        let (keyring, actor) = (&keys.keyring, &keys.actor);
        let edit = async |edit: Edit| keyring.edit(actor, id, &edit).await.map(|edited| (edited.confirmation, None));
        let restrict = |restrict| Edit { ip_restrictions: Some(restrict), ..Edit::default() };
        match self {
            Self::Restrict(ranges) => edit(restrict(Restrict::Set(view(true, ranges)))).await,
            Self::SwitchOn => edit(restrict(Restrict::On)).await,
            Self::SwitchOff => edit(restrict(Restrict::Off)).await,
            Self::Rename => edit(Edit { name: Some("another name".to_owned()), ..Edit::default() }).await,
            Self::Pause => keyring.pause(actor, id).await.map(|changed| (changed.confirmation, None)),
            Self::Resume => keyring.resume(actor, id).await.map(|changed| (changed.confirmation, None)),
            Self::Revoke => keyring.revoke(actor, id, None).await.map(|changed| (changed.confirmation, None)),
            Self::Rotate(overlap) => {
                let rotated = keyring.rotate(actor, id, Some(overlap)).await?;
                Ok((rotated.confirmation, Some((rotated.key.id, rotated.secret.reveal().to_owned()))))
            }
        }
    }
}

fn seconds(overlap: &str) -> u64 {
    parse_duration(overlap).unwrap().as_secs()
}

fn random_ranges(random: &mut fastrand::Rng) -> Vec<usize> {
    let some: Vec<usize> = (0..RANGES.len()).filter(|_| random.bool()).collect();
    if some.is_empty() { vec![0] } else { some }
}

fn view(enabled: bool, ranges: &[usize]) -> IpRestrictionsView {
    IpRestrictionsView { enabled, allowed: ranges.iter().map(|&range| RANGES[range].0.to_owned()).collect() }
}

/// The gateway, and what must be true of it.
struct World {
    gateway: TestGateway,
    gate: Gate,
    clock: Clock,
    models: Vec<Model>,
    suspended: Vec<bool>,
    random: fastrand::Rng,
    http1: Http1,
    http2: Http2,
}

impl World {
    async fn new(upstream: &TestUpstream, test: &TestClock) -> Self {
        let setup = Setup::before(upstream.address).clock(test.clock()).trusting("127.0.0.1");
        let prepared = setup.open().await;
        for number in 0..ACCOUNTS {
            prepared.keys.account(&account(number)).await;
        }
        let mut random = fastrand::Rng::with_seed(SEED);
        let now = test.clock().now();
        let mut models: Vec<Model> = (0..IMPORTED).map(|number| imported(number, now, &mut random)).collect();
        let lines: Vec<String> = models.iter().map(line).collect();
        assert_eq!(prepared.keys.import_lines(&lines.join("\n")).await.keys, IMPORTED as u64);
        let ids = ids_by_name(&prepared.keys).await;
        models.iter_mut().enumerate().for_each(|(number, model)| model.id = ids[number]);

        let gateway = prepared.start().await;
        let gate = app::gate_of(gateway.config(), &gateway.config().limits, gateway.index.clone());
        let (http1, http2) = (Http1::connect(gateway.address).await, Http2::connect(gateway.address).await);
        Self { gateway, gate, clock: test.clock(), models, suspended: vec![false; ACCOUNTS], random, http1, http2 }
    }

    /// Makes a few keys at once, one of each kind that [`imported`] has.
    async fn create(&mut self, count: usize) {
        let now = self.clock.now();
        let plans: Vec<Model> = (0..count).map(|number| imported(number, now, &mut self.random)).collect();
        let news: Vec<NewKey> = plans.iter().map(new_key).collect();
        let made = join_all(news.iter().map(|new| self.gateway.keys.make_confirmed(new.clone()))).await;
        for (plan, (key, confirmation)) in plans.into_iter().zip(made) {
            assert_eq!((confirmation.nodes, confirmation.confirmed), (1, 1));
            self.models.push(Model { id: key.id, secret: key.secret, ..plan });
        }
    }

    /// Changes some keys at once, each as the rules allow, and checks that each met its rule.
    async fn change(&mut self) {
        let now = self.clock.now();
        let places: BTreeSet<usize> = (0..AT_ONCE).map(|_| self.random.usize(0..self.models.len())).collect();
        let changes: Vec<(usize, Change)> = places.into_iter().map(|place| (place, Change::random(&mut self.random))).collect();
        let doing = changes.iter().map(|(place, change)| change.done(&self.gateway.keys, self.models[*place].id));
        let done = join_all(doing).await;
        for ((place, change), done) in changes.into_iter().zip(done) {
            self.note(place, &change, done, now);
        }
    }

    fn note(&mut self, place: usize, change: &Change, done: Result<(Confirmation, Option<(KeyId, String)>), KeyringError>, now: Timestamp) {
        let old = self.models[place].clone();
        match (change.expected(&old, now), done) {
            (Err(expected), Err(error)) => assert_eq!(error.code(), expected, "{change:?}: {error}"),
            (Ok(key), Ok((confirmation, successor))) => {
                assert_eq!((confirmation.nodes, confirmation.confirmed), (1, 1), "{change:?}: {confirmation:?}");
                self.models[place] = key;
                if let Some((id, secret)) = successor {
                    let expires = old.expires.map(|end| now.plus(end.since(old.created)));
                    self.models.push(Model { id, secret, created: now, expires, replaced: false, ..old });
                }
            }
            (expected, done) => panic!("{change:?}: expected {:?}, done {:?}", expected.map(drop), done.map(drop)),
        }
    }

    async fn suspend_or_resume(&mut self) {
        let account_number = self.random.usize(0..ACCOUNTS);
        let Keys { keyring, actor } = &self.gateway.keys;
        let name = account(account_number);
        let suspended = &mut self.suspended[account_number];
        let changed = if *suspended { keyring.resume_account(actor, &name).await } else { keyring.suspend_account(actor, &name).await };
        assert_eq!(changed.unwrap().confirmation.confirmed, 1);
        *suspended = !*suspended;
    }

    /// Asks the gate for every key.
    fn check_all(&mut self) {
        let now = self.clock.now();
        for place in 0..self.models.len() {
            let ask = random_ask(&mut self.random, self.models[place].sandbox);
            let found = judged(&self.gate, &ask, &self.models[place].secret, now);
            self.check(place, &ask, found.as_deref());
        }
    }

    /// Asks over the wire for a few.
    async fn check_some(&mut self, count: usize) {
        for _ in 0..count {
            let place = self.random.usize(0..self.models.len());
            let ask = random_ask(&mut self.random, self.models[place].sandbox);
            let host = if ask.sandbox { SANDBOX } else { PRODUCTION };
            let request = Request::new(ask.method, ask.path).to(host).field("x-forwarded-for", &ask.client.to_string());
            let request = request.secret(&self.models[place].secret);
            let reply = if self.random.bool() { self.http1.ask(&request).await } else { self.http2.ask(&request).await };
            self.check(place, &ask, reply.code().as_deref());
            assert_eq!(reply.status == 200, reply.code().is_none(), "{reply:?}");
        }
    }

    #[track_caller]
    fn check(&self, place: usize, ask: &Ask, found: Option<&str>) {
        let expected = self.models[place].meets(ask, &self.suspended, self.clock.now());
        assert_eq!(found, expected, "key {place}, {} {} from {}", ask.method, ask.path, ask.client);
    }
}

/// What the gate says of a request, without a wire.
fn judged(gate: &Gate, ask: &Ask, secret: &str, now: Timestamp) -> Option<String> {
    let host = if ask.sandbox { SANDBOX } else { PRODUCTION };
    let headers = HeaderMap::from_iter([
        (HOST, HeaderValue::from_static(host)),
        (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {secret}")).unwrap()),
        (HeaderName::from_static("x-forwarded-for"), HeaderValue::from_str(&ask.client.to_string()).unwrap()),
    ]);
    let (method, uri) = (ask.method.parse::<Method>().unwrap(), Uri::from_static(ask.path));
    let peer = ClientAddress::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let head = Head { method: &method, uri: &uri, headers: &headers, protocol: None, guarded: true, peer };
    gate.judge(&head, now, &mut ()).verdict.err().map(|refused| refused.denial.code().to_owned())
}

fn random_ask(random: &mut fastrand::Rng, sandbox: bool) -> Ask {
    let [a, b, c] = RANGES[random.usize(0..RANGES.len())].1;
    let (method, path) = [("POST", "/api/v1/payments/charges"), ("GET", "/api/v1/payments/charges"), ("GET", "/other")][random.usize(0..3)];
    // Nearly always the right host: the wrong one tells nothing of the rest.
    Ask { sandbox: sandbox != (random.u8(0..50) == 0), client: Ipv4Addr::new(a, b, c, random.u8(..)), method, path }
}

fn account(number: usize) -> String {
    format!("account {number}")
}

/// A key of a random kind; its id is not known yet.
fn imported(number: usize, now: Timestamp, random: &mut fastrand::Rng) -> Model {
    let sandbox = random.bool();
    let body: String = (0..30).map(|_| random.alphanumeric()).collect();
    let permissions = (random.u8(0..3) == 0).then(|| [READ, WRITE].into_iter().filter(|_| random.bool()).collect::<BTreeSet<_>>());
    let restricted = random.u8(0..3) == 0;
    Model {
        id: KeyId::from_bytes([0; 16]),
        secret: format!("{}{number:08}{body}", if sandbox { "sk_test_" } else { "sk_live_" }),
        sandbox,
        account: random.usize(0..ACCOUNTS),
        state: State::Active,
        created: now,
        expires: random.bool().then(|| now.plus(Duration::from_secs(random.u64(10..200)))),
        restricted,
        allowed: if restricted { random_ranges(random) } else { Vec::new() },
        permissions: permissions.filter(|list| !list.is_empty()),
        replaced: false,
    }
}

fn new_key(model: &Model) -> NewKey {
    NewKey {
        account: account(model.account),
        name: "created".to_owned(),
        environment: if model.sandbox { "sandbox" } else { "production" }.to_owned(),
        permissions: model.permissions.as_ref().map(|list| list.iter().map(|&name| name.to_owned()).collect()),
        ip_restrictions: Some(view(model.restricted, &model.allowed)),
        expires_at: model.expires.map(|end| end.to_string()),
    }
}

/// The same as a line of an import, named by its number.
fn line(model: &Model) -> String {
    let NewKey { account, environment, permissions, ip_restrictions, expires_at, .. } = new_key(model);
    let number = &model.secret[8..16];
    let restrictions = ip_restrictions.unwrap();
    serde_json::json!({
        "secret": model.secret,
        "account": account,
        "name": number,
        "environment": environment,
        "permissions": permissions.map_or_else(|| "full".into(), |list| serde_json::json!(list)),
        "ip_restrictions": { "enabled": restrictions.enabled, "allowed": restrictions.allowed },
        "created_at": model.created,
        "expires_at": expires_at,
    })
    .to_string()
}

/// The ids of all imported keys in the order of their numbers.
async fn ids_by_name(keys: &Keys) -> Vec<KeyId> {
    let mut named = Vec::new();
    let mut list = ListKeys { limit: Some(100), ..ListKeys::default() };
    loop {
        let page = keys.keyring.list(&list).await.unwrap();
        named.extend(page.items.into_iter().filter(|key| key.name.bytes().all(|byte| byte.is_ascii_digit())).map(|key| (key.name, key.id)));
        list.cursor = page.next_cursor;
        if list.cursor.is_none() {
            named.sort();
            return named.into_iter().map(|(_, id)| id).collect();
        }
    }
}

#[tokio::test]
async fn ten_thousand_keys_meet_the_rules_however_they_change() {
    let upstream = TestUpstream::echo().await;
    let test = TestClock::at(Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap());
    let mut world = World::new(&upstream, &test).await;
    for batch in 0..BATCHES {
        if batch % 3 == 0 {
            world.create(CREATED * 3 / BATCHES).await;
        }
        world.change().await;
        if batch % 4 == 0 {
            world.suspend_or_resume().await;
        }
        world.check_some(10).await;
        if batch % 10 == 9 {
            world.check_all();
        }
        // Less than a node may be silent and count as live: the changes wait for it.
        test.pass(Duration::from_secs(5));
    }
    world.check_all();
    assert!(world.models.len() >= IMPORTED + CREATED);

    // A node that loads everything anew comes to the same.
    let World { gateway, models, suspended, random, clock, .. } = world;
    let gateway = gateway.stop().await.start().await;
    let gate = app::gate_of(gateway.config(), &gateway.config().limits, gateway.index.clone());
    let (http1, http2) = (Http1::connect(gateway.address).await, Http2::connect(gateway.address).await);
    let mut world = World { gateway, gate, clock, models, suspended, random, http1, http2 };
    world.check_all();
    world.check_some(30).await;
}
