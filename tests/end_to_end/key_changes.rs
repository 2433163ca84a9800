//! Keys that change while the node runs: that it says so when it enforces a change, that the next request meets it, and what
//! holds when the store is gone.

use std::time::Duration;

use martis_gateway::access::time::Timestamp;
use martis_gateway::clock::TestClock;
use martis_gateway::keyring::view::Confirmation;
use martis_gateway::keyring::{Edit, NewKey, Restrict};

use crate::support::gateway::{SANDBOX, Setup, TestGateway};
use crate::support::http1::Http1;
use crate::support::http2::Http2;
use crate::support::keys::{TestKey, a_key, only};
use crate::support::message::Request;
use crate::support::upstream::TestUpstream;
use crate::support::wait::{eventually, eventually_asked};

/// A client that keeps its connections, one of each protocol.
struct Client {
    http1: Http1,
    http2: Http2,
}

impl Client {
    async fn of(gateway: &TestGateway) -> Self {
        Self { http1: Http1::connect(gateway.address).await, http2: Http2::connect(gateway.address).await }
    }

    /// What a key meets: none if it passes.
    async fn meets(&mut self, key: &TestKey) -> Option<String> {
        let request = Request::get("/").with(key);
        let (one, two) = (self.http1.ask(&request).await, self.http2.ask(&request).await);
        assert_eq!((one.status, one.code()), (two.status, two.code()));
        assert!(one.status == 200 || one.code().is_some(), "{one:?}");
        one.code()
    }
}

#[track_caller]
fn confirmed(confirmation: &Confirmation) {
    assert_eq!((confirmation.nodes, confirmation.confirmed, confirmation.silent.len()), (1, 1, 0), "{confirmation:?}");
    assert!(confirmation.slowest_ms.is_some());
}

#[tokio::test]
async fn every_change_is_confirmed_and_the_next_request_of_an_open_connection_meets_it() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let keys = &gateway.keys;
    let (keyring, actor) = (&keys.keyring, &keys.actor);
    let mut client = Client::of(&gateway).await;

    let (key, confirmation) = keys.make_confirmed(a_key()).await;
    confirmed(&confirmation);
    assert_eq!(client.meets(&key).await, None);

    confirmed(&keys.restrict(&key, &["203.0.113.7"]).await);
    assert_eq!(client.meets(&key).await.as_deref(), Some("ip_not_allowed"));
    confirmed(&keys.restrict(&key, &["203.0.113.7", "127.0.0.0/8"]).await);
    assert_eq!(client.meets(&key).await, None);
    keys.restrict(&key, &["203.0.113.7"]).await;
    for (switch, meets) in [(Restrict::Off, None), (Restrict::On, Some("ip_not_allowed")), (Restrict::Off, None)] {
        let edit = Edit { ip_restrictions: Some(switch), ..Edit::default() };
        confirmed(&keyring.edit(actor, key.id, &edit).await.unwrap().confirmation);
        assert_eq!(client.meets(&key).await.as_deref(), meets);
    }

    confirmed(&keys.pause(&key).await);
    assert_eq!(client.meets(&key).await.as_deref(), Some("paused_api_key"));
    confirmed(&keys.resume(&key).await);
    assert_eq!(client.meets(&key).await, None);

    confirmed(&keyring.suspend_account(actor, "acme").await.unwrap().confirmation);
    assert_eq!(client.meets(&key).await.as_deref(), Some("account_suspended"));
    confirmed(&keyring.resume_account(actor, "acme").await.unwrap().confirmation);
    assert_eq!(client.meets(&key).await, None);

    let rotated = keyring.rotate(actor, key.id, Some("0s")).await.unwrap();
    confirmed(&rotated.confirmation);
    let next = TestKey { id: rotated.key.id, account: rotated.key.account, secret: rotated.secret.reveal().to_owned() };
    assert_eq!(client.meets(&key).await.as_deref(), Some("revoked_api_key"));
    assert_eq!(client.meets(&next).await, None);

    confirmed(&keys.revoke(&next).await);
    assert_eq!(client.meets(&next).await.as_deref(), Some("revoked_api_key"));
}

