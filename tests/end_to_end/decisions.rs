//! The decision table: each row over each protocol, with exactly what its reply must carry, and the order of the rows.

use std::net::SocketAddr;
use std::time::Duration;

use martis_gateway::access::time::Timestamp;
use martis_gateway::clock::TestClock;
use martis_gateway::keyring::NewKey;
use serde_json::Value;

use crate::support::gateway::{PRODUCTION, SANDBOX, Setup, TestGateway};
use crate::support::http1::{Http1, encode};
use crate::support::http2::Http2;
use crate::support::keys::{TestKey, a_key, a_key_for, a_key_with};
use crate::support::message::{Reply, Request};
use crate::support::upstream::{After, TestUpstream};

const CHARGES: &str = "/api/v1/payments/charges";

const NO_ERROR: &str = r#"Bearer realm="martis""#;
const INVALID_REQUEST: &str = r#"Bearer realm="martis", error="invalid_request""#;
const INVALID_TOKEN: &str = r#"Bearer realm="martis", error="invalid_token""#;

/// A request, and the row of the table that it meets.
#[derive(Clone)]
struct Case {
    what: &'static str,
    request: Request,
    status: u16,
    code: &'static str,
    challenge: Option<&'static str>,
    retry_after: bool,
    /// The `client_address` of the body, where it has one.
    client: Option<Value>,
}

impl Case {
    fn new(what: &'static str, request: Request, status: u16, code: &'static str) -> Self {
        Self { what, request, status, code, challenge: None, retry_after: false, client: None }
    }

    fn challenging(self, challenge: &'static str) -> Self {
        Self { challenge: Some(challenge), ..self }
    }

    /// Fails unless a reply is the one of the row, over HTTP/1.1 and HTTP/2, with a body and, for HEAD, without.
    async fn check(&self, gateway: SocketAddr) {
        self.check_problem(&self.over_http1(gateway, &self.request).await, true);
        self.check_problem(&self.over_http2(gateway, &self.request).await, true);
        if self.request.method == "GET" {
            let head = Request { method: "HEAD", ..self.request.clone() };
            self.check_problem(&self.over_http1(gateway, &head).await, false);
            self.check_problem(&self.over_http2(gateway, &head).await, false);
        }
    }

