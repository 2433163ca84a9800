//! What is seen of a node by those who run it: whether it lives and may serve, its counts, a line for each request, and how it
//! comes and goes.

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::gateway::{PRODUCTION, Setup};
use crate::support::http1::{Http1, encode};
use crate::support::http2::{self, Http2};
use crate::support::keys::a_key;
use crate::support::message::Request;
use crate::support::upstream::TestUpstream;
use crate::support::wait::{eventually_asked, within};

/// Section 10 of the contract, in its order.
const LOGGED: [&str; 20] = [
    "time",
    "request_id",
    "node",
    "key_id",
    "account",
    "environment",
    "client_address",
    "peer",
    "protocol",
    "method",
    "host",
    "path",
    "status",
    "code",
    "upstream",
    "request_bytes",
    "reply_bytes",
    "decision_us",
    "upstream_us",
    "total_us",
];

#[tokio::test]
async fn a_node_lives_before_it_may_serve_and_is_ready_once_it_has_an_index() {
    let upstream = TestUpstream::echo().await;
    let prepared = Setup::before(upstream.address).store("late/martis.db").open().await;
    std::fs::write(prepared.path("late"), "a file where a folder should be").unwrap();
    let gateway = prepared.start_unready().await;

    let healthz = gateway.page("/healthz").await;
    assert_eq!((healthz.status, healthz.field("cache-control")), (200, Some("no-store")));
    let readyz = eventually_asked("the store to be tried", || async {
        let reply = gateway.page("/readyz").await;
        reply.json()["problem"].is_string().then_some(reply)
    })
    .await;
    assert_eq!((readyz.status, &readyz.json()["ready"], &readyz.json()["store"]), (503, &json!(false), &json!("unreachable")));
    assert!(readyz.json()["age_seconds"].is_null(), "{readyz:?}");

    // The store that the keys are in, where the node looks for it.
    std::fs::remove_file(gateway.path("late")).unwrap();
    std::os::unix::fs::symlink(gateway.path("data"), gateway.path("late")).unwrap();
    let readyz = eventually_asked("the node to be ready", || async {
        let reply = gateway.page("/readyz").await;
        (reply.status == 200).then_some(reply.json())
    })
    .await;
    assert_eq!((&readyz["ready"], &readyz["keys"], &readyz["warning"]), (&json!(true), &json!(2), &Value::Null));
    gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
}

#[tokio::test]
async fn readiness_says_what_decisions_are_made_by() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    gateway.keys.make(a_key()).await;
    let readyz = eventually_asked("the store to be followed", || async {
        let body = gateway.page("/readyz").await.json();
        (body["store"] == "followed").then_some(body)
    })
    .await;
    assert_eq!((&readyz["ready"], &readyz["revision"], &readyz["keys"]), (&json!(true), &json!(gateway.index.revision()), &json!(3)));
    assert!(readyz["age_seconds"].as_f64().unwrap() < 10.0 && readyz["lease_ends"].is_string(), "{readyz}");
}

#[tokio::test]
async fn pages_for_operators_are_on_no_listener_for_requests_and_the_other_way_round() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    for page in ["/healthz", "/readyz", "/metrics"] {
        gateway.ask(&Request::get(page)).await.refused("missing_api_key");
        gateway.ask(&Request::get(page).with(&gateway.live)).await.passed();
    }
    let reply = Http1::connect(gateway.admin).await.ask(&Request::get("/v1/things").with(&gateway.live)).await;
    assert_eq!(reply.status, 404);
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn health_can_have_a_listener_of_its_own() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).section("[health]\naddress = \"127.0.0.1:0\"").start().await;
    let health = gateway.health.unwrap();
    for page in ["/healthz", "/readyz", "/metrics"] {
        let reply = Http1::connect(health).await.ask(&Request::get(page).to("localhost")).await;
        assert_eq!(reply.status, 200, "{page}");
        assert_eq!(gateway.page(page).await.status, 404, "{page}");
    }
}

