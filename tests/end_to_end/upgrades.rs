//! Connections that become something else: WebSockets over HTTP/1.1 and HTTP/2, and that nothing becomes one too early.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::{RecvStream, SendStream};
use hyper::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};

use crate::support::gateway::{PRODUCTION, Setup, TestGateway};
use crate::support::http1::{Http1, Stream, encode};
use crate::support::http2::{self, Http2};
use crate::support::message::Request;
use crate::support::upstream::{After, Exchange, TestUpstream};
use crate::support::wait::{eventually_asked, within};

/// As RFC 6455 has it in its example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Says 101 to a WebSocket, and hands over the connection.
async fn accept(mut exchange: Exchange) -> WebSocketStream<Box<dyn Stream>> {
    let accept = derive_accept_key(exchange.head.fields.get("sec-websocket-key").unwrap().as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\nx-served-by: core\r\n\r\n"
    );
    exchange.http.send(head).await;
    let (stream, early) = exchange.http.into_parts();
    WebSocketStream::from_partially_read(stream, early, Role::Server, None).await
}

async fn echo(exchange: Exchange) -> After {
    let mut socket = accept(exchange).await;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() || socket.send(message).await.is_err() {
            break;
        }
    }
    let _ = socket.close(None).await;
    After::Close
}

async fn echoing() -> (TestUpstream, TestGateway) {
    let upstream = TestUpstream::start(echo).await;
    let gateway = Setup::before(upstream.address).start().await;
    (upstream, gateway)
}

async fn open(gateway: &TestGateway) -> WebSocketStream<TcpStream> {
    let uri = format!("ws://{PRODUCTION}/v1/stream?a=b").parse().unwrap();
    let request = ClientRequestBuilder::new(uri).with_header("authorization", format!("Bearer {}", gateway.live.secret));
    let stream = within(TcpStream::connect(gateway.address)).await.unwrap();
    let (socket, reply) = within(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.headers()["x-served-by"].to_str().unwrap()), (101, "core"));
    assert!(reply.headers().contains_key("x-request-id"));
    socket
}

/// A request for a WebSocket, as bytes.
fn handshake(gateway: &TestGateway) -> Request {
    let fields = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", KEY)];
    fields.iter().fold(Request::get("/v1/stream").with(&gateway.live), |request, (name, value)| request.field(name, value))
}

async fn converse<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) {
    for message in [Message::text("one"), Message::binary(vec![7; 300_000]), Message::text("")] {
        within(socket.send(message.clone())).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), message);
    }
}

#[tokio::test]
async fn a_websocket_passes_messages_in_both_directions() {
    let (upstream, gateway) = echoing().await;
    let mut socket = open(&gateway).await;
    converse(&mut socket).await;
    within(socket.close(None)).await.unwrap();
    while within(socket.next()).await.is_some_and(|message| message.is_ok()) {}
    upstream.has_open(0).await;

    let received = upstream.request();
    assert_eq!(received.head.start, ["GET", "/v1/stream?a=b", "HTTP/1.1"]);
    let expected =
        [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), ("x-martis-environment", "production")];
    for (name, value) in expected {
        assert_eq!(received.field(name), Some(value), "{name}");
    }
    assert!(received.field("sec-websocket-key").is_some() && received.field("authorization").is_none());
}

#[tokio::test]
async fn an_open_websocket_is_counted_and_told_of_at_its_end() {
    let (_upstream, gateway) = echoing().await;
    let mut socket = open(&gateway).await;
    within(socket.send(Message::text("hello"))).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::text("hello"));
    let streams = async || {
        let page = gateway.page("/metrics").await;
        page.text().lines().find_map(|line| line.strip_prefix("martis_gateway_streams ")).map(str::to_owned)
    };
    assert_eq!(streams().await.as_deref(), Some("1"));
    drop(socket);
    eventually_asked("the end of the stream", || async { (streams().await? == "0").then_some(()) }).await;
    let line = &gateway.log_lines(1).await[0];
    assert_eq!((&line["status"], &line["code"], &line["path"]), (&101.into(), &"forwarded".into(), &"/v1/stream".into()));
    // A frame of five bytes: two of framing, and the client's have four of masking.
    assert!(line["request_bytes"].as_u64() >= Some(11) && line["reply_bytes"].as_u64() >= Some(7), "{line}");
}

/// A stream of HTTP/2 as one of bytes.
fn bytes_of(mut from: RecvStream, mut to: SendStream<Bytes>) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(piece)) = from.data().await {
            let _ = from.flow_control().release_capacity(piece.len());
            if writer.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = reader.read(&mut buffer).await {
            to.reserve_capacity(read);
            let mut left = Bytes::copy_from_slice(&buffer[..read]);
            while !left.is_empty() {
                let Some(Ok(room)) = std::future::poll_fn(|context| to.poll_capacity(context)).await else { return };
                let _ = to.send_data(left.split_to(room.min(left.len())), false);
            }
        }
        let _ = to.send_data(Bytes::new(), true);
    });
    near
}

