//! What the upstream sees of a request, and the client of its reply: section 4 of the contract.

use bytes::Bytes;
use hyper::http;

use crate::support::gateway::{PRODUCTION, Setup, TestGateway};
use crate::support::http1::{Http1, encode};
use crate::support::http2::{Http2, Http2Upstream, fields, head, whole};
use crate::support::keys::a_key_with;
use crate::support::message::{Fields, Reply, Request};
use crate::support::upstream::{After, Received, TestUpstream};

/// What the gateway itself puts into a request without a body.
const OURS: [&str; 10] = [
    "host",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-martis-account",
    "x-martis-environment",
    "x-martis-key-id",
    "x-martis-permissions",
    "x-request-id",
];

/// What arrives of a request with these fields.
async fn arrives(fields: &[(&str, &str)]) -> Received {
    arrives_at(|setup| setup, fields).await.1
}

async fn arrives_at(change: impl FnOnce(Setup) -> Setup, fields: &[(&str, &str)]) -> (TestGateway, Received) {
    let upstream = TestUpstream::echo().await;
    let gateway = change(Setup::before(upstream.address)).start().await;
    let request = fields.iter().fold(Request::get("/v1/things").with(&gateway.live), |request, (name, value)| request.field(name, value));
    gateway.ask(&request).await.passed();
    (gateway, upstream.request())
}