#[tokio::test]
async fn all_metrics_are_there_and_count_what_happened() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    for _ in 0..3 {
        gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
    }
    gateway.ask(&Request::get("/")).await.refused("missing_api_key");
    gateway.ask(&Request::get("/").to("elsewhere.test")).await.refused("unknown_host");
    gateway.keys.revoke(&gateway.live).await;
    gateway.ask(&Request::get("/").with(&gateway.live)).await.refused("revoked_api_key");

    let count = |page: &str, labels: &str| -> Option<f64> {
        let series = format!("martis_gateway_requests_total{{{labels}}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
    };
    let page = eventually_asked("the counts", || async {
        let page = gateway.page("/metrics").await.text().to_owned();
        // Each worker adds its own about once a second.
        page.lines().any(|line| line == "martis_gateway_request_seconds_count 6").then_some(page)
    })
    .await;
    let counts = [
        ("forwarded", "production", 3.0),
        ("missing_api_key", "production", 1.0),
        ("revoked_api_key", "production", 1.0),
        ("unknown_host", "none", 1.0),
        ("forwarded", "sandbox", 0.0),
    ];
    for (code, environment, expected) in counts {
        let labels = format!(r#"code="{code}",environment="{environment}""#);
        assert_eq!(count(&page, &labels), Some(expected), "{labels}");
    }
    let families: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE martis_gateway_")?.split(' ').next()).collect();
    let expected = [
        "connections",
        "decision_seconds",
        "feed_lag_seconds",
        "index_age_seconds",
        "index_keys",
        "index_revision",
        "log_dropped_total",
        "request_seconds",
        "requests_total",
        "revocation_seconds",
        "streams",
        "upstream_seconds",
    ];
    // Of certificates there are none here.
    assert_eq!(families, expected);
    for line in ["martis_gateway_revocation_seconds_count 1", "martis_gateway_upstream_seconds_count 3"] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
    assert!(!page.contains(&gateway.live.id.to_string()) && !page.contains("127.0.0.1"));
}

#[tokio::test]
async fn every_request_is_a_line_with_exactly_the_promised_fields() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let request = Request::post("/v1/things?secret=query", "body").field("x-request-id", "first").with(&gateway.live);
    gateway.ask(&request).await.passed();
    let forwarded = gateway.log_lines(1).await.remove(0);
    Http2::connect(gateway.address).await.ask(&Request::get("/v1").field("x-request-id", "second")).await.refused("missing_api_key");
    let refused = gateway.log_lines(2).await.remove(1);

    let text = std::fs::read_to_string(gateway.path("access.log")).unwrap();
    for line in text.lines() {
        let places: Vec<_> = LOGGED.iter().map(|name| line.find(&format!("\"{name}\":"))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{line}");
        assert_eq!(serde_json::from_str::<Value>(line).unwrap().as_object().unwrap().len(), LOGGED.len());
    }
    let expected = [
        ("request_id", json!("first"), json!("second")),
        ("node", json!("node-under-test"), json!("node-under-test")),
        ("key_id", json!(gateway.live.id), Value::Null),
        ("account", json!(gateway.live.account), Value::Null),
        ("environment", json!("production"), json!("production")),
        ("client_address", json!("127.0.0.1"), json!("127.0.0.1")),
        ("peer", json!("127.0.0.1"), json!("127.0.0.1")),
        ("protocol", json!("HTTP/1.1"), json!("HTTP/2")),
        ("method", json!("POST"), json!("GET")),
        ("host", json!(PRODUCTION), json!(PRODUCTION)),
        ("path", json!("/v1/things"), json!("/v1")),
        ("status", json!(200), json!(401)),
        ("code", json!("forwarded"), json!("missing_api_key")),
        ("upstream", json!("core"), Value::Null),
        ("request_bytes", json!(4), json!(0)),
    ];
    for (name, of_first, of_second) in expected {
        assert_eq!((&forwarded[name], &refused[name]), (&of_first, &of_second), "{name}");
    }
    assert_eq!(forwarded["reply_bytes"], 4);
    assert!(refused["reply_bytes"].as_u64() > Some(100) && refused["upstream_us"].is_null());
    for line in [&forwarded, &refused] {
        assert!(line["decision_us"].is_number() && line["total_us"].is_number(), "{line}");
    }
    assert!(forwarded["upstream_us"].as_u64() <= forwarded["total_us"].as_u64());
}

#[tokio::test]
async fn a_request_that_could_not_be_read_is_a_line_too() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send("GET /readable HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    client.reply().await.refused("bad_request");
    let line = &gateway.log_lines(1).await[0];
    assert_eq!((&line["status"], &line["code"], &line["path"]), (&json!(400), &json!("bad_request"), &json!("/readable")));
}

#[tokio::test]
async fn the_access_log_goes_on_in_a_new_file_after_a_reload() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    gateway.ask(&Request::get("/before").with(&gateway.live)).await.passed();
    gateway.log_lines(1).await;
    std::fs::rename(gateway.path("access.log"), gateway.path("access.log.1")).unwrap();
    gateway.reload().await;
    gateway.ask(&Request::get("/after").with(&gateway.live)).await.passed();
    assert_eq!(gateway.log_lines(1).await[0]["path"], "/after");
    assert!(std::fs::read_to_string(gateway.path("access.log.1")).unwrap().contains("/before"));
}