    /// The same for callers of gRPC.
    async fn check_grpc(&self, gateway: SocketAddr) {
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
            let call = self.request.clone().field("content-type", kind);
            self.check_trailers_only(&self.over_http2(gateway, &call).await);
        }
        let call = self.request.clone().field("content-type", "application/grpc");
        self.check_trailers_only(&self.over_http1(gateway, &call).await);
        let web = self.request.clone().field("content-type", "application/grpc-web");
        self.check_problem(&self.over_http2(gateway, &web).await, true);
    }

    async fn over_http1(&self, gateway: SocketAddr, request: &Request) -> Reply {
        Http1::connect(gateway).await.ask(request).await
    }

    async fn over_http2(&self, gateway: SocketAddr, request: &Request) -> Reply {
        Http2::connect(gateway).await.ask(request).await
    }

    #[track_caller]
    fn check_problem(&self, reply: &Reply, with_body: bool) {
        let what = self.what;
        assert_eq!(reply.status, self.status, "{what}: {reply:?}");
        assert_eq!(reply.field("content-type"), Some("application/problem+json"), "{what}");
        assert_eq!(reply.field("cache-control"), Some("no-store"), "{what}");
        assert_eq!(reply.field("www-authenticate"), self.challenge, "{what}");
        assert_eq!(reply.field("retry-after").is_some_and(|after| after.parse::<u32>().unwrap() > 0), self.retry_after, "{what}");
        assert!(reply.trailers.names().is_empty(), "{what}");
        self.check_common(reply);
        if with_body {
            self.check_body(reply);
        } else {
            assert_eq!(reply.text(), "", "{what}");
            assert_ne!(reply.field("content-length"), Some("0"), "{what}: a GET has a body");
        }
    }

    #[track_caller]
    fn check_body(&self, reply: &Reply) {
        let problem = reply.json();
        let mut expected = vec!["code", "detail", "request_id", "status", "title", "type"];
        expected.extend(self.client.is_some().then_some("client_address"));
        expected.sort_unstable();
        let mut members: Vec<&str> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, expected, "{}", self.what);
        assert_eq!((&problem["status"], &problem["code"]), (&self.status.into(), &self.code.into()), "{}", self.what);
        assert_eq!(problem["request_id"], reply.field("x-request-id").unwrap(), "{}", self.what);
        assert_eq!(problem.get("client_address"), self.client.as_ref(), "{}", self.what);
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{}: {problem}", self.what);
        }
    }

    #[track_caller]
    fn check_trailers_only(&self, reply: &Reply) {
        let what = self.what;
        assert_eq!((reply.status, reply.text()), (200, ""), "{what}");
        assert_eq!(reply.field("content-type"), Some("application/grpc"), "{what}");
        assert_eq!(reply.field("grpc-status"), Some(grpc_status(self.status)), "{what}");
        let message = reply.field("grpc-message").unwrap();
        assert!(!message.is_empty() && message.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{what}: {message}");
        assert!(reply.trailers.names().is_empty(), "{what}");
        self.check_common(reply);
    }

    #[track_caller]
    fn check_common(&self, reply: &Reply) {
        assert_eq!(reply.field("x-martis-error-source"), Some("gateway"), "{}", self.what);
        let id = reply.field("x-request-id").unwrap();
        let made = id.strip_prefix("req_").is_some_and(|id| id.len() == 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert!(made, "{}: {id}", self.what);
    }
}

/// As section 3 maps them.
fn grpc_status(status: u16) -> &'static str {
    match status {
        400 => "3",
        401 => "16",
        403 => "7",
        405 | 421 => "12",
        413 | 414 | 429 | 431 => "8",
        502 | 503 => "14",
        504 => "4",
        other => panic!("no refusal has the status {other}"),
    }
}

/// A running gateway, and a key for each row that looks at one.
struct World {
    gateway: TestGateway,
    upstream: TestUpstream,
    /// Its secret has the prefix of production, and still it is one of the sandbox.
    misplaced: TestKey,
    revoked: TestKey,
    expired: TestKey,
    paused: TestKey,
    elsewhere: TestKey,
    suspended: TestKey,
    reader: TestKey,
}

impl World {
    async fn new() -> Self {
        let upstream = TestUpstream::echo().await;
        let clock = TestClock::at(Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap());
        let prepared = Setup::before(upstream.address).clock(clock.clock()).open().await;
        let keys = &prepared.keys;
        let [revoked, paused] = [keys.make(a_key()).await, keys.make(a_key()).await];
        keys.revoke(&revoked).await;
        keys.pause(&paused).await;
        let expired = keys.make(NewKey { expires_at: Some("2026-11-22T13:00:00Z".to_owned()), ..a_key() }).await;
        let elsewhere = keys.make(a_key_for(&["203.0.113.7"])).await;
        keys.account("late payer").await;
        let suspended = keys.make(NewKey { account: "late payer".to_owned(), ..a_key() }).await;
        keys.keyring.suspend_account(&keys.actor, "late payer").await.unwrap();
        let reader = keys.make(a_key_with(&["payments.charges:read"])).await;
        let misplaced = keys.import(&format!("sk_live_{}", "m".repeat(38)), "sandbox").await;
        clock.pass(Duration::from_secs(3_600));
        let gateway = prepared.start().await;
        Self { gateway, upstream, misplaced, revoked, expired, paused, elsewhere, suspended, reader }
    }