#[tokio::test]
async fn the_upstream_is_told_whose_request_it_is() {
    let (gateway, received) = arrives_at(|setup| setup, &[]).await;
    assert_eq!(received.head.start, ["GET", "/v1/things", "HTTP/1.1"]);
    assert_eq!(received.head.fields.names(), OURS);
    let expected = [
        ("host", PRODUCTION),
        ("via", "1.1 martis-gateway"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", PRODUCTION),
        ("x-forwarded-proto", "http"),
        ("x-martis-account", &gateway.live.account.to_string()),
        ("x-martis-environment", "production"),
        ("x-martis-key-id", &gateway.live.id.to_string()),
        ("x-martis-permissions", "full"),
    ];
    for (name, value) in expected {
        assert_eq!(received.field(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn permissions_are_told_sorted_and_separated_by_one_space() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let key = gateway.keys.make(a_key_with(&["payments.charges:write", "payments.charges:read"])).await;
    gateway.ask(&Request::get("/api/v1/payments/charges").with(&key)).await.passed();
    assert_eq!(upstream.request().field("x-martis-permissions"), Some("payments.charges:read payments.charges:write"));
}

#[tokio::test]
async fn a_request_over_http2_arrives_as_one_over_http1() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let request = Request::post("/v1/things?a=b", "body").field("accept", "*/*").field("te", "trailers").with(&gateway.live);
    Http2::connect(gateway.address).await.ask(&request).await.passed();
    let received = upstream.request();
    assert_eq!(received.head.start, ["POST", "/v1/things?a=b", "HTTP/1.1"]);
    assert_eq!((received.field("host"), received.field("via")), (Some(PRODUCTION), Some("2 martis-gateway")));
    assert_eq!((received.field("accept"), received.field("te")), (Some("*/*"), None));
    assert_eq!(received.body, b"body");
}

#[tokio::test]
async fn fields_that_concern_one_hop_or_could_pass_for_the_gateways_go_out() {
    let out = [
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x-checksum"),
        ("proxy-authorization", "Basic c2s6"),
        ("proxy-connection", "keep-alive"),
        ("http2-settings", "AAMAAABk"),
        ("x-martis-account", "acct_forged"),
        ("X-Martis-Key-Id", "key_forged"),
        ("x-martis-anything", "forged"),
        ("x-martis-", "forged"),
        ("x_martis_account", "forged"),
        ("x.martis.key~id", "forged"),
        ("x-martis_permissions", "full"),
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x_forwarded_for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/"),
        ("x-real-ip", "192.0.2.1"),
        ("true-client-ip", "192.0.2.1"),
        ("cf-connecting-ip", "192.0.2.1"),
        ("x-client-ip", "192.0.2.1"),
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("via", "1.1 somebody"),
        ("x_request_id", "forged"),
        ("x.request.id", "forged"),
    ];
    let received = arrives(&out).await;
    assert_eq!(received.head.fields.names(), OURS);
    let text = format!("{received:?}");
    for forged in ["forged", "192.0.2.1", "evil.test", "DELETE", "/admin", "somebody"] {
        assert!(!text.contains(forged), "{forged} in {text}");
    }
}

#[tokio::test]
async fn all_other_fields_go_on_as_they_were_sent() {
    let kept = [
        ("accept", "text/html, */*;q=0.1"),
        ("cookie", "a=b; c=d"),
        ("content-type", "application/json"),
        ("idempotency-key", "1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-api-key", "theirs"),
        ("x-custom_field", "1"),
        ("x-forwarded", "1"),
        ("x-martis", "1"),
        ("x-many", "one"),
        ("x-many", "two"),
    ];
    let received = arrives(&kept).await;
    let sent: Vec<_> = received.head.fields.iter().filter(|(name, _)| !OURS.contains(name)).collect();
    assert_eq!(sent.len(), kept.len(), "{received:#?}");
    for (name, _) in kept {
        let expected: Vec<&str> = kept.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value).collect();
        assert_eq!(received.head.fields.all(name), expected, "{name}");
    }
}

#[tokio::test]
async fn bytes_above_ascii_pass_in_values_as_they_are() {
    let upstream = TestUpstream::start(|mut exchange| async move {
        exchange.http.send(b"HTTP/1.1 200 OK\r\nx-reply: \xe9\xff\r\ncontent-length: 0\r\n\r\n").await;
        exchange.go_on()
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut head = encode(&Request::get("/").with(&gateway.live));
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"x-request: \xe9\xff\r\n\r\n");
    let reply = Http1::connect(gateway.address).await.exchange(&head).await.passed();
    assert_eq!((reply.field("x-reply"), upstream.request().field("x-request")), (Some("\u{e9}\u{ff}"), Some("\u{e9}\u{ff}")));
}

#[tokio::test]
async fn what_connection_names_goes_out_and_nothing_of_the_gateways_with_it() {
    let received = arrives(&[
        ("connection", "x-mine, X-Martis-Account, x-forwarded-for , host"),
        ("connection", "x-request-id, via, authorization, x-other"),
        ("x-mine", "1"),
        ("x-other", "2"),
        ("x-kept", "3"),
    ])
    .await;
    let mut expected = [&OURS[..], &["x-kept"]].concat();
    expected.sort_unstable();
    assert_eq!(received.head.fields.names(), expected);
}

#[tokio::test]
async fn connection_cannot_take_away_how_the_body_is_framed() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let request = Request::post("/", "body").field("connection", "content-length, transfer-encoding").with(&gateway.live);
    assert_eq!(gateway.ask(&request).await.passed().text(), "body");
    assert_eq!(upstream.request().body, b"body");
}

#[tokio::test]
async fn path_and_query_go_on_byte_for_byte() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let targets = [
        "/",
        "/?",
        "/a/",
        "/a%2Db/%7e/%41",
        "/a;v=1/b;c",
        "/%E2%82%AC",
        "/a%20b",
        "/a%3Fb%23c",
        "/!$&'()*+,;=:@-._~",
        "/...",
        "/a?b=//../%2F%00%5C",
        "/a?b?c",
        "/a?{}|^`\\[]",
        "/a?%",
        "/a?x=%zz",
    ];
    for target in targets {
        let request = Request::get(target).with(&gateway.live);
        gateway.ask(&request).await.passed();
        assert_eq!(upstream.requests().pop().unwrap().target(), target);
        // The library of the client refuses a few of them before the gateway could.
        if target.parse::<http::Uri>().is_ok() {
            Http2::connect(gateway.address).await.ask(&request).await.passed();
            assert_eq!(upstream.requests().pop().unwrap().target(), target);
        }
    }
}

#[tokio::test]
async fn an_absolute_target_goes_on_as_its_path() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let absolute = format!("http://{PRODUCTION}/v1/things?a=b");
    gateway.ask(&Request::get(&absolute).with(&gateway.live)).await.passed();
    assert_eq!(upstream.request().head.start, ["GET", "/v1/things?a=b", "HTTP/1.1"]);
    assert_eq!(upstream.request().field("host"), Some(PRODUCTION));
}

#[tokio::test]
async fn every_method_but_trace_and_connect_goes_on() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get"] {
        gateway.ask(&Request::new(method, "/").with(&gateway.live)).await.passed();
        assert_eq!(upstream.requests().pop().unwrap().method(), method);
    }
}