/// A request for a WebSocket over HTTP/2 (RFC 8441, section 5).
fn extended_connect(gateway: &TestGateway) -> http::Request<()> {
    let mut head = http2::head(&Request::get("/v1/stream?a=b").field("sec-websocket-version", "13").with(&gateway.live));
    *head.method_mut() = http::Method::CONNECT;
    head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    head
}

#[tokio::test]
async fn a_websocket_over_http2_reaches_the_upstream_as_an_upgrade() {
    let (upstream, gateway) = echoing().await;
    let mut client = Http2::connect(gateway.address).await;
    client.takes_extended_connect().await;
    let (reply, to) = client.open(extended_connect(&gateway), false).await.unwrap();
    let reply = within(reply).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.headers()["x-served-by"].to_str().unwrap()), (200, "core"));
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!reply.headers().contains_key(name), "{name}");
    }
    let mut socket = WebSocketStream::from_raw_socket(bytes_of(reply.into_body(), to), Role::Client, None).await;
    converse(&mut socket).await;
    within(socket.close(None)).await.unwrap();
    while within(socket.next()).await.is_some_and(|message| message.is_ok()) {}
    upstream.has_open(0).await;

    let received = upstream.request();
    assert_eq!(received.head.start, ["GET", "/v1/stream?a=b", "HTTP/1.1"]);
    assert_eq!((received.field("connection"), received.field("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!((received.field("host"), received.field("via")), (Some(PRODUCTION), Some("2 martis-gateway")));
    assert_eq!(received.field("sec-websocket-key").map(str::len), Some(24));
}

#[tokio::test]
async fn other_streams_of_the_connection_go_on_beside_a_websocket() {
    let upstream = TestUpstream::start(|exchange| async move {
        if exchange.head.fields.has("upgrade") { echo(exchange).await } else { exchange.answer("200 OK", "", b"ok").await }
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http2::connect(gateway.address).await;
    client.takes_extended_connect().await;
    let (reply, to) = client.open(extended_connect(&gateway), false).await.unwrap();
    let from = within(reply).await.unwrap().into_body();
    client.ask(&Request::get("/").with(&gateway.live)).await.passed();
    let mut socket = WebSocketStream::from_raw_socket(bytes_of(from, to), Role::Client, None).await;
    converse(&mut socket).await;
    client.ask(&Request::get("/").with(&gateway.live)).await.passed();
}

#[tokio::test]
async fn a_client_of_http2_that_resets_its_websocket_ends_it() {
    let (upstream, gateway) = echoing().await;
    let mut client = Http2::connect(gateway.address).await;
    client.takes_extended_connect().await;
    let (reply, mut to) = client.open(extended_connect(&gateway), false).await.unwrap();
    let _from = within(reply).await.unwrap();
    upstream.has_open(1).await;
    to.send_reset(h2::Reason::CANCEL);
    upstream.has_open(0).await;
}

#[tokio::test]
async fn a_key_is_asked_for_before_anything_is_upgraded() {
    let (upstream, gateway) = echoing().await;
    let mut request = handshake(&gateway);
    request.fields.retain(|(name, _)| name != "authorization");
    gateway.ask(&request).await.refused("missing_api_key");

    let mut client = Http2::connect(gateway.address).await;
    client.takes_extended_connect().await;
    let mut head = extended_connect(&gateway);
    head.headers_mut().remove("authorization");
    let (reply, _to) = client.open(head, false).await.unwrap();
    assert_eq!(within(reply).await.unwrap().status(), 401);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_websocket_needs_the_permission_that_a_get_needs() {
    let (upstream, gateway) = echoing().await;
    let key = gateway.keys.make(crate::support::keys::a_key_with(&["payments.charges:read"])).await;
    let mut client = Http2::connect(gateway.address).await;
    client.takes_extended_connect().await;
    for (path, status) in [("/api/v1/payments/charges", 200), ("/v1/stream", 403)] {
        let mut head = http2::head(&Request::get(path).field("sec-websocket-version", "13").with(&key));
        *head.method_mut() = http::Method::CONNECT;
        head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (reply, _to) = client.open(head, false).await.unwrap();
        assert_eq!(within(reply).await.unwrap().status(), status, "{path}");
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn other_upgrades_are_dropped_and_the_request_goes_on_as_a_plain_one() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    for protocol in ["h2c", "TLS/1.2", "irc/6.9", "websocket, h2c", "h2c, websocket"] {
        let fields = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", protocol), ("http2-settings", "AAMAAABkAAQAAP__")];
        let request = fields.iter().fold(Request::get("/").with(&gateway.live), |request, (name, value)| request.field(name, value));
        let mut client = Http1::connect(gateway.address).await;
        client.ask(&request).await.passed();
        client.ask(&Request::get("/next").with(&gateway.live)).await.passed();
    }
    for received in upstream.requests() {
        for name in ["connection", "upgrade", "http2-settings"] {
            assert!(received.field(name).is_none(), "{name}: {received:?}");
        }
    }
    assert_eq!(upstream.requests().len(), 10);
}

#[tokio::test]
async fn a_wish_that_is_not_named_by_connection_or_has_a_body_or_is_of_http10_is_none() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let unnamed = Request::get("/").field("upgrade", "websocket").with(&gateway.live);
    gateway.ask(&unnamed).await.passed();
    let with_body = Request::post("/", "body").field("connection", "upgrade").field("upgrade", "websocket").with(&gateway.live);
    assert_eq!(gateway.ask(&with_body).await.passed().text(), "body");
    let old = String::from_utf8(encode(&handshake(&gateway))).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    Http1::connect(gateway.address).await.exchange(old.as_bytes()).await.passed();
    assert_eq!(upstream.requests().len(), 3);
    assert!(upstream.requests().iter().all(|received| received.field("upgrade").is_none()));
}

#[tokio::test]
async fn an_upstream_can_have_other_upgrades() {
    let upstream = TestUpstream::start(|mut exchange| async move {
        exchange.http.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\n").await;
        let (mut stream, early) = exchange.http.into_parts();
        stream.write_all(&early).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..read]).await.unwrap();
        }
        stream.write_all(b"bye").await.unwrap();
        After::Close
    })
    .await;
    let gateway = Setup::before(upstream.address).upstream("upgrades = [\"echo/1\"]").start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&Request::get("/").field("connection", "upgrade").field("upgrade", "Echo/1").with(&gateway.live))).await;
    let (head, _) = client.reply_head_to("GET").await;
    assert_eq!((head.start[1].as_str(), head.fields.get("connection")), ("101", Some("upgrade")));
    client.send("hello").await;
    assert_eq!(client.bytes_until("hello").await, "hello");
    // One side may end before the other.
    client.finish_sending().await;
    assert_eq!(client.until_end().await, b"bye");
}