    /// Rows 2 to 11.
    fn cases(&self) -> Vec<Case> {
        let [live, test] = [&self.gateway.live, &self.gateway.test];
        let get = || Request::get("/v1/things");
        let unknown = format!("sk_live_{}", "u".repeat(38));
        let short = &live.secret[..live.secret.len() - 1];
        let scope = r#"Bearer realm="martis", error="insufficient_scope", scope="payments.charges:write""#;
        let no_scope = r#"Bearer realm="martis", error="insufficient_scope""#;
        let missing = |what, request: Request| Case::new(what, request, 401, "missing_api_key").challenging(NO_ERROR);
        let invalid = |what, secret: &str| Case::new(what, get().secret(secret), 401, "invalid_api_key").challenging(INVALID_TOKEN);
        let twice = |what, request| Case::new(what, request, 400, "invalid_request").challenging(INVALID_REQUEST);
        let mismatch = |what, request| Case::new(what, request, 401, "environment_mismatch").challenging(INVALID_TOKEN);
        let state = |what, key, code| Case::new(what, get().with(key), 401, code).challenging(INVALID_TOKEN);
        let lacking = |what, request, challenge| Case::new(what, request, 403, "insufficient_permissions").challenging(challenge);
        vec![
            Case::new("TRACE", Request::new("TRACE", "/v1/things").with(live), 405, "method_not_allowed"),
            Case::new("an unknown host", get().to("elsewhere.test").with(live), 421, "unknown_host"),
            Case::new("a host that ends as a known one does", get().to(&format!("x{PRODUCTION}")).with(live), 421, "unknown_host"),
            twice("two credentials", get().with(live).with(live)),
            twice("two kinds of credentials", get().with(live).field("authorization", "Basic c2s6")),
            twice("two values in one", get().secret(&format!("{}, Bearer {}", live.secret, test.secret))),
            missing("no credential", get()),
            missing("another scheme", get().field("authorization", "Basic c2s6")),
            missing("no scheme", get().field("authorization", &live.secret)),
            missing("nothing behind the scheme", get().field("authorization", "Bearer")),
            missing("a key in the query", Request::get(&format!("/v1/things?key={}", live.secret))),
            missing("a key in a cookie", get().field("cookie", &format!("key={}", live.secret))),
            missing("a key in another field", get().field("x-api-key", &live.secret)),
            missing("OPTIONS", Request::new("OPTIONS", "/v1/things")),
            missing("a path of health", Request::get("/healthz")),
            missing("a well-known path", Request::get("/.well-known/security.txt")),
            mismatch("a sandbox key in production", get().with(test)),
            mismatch("a production key in the sandbox", get().to(SANDBOX).with(live)),
            mismatch("an unknown key of the other environment", get().to(SANDBOX).secret(&unknown)),
            mismatch("a key that was imported for the other environment", get().with(&self.misplaced)),
            invalid("an unknown key", &unknown),
            invalid("a key without its last character", short),
            invalid("a key with one character more", &format!("{}x", live.secret)),
            invalid("a key in upper case", &live.secret.to_ascii_uppercase()),
            invalid("a prefix alone", "sk_live_"),
            invalid("something else", "hunter2"),
            invalid("a key of another kind", &format!("sk_prod_{}", "u".repeat(38))),
            invalid("something of many words", "a b c"),
            invalid("far too much", &format!("sk_live_{}", "u".repeat(4_000))),
            state("a revoked key", &self.revoked, "revoked_api_key"),
            state("an expired key", &self.expired, "expired_api_key"),
            state("a paused key", &self.paused, "paused_api_key"),
            Case {
                client: Some("127.0.0.1".into()),
                ..Case::new("a key for other addresses", get().with(&self.elsewhere), 403, "ip_not_allowed")
            },
            Case::new("a key of a suspended account", get().with(&self.suspended), 403, "account_suspended"),
            lacking("a route for another permission", Request::post(CHARGES, "{}").with(&self.reader), scope),
            lacking("a route that no permission names", get().with(&self.reader), no_scope),
        ]
    }
}

/// Row 1, where a client library can send it; the rest is in `framing`.
fn misframed(live: &TestKey) -> Vec<Case> {
    let get = |path: &str| Request::get(path).with(live);
    let many = (0..120).fold(get("/"), |request, number| request.field(&format!("x-{number}"), "v"));
    vec![
        Case::new("an ambiguous path", get("/v1/../admin"), 400, "bad_request"),
        Case::new(
            "a body declared too long",
            Request::new("POST", "/").with(live).field("content-length", "10485761"),
            413,
            "body_too_large",
        ),
        Case::new("a target too long", get(&format!("/{}", "a".repeat(8 * 1024))), 414, "uri_too_long"),
        Case::new("a field too long", get("/").field("x-long", &"v".repeat(33 * 1024)), 431, "headers_too_large"),
        Case::new("too many fields", many, 431, "headers_too_large"),
    ]
}