#[tokio::test]
async fn the_host_goes_on_as_it_was_sent_unless_the_upstream_has_one() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    for host in ["API.Martis.Test:8443", "api.martis.test."] {
        gateway.ask(&Request::get("/").to(host).with(&gateway.live)).await.passed();
        let received = upstream.requests().pop().unwrap();
        assert_eq!((received.field("host"), received.field("x-forwarded-host")), (Some(host), Some(host)));
    }
    let (_, received) = arrives_at(|setup| setup.upstream("host = \"core.internal\""), &[]).await;
    assert_eq!(received.field("host"), Some("core.internal"));
    assert_eq!(received.field("x-forwarded-host"), Some(PRODUCTION));
}

#[tokio::test]
async fn the_authorization_goes_on_only_where_the_upstream_wants_it() {
    let (gateway, received) = arrives_at(|setup| setup.upstream("forward_authorization = true"), &[]).await;
    assert_eq!(received.field("authorization"), Some(format!("Bearer {}", gateway.live.secret).as_str()));
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_harmless_and_else_made() {
    for id in ["a", "trace.1_2-3", &"x".repeat(128)] {
        assert_eq!(arrives(&[("x-request-id", id)]).await.field("x-request-id"), Some(id));
    }
    for ids in [&[("x-request-id", "a b")][..], &[("x-request-id", "")], &[("x-request-id", "a"), ("x-request-id", "b")]] {
        let received = arrives(ids).await;
        let id = received.field("x-request-id").unwrap().strip_prefix("req_").unwrap();
        assert!(id.len() == 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    }
}

#[tokio::test]
async fn trailers_of_a_request_are_dropped() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    let request = Request::post("/", "").field("transfer-encoding", "chunked").field("trailer", "x-martis-account");
    client.send(encode(&request.with(&gateway.live))).await;
    client.send("4\r\nbody\r\n0\r\nx-martis-account: forged\r\nx-checksum: 1\r\n\r\n").await;
    assert_eq!(client.reply().await.passed().text(), "body");

    let mut client = Http2::connect(gateway.address).await;
    let request = Request::post("/", "").with(&gateway.live);
    let (reply, mut body) = client.open(head(&request), false).await.unwrap();
    body.send_data(Bytes::from_static(b"body"), false).unwrap();
    body.send_trailers(http::HeaderMap::from_iter([(http::header::VIA, http::HeaderValue::from_static("forged"))])).unwrap();
    assert_eq!(reply.await.unwrap().status(), 200);

    for received in upstream.requests() {
        assert_eq!((received.body.as_slice(), received.trailers.names()), (&b"body"[..], vec![]));
    }
    assert!(!upstream.bytes().concat().windows(6).any(|window| window == b"forged"));
}

#[tokio::test]
async fn a_length_goes_on_as_a_length_and_chunks_as_chunks() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    gateway.ask(&Request::post("/", "body").with(&gateway.live)).await.passed();
    let mut client = Http1::connect(gateway.address).await;
    let head = Request::post("/", "").field("transfer-encoding", "chunked").with(&gateway.live);
    client.send([&encode(&head)[..], b"2;x=y\r\nbo\r\n02\r\ndy\r\n0\r\n\r\n"].concat()).await;
    client.reply().await.passed();
    gateway.ask(&Request::post("/", "").field("content-length", "0").with(&gateway.live)).await.passed();

    let framings: Vec<_> = upstream
        .requests()
        .iter()
        .map(|received| (received.field("content-length").map(str::to_owned), received.field("transfer-encoding").map(str::to_owned)))
        .collect();
    let [length, chunks, none] = framings.try_into().unwrap();
    assert_eq!(length, (Some("4".to_owned()), None));
    assert_eq!(chunks, (None, Some("chunked".to_owned())));
    assert_eq!(none, (Some("0".to_owned()), None));
    assert_eq!(upstream.requests()[1].body, b"body");
}