#[tokio::test]
async fn bytes_behind_a_request_for_an_upgrade_are_the_next_request_until_it_is_granted() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    let smuggled = encode(&Request::get("/smuggled").secret("sk_live_x"));
    let good = encode(&Request::get("/good").with(&gateway.live));
    client.send([encode(&handshake(&gateway)), smuggled, good].concat()).await;
    client.reply().await.passed();
    client.reply().await.refused("invalid_api_key");
    client.reply().await.passed();
    let targets: Vec<String> = upstream.requests().iter().map(|received| received.target().to_owned()).collect();
    assert_eq!(targets, ["/v1/stream", "/good"]);
}

#[tokio::test]
async fn no_byte_behind_a_request_for_an_upgrade_arrives_before_it_is_granted() {
    let (asked, grant) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (asking, granted) = (Arc::clone(&asked), Arc::clone(&grant));
    let upstream = TestUpstream::start(move |mut exchange| {
        let (asking, granted) = (Arc::clone(&asking), Arc::clone(&granted));
        async move {
            asking.notify_one();
            granted.notified().await;
            let accept = derive_accept_key(KEY.as_bytes());
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
            );
            exchange.http.send(head).await;
            let early = exchange.http.bytes_until("early").await;
            exchange.http.send(format!("{early} and late")).await;
            After::Close
        }
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send([&encode(&handshake(&gateway))[..], b"early"].concat()).await;
    within(asked.notified()).await;
    let before = upstream.bytes().concat();
    assert!(before.ends_with(b"\r\n\r\n"), "{:?}", String::from_utf8_lossy(&before));
    grant.notify_one();
    client.reply_head_to("GET").await;
    assert_eq!(client.until_end().await, b"early and late");
}

#[tokio::test]
async fn an_upstream_that_declines_an_upgrade_is_heard() {
    let upstream = TestUpstream::answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    for _ in 0..2 {
        let reply = client.ask(&handshake(&gateway)).await;
        assert_eq!((reply.status, reply.text()), (403, "no"));
    }
    let mut client = Http2::connect(gateway.address).await;
    client.takes_extended_connect().await;
    let (reply, _to) = client.open(extended_connect(&gateway), false).await.unwrap();
    assert_eq!(within(reply).await.unwrap().status(), 403);
}

#[tokio::test]
async fn over_http2_only_a_proper_handshake_opens_a_tunnel() {
    let replies = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ];
    for reply in replies {
        let upstream = TestUpstream::answering(reply).await;
        let gateway = Setup::before(upstream.address).start().await;
        let mut client = Http2::connect(gateway.address).await;
        client.takes_extended_connect().await;
        let (response, _to) = client.open(extended_connect(&gateway), false).await.unwrap();
        assert_eq!(within(response).await.unwrap().status(), 502, "{reply:?}");
    }
}

#[tokio::test]
async fn an_upstream_of_http2_has_no_upgrades() {
    let upstream = http2::Http2Upstream::echo().await;
    let gateway = Setup::before(upstream.address).upstream("protocol = \"http2\"").start().await;
    gateway.ask(&handshake(&gateway)).await.passed();
    assert!(!upstream.request().headers.contains_key("upgrade"));
    let mut client = Http2::connect(gateway.address).await;
    client.takes_extended_connect().await;
    let (reply, _to) = client.open(extended_connect(&gateway), false).await.unwrap();
    assert_eq!(within(reply).await.unwrap().status(), 405);
}