#[tokio::test]
async fn every_row_is_told_over_http1_and_http2() {
    let world = World::new().await;
    for case in misframed(&world.gateway.live).iter().chain(&world.cases()) {
        case.check(world.gateway.address).await;
    }
    assert_eq!(world.upstream.connections(), 0, "a refused request reaches nobody");
}

#[tokio::test]
async fn every_row_is_told_to_callers_of_grpc() {
    let world = World::new().await;
    let ambiguous = misframed(&world.gateway.live).swap_remove(0);
    for case in world.cases().iter().chain([&ambiguous]) {
        case.check_grpc(world.gateway.address).await;
    }
    assert_eq!(world.upstream.connections(), 0);
}

#[tokio::test]
async fn the_detail_of_a_refusal_is_the_message_of_the_one_to_grpc() {
    let world = World::new().await;
    let request = Request::post(CHARGES, "{}").with(&world.reader);
    let problem = world.gateway.ask(&request).await.json();
    let call = Http2::connect(world.gateway.address).await.ask(&request.of_grpc()).await;
    assert_eq!(call.field("grpc-message"), problem["detail"].as_str());
    assert!(problem["detail"].as_str().unwrap().contains("payments.charges:write"));
}

#[tokio::test]
async fn connect_is_served_only_for_websockets() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let authority = format!("{PRODUCTION}:443");
    let tunnel = Request::new("CONNECT", &authority).to(&authority).with(&gateway.live);
    let case = Case::new("CONNECT", tunnel.clone(), 405, "method_not_allowed");
    case.check(gateway.address).await;

    let mut client = Http2::connect(gateway.address).await;
    client.takes_extended_connect().await;
    for protocol in ["connect-udp", "connect-tcp", "webtransport", "websocket2"] {
        let mut head = crate::support::http2::head(&Request { method: "GET", ..tunnel.clone() }.with_path("/v1/stream"));
        *head.method_mut() = hyper::Method::CONNECT;
        head.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        let (reply, _stream) = client.open(head, false).await.unwrap();
        assert_eq!(reply.await.unwrap().status(), 405, "{protocol}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn the_first_row_that_a_request_meets_refuses_it() {
    let world = World::new().await;
    let keys = &world.gateway.keys;
    let all_wrong = NewKey {
        account: "late payer".to_owned(),
        permissions: Some(vec!["payments.charges:read".to_owned()]),
        ..a_key_for(&["203.0.113.7"])
    };
    let (unlucky, _) = keys.make_confirmed(all_wrong).await;
    keys.pause(&unlucky).await;

    let ask = async |request: &Request| world.gateway.ask(request).await.code().unwrap();
    let mut request = Request::new("TRACE", "/v1//things").to("elsewhere.test").with(&world.gateway.test).with(&world.gateway.test);
    assert_eq!(ask(&request).await, "bad_request");
    request.path = CHARGES.to_owned();
    assert_eq!(ask(&request).await, "method_not_allowed");
    request.method = "POST";
    assert_eq!(ask(&request).await, "unknown_host");
    request.host = PRODUCTION.to_owned();
    assert_eq!(ask(&request).await, "invalid_request");
    request.fields.clear();
    assert_eq!(ask(&request).await, "missing_api_key");
    assert_eq!(ask(&request.clone().with(&world.gateway.test)).await, "environment_mismatch");
    assert_eq!(ask(&request.clone().secret("sk_live_x")).await, "invalid_api_key");

    let request = request.with(&unlucky);
    assert_eq!(ask(&request).await, "paused_api_key");
    keys.resume(&unlucky).await;
    assert_eq!(ask(&request).await, "ip_not_allowed");
    keys.restrict(&unlucky, &["127.0.0.1"]).await;
    assert_eq!(ask(&request).await, "account_suspended");
    keys.keyring.resume_account(&keys.actor, "late payer").await.unwrap();
    assert_eq!(ask(&request).await, "insufficient_permissions");
    keys.restrict(&unlucky, &["203.0.113.7"]).await;
    assert_eq!(ask(&request).await, "ip_not_allowed");
    keys.revoke(&unlucky).await;
    assert_eq!(ask(&request).await, "revoked_api_key");
}

#[tokio::test]
async fn malformed_and_unknown_secrets_get_the_same_bytes() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let well_formed = format!("sk_live_{}", "u".repeat(38));
    let secrets: [&[u8]; 8] =
        [well_formed.as_bytes(), b"sk_live_", b"x", b"sk_live_ sk_live_", b"sk_prod_1", b"SK_LIVE_1", &[b'y'; 2_000], b"sk_live_\xff\xfe"];
    let mut replies = Vec::new();
    for secret in secrets {
        let mut client = Http1::connect(gateway.address).await;
        let head = format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nconnection: close\r\nx-request-id: r\r\nauthorization: Bearer ");
        client.send([head.as_bytes(), secret, b"\r\n\r\n"].concat()).await;
        replies.push(without_date(&client.until_end().await));
    }
    for reply in &replies {
        assert_eq!(reply, &replies[0]);
    }
    assert!(replies[0].contains("invalid_api_key"));
}