#[tokio::test]
async fn an_expectation_is_met_by_the_gateway_once_the_request_may_pass() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let expecting = |request: Request| encode(&request.field("expect", "100-continue").field("content-length", "4"));

    let mut client = Http1::connect(gateway.address).await;
    client.send(expecting(Request::post("/", "").secret("sk_live_x"))).await;
    let (refusal, interim) = client.reply_head_to("POST").await;
    assert_eq!((refusal.start[1].as_str(), interim.len()), ("401", 0));
    client.rest().await.unwrap();
    // The client was never told to send its body, so the gateway cannot know what its next bytes are.
    assert!(client.ends().await);

    let mut client = Http1::connect(gateway.address).await;
    client.send(expecting(Request::post("/", "").with(&gateway.live))).await;
    upstream.has_open(1).await;
    client.send("body").await;
    let reply = client.reply().await.passed();
    assert_eq!(reply.interim.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [100]);
    assert_eq!(reply.text(), "body");
    assert_eq!(upstream.request().field("expect"), None);
}

/// What a client gets of a reply of these bytes.
async fn passes_back(reply: &'static str) -> Reply {
    let upstream = TestUpstream::answering(reply).await;
    let gateway = Setup::before(upstream.address).start().await;
    gateway.ask(&Request::get("/").field("te", "trailers").field("x-request-id", "mine").with(&gateway.live)).await
}

/// The fields of a reply but the time, which the server library adds where it is missing.
fn without_date(reply: &Reply) -> Fields {
    reply.fields.iter().filter(|(name, _)| *name != "date").collect()
}

#[tokio::test]
async fn a_reply_passes_as_it_is_with_a_request_id() {
    let reply = passes_back(
        "HTTP/1.1 418 I'm a teapot\r\nset-cookie: a=b\r\nset-cookie: c=d\r\nserver: core\r\netag: \"1\"\r\ncontent-length: 3\r\n\r\ntea",
    )
    .await;
    assert_eq!((reply.status, reply.text()), (418, "tea"));
    let fields = without_date(&reply);
    assert_eq!(fields.names(), ["content-length", "etag", "server", "set-cookie", "set-cookie", "x-request-id"]);
    assert_eq!(fields.all("set-cookie"), ["a=b", "c=d"]);
    assert_eq!(fields.get("x-request-id"), Some("mine"));
}