#[tokio::test]
async fn an_old_key_lives_on_beside_its_successor_for_as_long_as_it_was_told() {
    let upstream = TestUpstream::echo().await;
    let clock = TestClock::at(Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap());
    let gateway = Setup::before(upstream.address).clock(clock.clock()).start().await;
    let rotated = gateway.keys.keyring.rotate(&gateway.keys.actor, gateway.live.id, Some("1h")).await.unwrap();
    let next = TestKey { id: rotated.key.id, account: rotated.key.account, secret: rotated.secret.reveal().to_owned() };
    let mut client = Client::of(&gateway).await;
    assert_eq!((client.meets(&gateway.live).await, client.meets(&next).await), (None, None));
    clock.pass(Duration::from_secs(3_599));
    assert_eq!(client.meets(&gateway.live).await, None);
    clock.pass(Duration::from_secs(1));
    assert_eq!(client.meets(&gateway.live).await.as_deref(), Some("expired_api_key"));
    assert_eq!(client.meets(&next).await, None);
}

#[tokio::test]
async fn a_key_ends_at_its_expiry_on_an_open_connection_and_stays_ended_when_the_clock_goes_back() {
    let upstream = TestUpstream::echo().await;
    let start = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
    let clock = TestClock::at(start);
    let gateway = Setup::before(upstream.address).clock(clock.clock()).start().await;
    let key = gateway.keys.make(NewKey { expires_at: Some("2026-11-22T12:00:10Z".to_owned()), ..a_key() }).await;
    let mut client = Client::of(&gateway).await;
    clock.pass(Duration::from_millis(9_999));
    assert_eq!(client.meets(&key).await, None);
    clock.pass(Duration::from_millis(1));
    assert_eq!(client.meets(&key).await.as_deref(), Some("expired_api_key"));
    clock.set(start);
    assert_eq!(client.meets(&key).await.as_deref(), Some("expired_api_key"));
}

#[tokio::test]
async fn a_change_waits_for_every_node_of_the_store() {
    let upstream = TestUpstream::echo().await;
    let first = Setup::before(upstream.address).start().await;
    let shared = first.path("data/martis.db");
    let second = Setup::before(upstream.address).store(shared.to_str().unwrap()).start().await;
    let keyring = &first.keys.keyring;
    eventually_asked("two nodes", || async { (keyring.nodes().await.unwrap().len() == 2).then_some(()) }).await;
    let (key, confirmation) = first.keys.make_confirmed(a_key()).await;
    assert_eq!((confirmation.nodes, confirmation.confirmed, confirmation.silent.len()), (2, 2, 0));
    let mut clients = [Client::of(&first).await, Client::of(&second).await];
    for client in &mut clients {
        assert_eq!(client.meets(&key).await, None);
    }
    assert_eq!(first.keys.revoke(&key).await.confirmed, 2);
    for client in &mut clients {
        assert_eq!(client.meets(&key).await.as_deref(), Some("revoked_api_key"));
    }
    second.stop().await;
    let (_, confirmation) = first.keys.make_confirmed(a_key()).await;
    assert_eq!((confirmation.nodes, confirmation.confirmed), (1, 1));
}

#[tokio::test]
async fn changes_made_while_no_node_runs_are_in_force_at_the_next_start() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let key = gateway.keys.make(a_key()).await;
    let stopped = gateway.stop().await;
    let confirmation = stopped.keys.revoke(&key).await;
    assert_eq!(confirmation, Confirmation::default());
    let later = stopped.keys.make(a_key()).await;
    let gateway = stopped.start().await;
    let mut client = Client::of(&gateway).await;
    eventually_asked("the change", || async { (gateway.ask(&Request::get("/").with(&later)).await.status == 200).then_some(()) }).await;
    assert_eq!(client.meets(&key).await.as_deref(), Some("revoked_api_key"));
}