/// The server library writes the time into every reply.
fn without_date(reply: &[u8]) -> String {
    let text = String::from_utf8(reply.to_vec()).unwrap();
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[tokio::test]
async fn a_key_is_found_whatever_stands_around_it() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let secret = &gateway.live.secret;
    for value in [format!("Bearer {secret}"), format!("bearer {secret}"), format!("BEARER   {secret}"), format!("Bearer \t {secret} \t")] {
        gateway.ask(&Request::get("/").field("authorization", &value)).await.passed();
    }
    for value in [format!("Bearer\t{secret}"), format!("Bearer{secret}")] {
        gateway.ask(&Request::get("/").field("authorization", &value)).await.refused("missing_api_key");
    }
}

#[tokio::test]
async fn hosts_are_known_without_regard_to_case_port_and_trailing_dot() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    for host in [PRODUCTION, "API.Martis.Test", "api.martis.test:443", "api.martis.test.", "api.martis.test.:8080"] {
        gateway.ask(&Request::get("/").to(host).with(&gateway.live)).await.passed();
        Http2::connect(gateway.address).await.ask(&Request::get("/").to(host).with(&gateway.live)).await.passed();
    }
    gateway.ask(&Request::get("/").to(SANDBOX).with(&gateway.test)).await.passed();
}

#[tokio::test]
async fn a_star_stands_for_every_other_host() {
    let upstream = TestUpstream::echo().await;
    let all = "[[environments]]\nname = \"sandbox\"\nhosts = [\"*\"]\nupstream = \"core\"\n";
    let gateway = Setup::before(upstream.address).sandbox_as(all).start().await;
    gateway.ask(&Request::get("/").to("anything.example").with(&gateway.test)).await.passed();
    gateway.ask(&Request::get("/").to("[::1]:8080").with(&gateway.test)).await.passed();
    gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
    gateway.ask(&Request::get("/").with(&gateway.test)).await.refused("environment_mismatch");
}

#[tokio::test]
async fn the_most_specific_route_says_which_permission_is_needed() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let reader = gateway.keys.make(a_key_with(&["payments.charges:read"])).await;
    let both = gateway.keys.make(a_key_with(&["payments.charges:read", "payments.charges:write"])).await;
    let [one, refund] = [format!("{CHARGES}/ch_1"), format!("{CHARGES}/ch_1/refunds/2")];
    let cases = [
        (&reader, "GET", CHARGES, true),
        (&reader, "HEAD", CHARGES, true),
        (&reader, "GET", &one, true),
        (&reader, "GET", "/api/v1/pa%79ments/charges", true),
        (&reader, "GET", "/api/v1/payments/charges?expand=customer", true),
        (&reader, "GET", "/api/v1/payments/charges/", false),
        (&reader, "GET", &refund, false),
        (&reader, "POST", CHARGES, false),
        (&reader, "DELETE", &one, false),
        (&both, "POST", CHARGES, true),
        (&both, "POST", &refund, true),
        (&both, "POST", &one, false),
        (&gateway.live, "DELETE", &one, true),
    ];
    for (key, method, path, passes) in cases {
        let reply = gateway.ask(&Request::new(method, path).with(key)).await;
        assert_eq!(reply.status, if passes { 200 } else { 403 }, "{method} {path}");
    }
}