#[tokio::test]
async fn draining_finishes_requests_and_begins_none() {
    let (upstream, permits) = TestUpstream::held_back().await;
    let mut gateway = Setup::before(upstream.address).limit("drain_timeout", "30s").start().await;
    let mut idle = Http1::connect(gateway.address).await;
    idle.ask(&Request::get("/")).await.refused("missing_api_key");
    let mut idle_http2 = Http2::connect(gateway.address).await;
    idle_http2.ask(&Request::get("/")).await.refused("missing_api_key");
    let mut busy = Http1::connect(gateway.address).await;
    busy.send(encode(&Request::get("/").with(&gateway.live))).await;
    let mut busy_http2 = Http2::connect(gateway.address).await;
    let (reply, _) = busy_http2.open(http2::head(&Request::get("/").with(&gateway.live)), true).await.unwrap();
    upstream.has_seen(2).await;

    let ended = gateway.drain();
    assert!(idle.ends().await, "an idle connection is closed");
    let readyz = gateway.page("/readyz").await;
    assert_eq!((readyz.status, &readyz.json()["ready"]), (503, &json!(false)), "nobody is to send it anything new");
    assert_eq!(gateway.page("/healthz").await.status, 200);
    within(idle_http2.connection).await.unwrap().unwrap();
    eventually_asked("no more connections to be taken", || async { TcpStream::connect(gateway.address).await.err() }).await;
    // GOAWAY: the stream that is open goes on, another is not begun.
    let begun = eventually_asked("no more streams to be taken", || async {
        busy_http2.requests.clone().open(http2::head(&Request::get("/").with(&gateway.live)), true).await.err()
    });
    within(begun).await;

    permits.add_permits(2);
    let last = busy.reply().await.passed();
    assert_eq!((last.text(), last.field("connection")), ("late", Some("close")));
    assert_eq!(http2::whole(within(reply).await.unwrap()).await.unwrap().text(), "late");
    assert!(busy.ends().await);
    ended.await;
}

#[tokio::test]
async fn draining_waits_no_longer_than_it_may() {
    let upstream = TestUpstream::silent().await;
    let mut gateway = Setup::before(upstream.address).limit("drain_timeout", "100ms").start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&Request::get("/").with(&gateway.live))).await;
    upstream.has_seen(1).await;
    gateway.drain().await;
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_clean_stop_takes_the_node_off_the_list_and_leaves_a_snapshot() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let key = gateway.keys.make(a_key()).await;
    let nodes = gateway.keys.keyring.nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| (node.name.as_str(), node.live)).collect::<Vec<_>>(), [("node-under-test", true)]);
    let stopped = gateway.stop().await;
    assert!(stopped.keys.keyring.nodes().await.unwrap().is_empty());

    // With the store out of its sight the next one starts from the snapshot, and knows the key.
    std::fs::rename(stopped.path("data/martis.db"), stopped.path("data/moved.db")).unwrap();
    let gateway = stopped.start().await;
    gateway.ask(&Request::get("/").with(&key)).await.passed();
    gateway.ask(&Request::get("/").with(&gateway.test).to("sandbox.martis.test")).await.passed();
    gateway.ask(&Request::get("/").secret("sk_live_x")).await.refused("invalid_api_key");
}

#[tokio::test]
async fn nobody_else_can_have_an_address_that_is_taken() {
    let upstream = TestUpstream::echo().await;
    let first = Setup::before(upstream.address).start().await;
    let same = format!("[[listeners]]\naddress = \"{}\"\n", first.address);
    let second = Setup::before(upstream.address).listener_as(&same).open().await;
    let error = second.try_start().await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(error.contains(&first.address.to_string()) && error.contains("in use"), "{error:?}");

    // A stranger who would share it with us.
    let stranger = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    stranger.set_reuse_port(true).unwrap();
    stranger.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    stranger.listen(1).unwrap();
    let address = stranger.local_addr().unwrap().as_socket().unwrap();
    let third = Setup::before(upstream.address).listener_as(&format!("[[listeners]]\naddress = \"{address}\"\n")).open().await;
    assert!(third.try_start().await.is_err());

    let admin = format!("[admin]\naddress = \"{}\"", first.admin);
    let fourth = Setup::before(upstream.address).admin_as(&admin).open().await;
    assert!(fourth.try_start().await.is_err());
    first.ask(&Request::get("/").with(&first.live)).await.passed();
}

#[tokio::test]
async fn a_node_serves_on_all_of_its_listeners() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).listener("").listener("").start().await;
    for address in &gateway.listeners {
        Http1::connect(*address).await.ask(&Request::get("/").with(&gateway.live)).await.passed();
    }
    assert_eq!(upstream.requests().len(), 2);
}