#[tokio::test]
async fn a_request_id_of_the_upstream_stays_and_fields_of_one_hop_or_of_ours_do_not() {
    let reply = passes_back(
        "HTTP/1.1 200 OK\r\nx-request-id: theirs\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\n\
         x-martis-error-source: gateway\r\nX-Martis-Account: forged\r\nproxy-connection: keep-alive\r\nupgrade: h2c\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let fields = without_date(&reply);
    assert_eq!(fields.names(), ["content-length", "x-request-id"], "{reply:?}");
    assert_eq!(fields.get("x-request-id"), Some("theirs"));
}

#[tokio::test]
async fn an_upstreams_refusals_are_its_own() {
    let reply = passes_back("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!((reply.status, reply.field("www-authenticate"), reply.field("x-martis-error-source")), (401, Some("Basic"), None));
}

#[tokio::test]
async fn trailers_of_a_reply_pass() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n4\r\nbody\r\n0\r\nx-checksum: 7\r\n\r\n";
    let reply = passes_back(chunked).await.passed();
    assert_eq!((reply.text(), reply.trailers.get("x-checksum")), ("body", Some("7")));

    let upstream = TestUpstream::answering(chunked).await;
    let gateway = Setup::before(upstream.address).start().await;
    let reply = Http2::connect(gateway.address).await.ask(&Request::get("/").with(&gateway.live)).await.passed();
    assert_eq!((reply.text(), reply.trailers.get("x-checksum")), ("body", Some("7")));
}

#[tokio::test]
async fn interim_replies_pass_before_the_reply() {
    const HINTED: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nx-martis-account: forged\r\n\r\n\
                          HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let reply = passes_back(HINTED).await.passed();
    assert_eq!(reply.text(), "ok");
    let hints: Fields = [("link", "</a.css>; rel=preload")].into_iter().collect();
    assert_eq!(reply.interim, [(103, hints), (102, Fields::default())]);
}

#[tokio::test]
async fn an_upstreams_word_to_go_on_is_for_the_gateway_alone() {
    let reply = passes_back("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.passed();
    assert_eq!((reply.text(), reply.interim.len()), ("ok", 0));
}

#[tokio::test]
async fn an_interim_reply_does_not_wait_for_the_reply() {
    let (hint, told) = (std::sync::Arc::new(tokio::sync::Notify::new()), "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    let go_on = std::sync::Arc::clone(&hint);
    let upstream = TestUpstream::start(move |mut exchange| {
        let go_on = std::sync::Arc::clone(&go_on);
        async move {
            exchange.http.send(told).await;
            go_on.notified().await;
            exchange.answer("200 OK", "", b"ok").await
        }
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&Request::get("/").with(&gateway.live))).await;
    let early = client.bytes_until("\r\n\r\n").await;
    assert!(early.starts_with("HTTP/1.1 103 "), "{early}");
    hint.notify_one();
    assert_eq!(client.reply().await.passed().text(), "ok");
}

#[tokio::test]
async fn replies_without_bodies_have_none() {
    for (status, method) in [("204 No Content", "GET"), ("304 Not Modified", "GET"), ("200 OK", "HEAD")] {
        let upstream = TestUpstream::start(move |exchange| async move {
            let length = if status.starts_with("204") { "" } else { "content-length: 5\r\n" };
            exchange.answer_raw(&format!("HTTP/1.1 {status}\r\n{length}\r\n")).await
        })
        .await;
        let gateway = Setup::before(upstream.address).start().await;
        let mut client = Http1::connect(gateway.address).await;
        for _ in 0..2 {
            let reply = client.ask(&Request::new(method, "/").with(&gateway.live)).await;
            assert_eq!((reply.status.to_string().as_str(), reply.text()), (&status[..3], ""));
            if method == "HEAD" {
                assert_eq!(reply.field("content-length"), Some("5"));
            }
        }
        assert_eq!(upstream.connections(), 1, "the connection is used again behind {status}");
    }
}

#[tokio::test]
async fn a_reply_that_ends_with_its_connection_passes_whole() {
    let upstream = TestUpstream::start(|mut exchange| async move {
        exchange.http.send("HTTP/1.1 200 OK\r\n\r\nall of it").await;
        After::Close
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    assert_eq!(gateway.ask(&Request::get("/").with(&gateway.live)).await.passed().text(), "all of it");
}

#[tokio::test]
async fn http10_is_served_once_and_closed() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    let secret = &gateway.live.secret;
    client
        .send(format!("GET /old HTTP/1.0\r\nhost: {PRODUCTION}\r\nconnection: keep-alive\r\nauthorization: Bearer {secret}\r\n\r\n"))
        .await;
    client.reply().await.passed();
    assert!(client.ends().await);
    assert_eq!(upstream.request().head.start, ["GET", "/old", "HTTP/1.1"]);
}

#[tokio::test]
async fn an_upstream_of_http2_gets_the_same_request() {
    let upstream = Http2Upstream::echo().await;
    let gateway = Setup::before(upstream.address).upstream("protocol = \"http2\"").start().await;
    let request = Request::post("/v1/things?a=b", "body").field("te", "trailers").field("accept", "*/*").with(&gateway.live);
    assert_eq!(gateway.ask(&request).await.passed().text(), "body");
    let received = upstream.request();
    assert_eq!((received.method.as_str(), received.uri.to_string()), ("POST", format!("http://{PRODUCTION}/v1/things?a=b")));
    let fields = fields(&received.headers);
    let mut expected: Vec<&str> = OURS.iter().copied().filter(|name| *name != "host").chain(["accept", "content-length", "te"]).collect();
    expected.sort_unstable();
    assert_eq!(fields.names(), expected);
    assert_eq!(fields.get("te"), Some("trailers"));
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_their_order() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    let one = |number: usize| encode(&Request::post("/", format!("number {number}")).with(&gateway.live));
    client.send((0..20).flat_map(one).collect::<Vec<u8>>()).await;
    for number in 0..20 {
        assert_eq!(client.reply().await.passed().text(), format!("number {number}"));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn many_streams_of_one_connection_are_answered_each_with_its_own() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http2::connect(gateway.address).await;
    let mut replies = Vec::new();
    for number in 0..50 {
        let request = Request::post(&format!("/{number}"), "").with(&gateway.live);
        let (reply, mut body) = client.open(head(&request), false).await.unwrap();
        body.send_data(Bytes::from(number.to_string()), true).unwrap();
        replies.push(reply);
    }
    for (number, reply) in replies.into_iter().enumerate() {
        let reply = whole(reply.await.unwrap()).await.unwrap();
        assert_eq!(reply.passed().text(), number.to_string());
    }
}