#[tokio::test]
async fn without_an_index_nothing_passes_and_what_needs_none_is_still_told() {
    let upstream = TestUpstream::echo().await;
    let prepared = Setup::before(upstream.address).store("blocked/martis.db").open().await;
    std::fs::write(prepared.path("blocked"), "a file where a folder should be").unwrap();
    let gateway = prepared.start_unready().await;
    let get = || Request::get("/v1/things");
    let cases = [
        Case::new("a good key", get().with(&gateway.live), 503, "gateway_not_ready"),
        Case::new("an unknown key", get().secret("sk_live_x"), 503, "gateway_not_ready"),
        Case::new("something else", get().secret("hunter2"), 503, "gateway_not_ready"),
    ];
    for case in cases.map(|case| Case { retry_after: true, ..case }) {
        case.check(gateway.address).await;
        case.check_grpc(gateway.address).await;
    }
    let cases = [
        Case::new("a missing key", get(), 401, "missing_api_key").challenging(NO_ERROR),
        Case::new("the wrong prefix", get().with(&gateway.test), 401, "environment_mismatch").challenging(INVALID_TOKEN),
        Case::new("an unknown host", get().to("elsewhere.test"), 421, "unknown_host"),
    ];
    for case in cases {
        case.check(gateway.address).await;
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn trouble_behind_the_gateway_is_told_apart() {
    /// Checks the row of a request that passes and comes to nothing.
    async fn check(setup: Setup, status: u16, code: &'static str) {
        let gateway = setup.start().await;
        let case = Case::new(code, Request::get("/v1/things").with(&gateway.live), status, code);
        case.check(gateway.address).await;
        case.check_grpc(gateway.address).await;
    }
    // Nobody listens on this port.
    check(Setup::before("127.0.0.1:1".parse().unwrap()), 502, "upstream_unreachable").await;

    let broken = TestUpstream::answering("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    check(Setup::before(broken.address), 502, "upstream_broken").await;

    let closing = TestUpstream::start(|_| async { After::Close }).await;
    check(Setup::before(closing.address), 502, "upstream_broken").await;

    let silent = TestUpstream::silent().await;
    check(Setup::before(silent.address).limit("upstream_first_byte_timeout", "20ms"), 504, "upstream_timeout").await;
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_to_the_next_request() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.ask(&Request::get("/")).await.refused("missing_api_key");
    // Its body is unread when it is refused, and must not be taken for the next request.
    let body = format!("GET /smuggled HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {}\r\n\r\n", gateway.live.secret);
    client.ask(&Request::post("/", body).secret("sk_live_x")).await.refused("invalid_api_key");
    client.ask(&Request::get("/good").with(&gateway.live)).await.passed();
    assert_eq!(upstream.request().target(), "/good");
}

#[tokio::test]
async fn a_refusal_of_a_long_body_ends_the_connection_and_is_still_read() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    let mut request = encode(&Request::new("POST", "/").field("content-length", "1000000"));
    request.extend_from_slice(&[b'x'; 200_000]);
    client.send(request).await;
    client.reply().await.refused("missing_api_key");
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_request_id_of_the_client_is_told_back_if_it_is_harmless() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let ask = async |id: &str| {
        let reply = gateway.ask(&Request::get("/").field("x-request-id", id)).await;
        assert_eq!(reply.json()["request_id"].as_str(), reply.field("x-request-id"));
        reply.field("x-request-id").unwrap().to_owned()
    };
    for id in ["a", "trace.1_2-3", &"x".repeat(128)] {
        assert_eq!(ask(id).await, id);
    }
    for id in ["", "a b", "a\"b", "a<b", &"x".repeat(129)] {
        assert!(ask(id).await.starts_with("req_"), "{id}");
    }
}