#[tokio::test]
async fn without_the_store_known_keys_work_and_revoked_ones_do_not_until_the_lease_is_over() {
    let upstream = TestUpstream::echo().await;
    let clock = TestClock::at(Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap());
    let gateway = Setup::before(upstream.address).clock(clock.clock()).max_staleness("12h").start().await;
    let revoked = gateway.keys.make(a_key()).await;
    gateway.keys.revoke(&revoked).await;
    let mut client = Client::of(&gateway).await;

    std::fs::rename(gateway.path("data"), gateway.path("elsewhere")).unwrap();
    eventually_asked("the loss to be noticed", || async { (gateway.page("/readyz").await.json()["store"] == "unreachable").then_some(()) })
        .await;
    assert_eq!(client.meets(&gateway.live).await, None);
    assert_eq!(client.meets(&revoked).await.as_deref(), Some("revoked_api_key"));

    clock.pass(Duration::from_secs(90));
    let readyz = gateway.page("/readyz").await;
    assert_eq!((readyz.status, readyz.json()["warning"].is_string()), (200, true), "{readyz:?}");
    assert_eq!(client.meets(&gateway.live).await, None);

    clock.pass(Duration::from_secs(12 * 3_600));
    for key in [&gateway.live, &revoked] {
        assert_eq!(client.meets(key).await.as_deref(), Some("gateway_not_ready"));
    }
    assert_eq!(gateway.page("/readyz").await.status, 503);

    std::fs::rename(gateway.path("elsewhere"), gateway.path("data")).unwrap();
    eventually_asked("the store again", || async { (gateway.page("/readyz").await.status == 200).then_some(()) }).await;
    assert_eq!(client.meets(&gateway.live).await, None);
    assert_eq!(client.meets(&revoked).await.as_deref(), Some("revoked_api_key"));
}

#[tokio::test]
async fn a_restart_does_not_make_an_index_younger() {
    let upstream = TestUpstream::echo().await;
    let clock = TestClock::at(Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap());
    let gateway = Setup::before(upstream.address).clock(clock.clock()).max_staleness("1h").start().await;
    let stopped = gateway.stop().await;
    std::fs::rename(stopped.path("data/martis.db"), stopped.path("data/moved.db")).unwrap();
    clock.pass(Duration::from_secs(3_599));
    let gateway = stopped.start().await;
    let mut client = Client::of(&gateway).await;
    assert_eq!(client.meets(&gateway.live).await, None);
    clock.pass(Duration::from_secs(2));
    assert_eq!(client.meets(&gateway.live).await.as_deref(), Some("gateway_not_ready"));
}

#[tokio::test]
async fn a_lease_of_seconds_is_over_in_seconds() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).max_staleness("1s").start().await;
    gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
    std::fs::rename(gateway.path("data"), gateway.path("elsewhere")).unwrap();
    let refused = eventually_asked("the end of the lease", || async {
        let reply = gateway.ask(&Request::get("/").with(&gateway.live)).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!((refused.status, refused.code().as_deref()), (503, Some("gateway_not_ready")));
}

#[tokio::test]
async fn a_damaged_snapshot_keeps_no_node_from_starting_with_its_store() {
    let upstream = TestUpstream::echo().await;
    let stopped = Setup::before(upstream.address).start().await.stop().await;
    let snapshot = stopped.path("data/keys.snapshot");
    let mut bytes = std::fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    let gateway = stopped.start().await;
    gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
}

#[tokio::test]
async fn the_files_of_a_node_are_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = TestUpstream::echo().await;
    let stopped = Setup::before(upstream.address).start().await.stop().await;
    let mode = |name: &str| std::fs::metadata(stopped.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode("data/martis.db"), mode("data/keys.snapshot")), (0o700, 0o600, 0o600));
}

#[tokio::test]
async fn a_key_of_another_system_works_as_it_is() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let short = gateway.keys.import("sk_test_x", "sandbox").await;
    let long = gateway.keys.import(&format!("sk_test_{}", "-._~+/=".repeat(72)), "sandbox").await;
    for key in [&short, &long] {
        eventually("the import", || (gateway.index.len() == 4).then_some(())).await;
        gateway.ask(&Request::get("/").to(SANDBOX).with(key)).await.passed();
    }
    gateway.ask(&Request::get("/").to(SANDBOX).secret("sk_test_y")).await.refused("invalid_api_key");
}

#[tokio::test]
async fn restrictions_that_are_switched_off_keep_their_list() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let key = gateway.keys.make(NewKey { ip_restrictions: Some(only(&["203.0.113.7"])), ..a_key() }).await;
    let off = Edit { ip_restrictions: Some(Restrict::Off), ..Edit::default() };
    let edited = gateway.keys.keyring.edit(&gateway.keys.actor, key.id, &off).await.unwrap();
    assert_eq!(
        (edited.key.ip_restrictions.enabled, edited.key.ip_restrictions.allowed.as_slice()),
        (false, &["203.0.113.7".to_owned()][..])
    );
    gateway.ask(&Request::get("/").with(&key)).await.passed();
}
