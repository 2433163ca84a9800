//! Mistakes on the wire that a close reading found, each as the exchange that shows it.

use std::time::Duration;

use crate::support::gateway::{PRODUCTION, Setup};
use crate::support::http1::{Http1, encode};
use crate::support::http2::{Frame, Frames, Http2};
use crate::support::message::Request;
use crate::support::upstream::TestUpstream;
use crate::support::wait::{eventually, within};

/// The client library takes a GET of unknown length for one without a body.
#[tokio::test]
async fn a_get_keeps_a_body_whose_length_is_not_known() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let head = format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {}\r\n", gateway.live.secret);
    let bytes = format!("{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let reply = Http1::connect(gateway.address).await.exchange(bytes.as_bytes()).await.passed();
    assert_eq!(reply.text(), "hello");
}

/// The length stayed beside a body that was read as chunked.
#[tokio::test]
async fn a_reply_with_two_framings_is_passed_with_the_one_that_it_was_read_by() {
    for length in ["5", "100"] {
        let bytes =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n");
        let upstream = TestUpstream::answering(Box::leak(bytes.into_boxed_str())).await;
        let gateway = Setup::before(upstream.address).start().await;
        let request = Request::get("/").with(&gateway.live);
        let mut client = Http1::connect(gateway.address).await;
        for _ in 0..2 {
            let reply = client.ask(&request).await.passed();
            assert_eq!((reply.text(), reply.field("content-length")), ("hello world", None));
        }
        assert_eq!(upstream.connections(), 2, "a connection with such a reply is not used again");
        let reply = Http2::connect(gateway.address).await.ask(&request).await.passed();
        assert_eq!(reply.text(), "hello world");
    }
}

#[tokio::test]
async fn a_reply_in_a_coding_that_nothing_would_name_is_a_broken_one() {
    let upstream = TestUpstream::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n").await;
    let gateway = Setup::before(upstream.address).start().await;
    gateway.ask(&Request::get("/").with(&gateway.live)).await.refused("upstream_broken");
}

/// hyper asks for nothing behind the trailers, so nobody gave the connection back.
#[tokio::test]
async fn a_connection_is_used_again_after_a_reply_with_trailers() {
    let upstream =
        TestUpstream::answering("HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n")
            .await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    for _ in 0..5 {
        client.ask(&Request::get("/").with(&gateway.live)).await.passed();
    }
    assert_eq!(upstream.connections(), 1);
}

/// RFC 9113, section 8.2.3.
#[tokio::test]
async fn the_cookies_of_an_http2_request_are_one_field_to_an_http1_upstream() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let request = Request::get("/").with(&gateway.live).field("cookie", "a=1").field("cookie", "b=2");
    Http2::connect(gateway.address).await.ask(&request).await.passed();
    assert_eq!(upstream.request().head.fields.all("cookie"), ["a=1; b=2"]);
}

/// Refusals begin and end between two looks at a connection, so it seemed idle all the while.
#[tokio::test]
async fn a_connection_with_requests_on_it_is_not_idle_however_quickly_they_are_refused() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).limit("idle_timeout", "2s").start().await;
    let mut client = Http1::connect(gateway.address).await;
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(3_000) {
        client.ask(&Request::get("/")).await.refused("missing_api_key");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// GOAWAY went out and nobody waited for an answer with a clock in hand.
#[tokio::test]
async fn an_http2_client_that_says_nothing_is_not_kept_for_ever() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).limit("idle_timeout", "200ms").start().await;
    let mut silent = Frames::connect(gateway.address).await;
    // Whatever comes, nothing is answered: the end is the gateway's.
    while within(silent.next_of(&(0..=255).collect::<Vec<u8>>())).await.is_some() {}
}

#[tokio::test]
async fn a_head_that_had_begun_when_draining_began_is_answered() {
    let upstream = TestUpstream::echo().await;
    let mut gateway = Setup::before(upstream.address).limit("drain_timeout", "20s").start().await;
    let bytes = encode(&Request::get("/").with(&gateway.live));
    let (begin, end) = bytes.split_at(20);
    let mut client = Http1::connect(gateway.address).await;
    // A whole request first: then the gateway has surely seen what follows it.
    client.exchange(&bytes).await.passed();
    client.send(begin).await;
    let mut other = Http1::connect(gateway.address).await;
    other.exchange(&bytes).await.passed();
    let drained = gateway.drain();
    eventually("a closed listener", || std::net::TcpStream::connect(gateway.address).err()).await;
    client.exchange(end).await.passed();
    within(drained).await;
}

/// A client's abort was told as a fault of the upstream.
#[tokio::test]
async fn a_client_that_goes_away_in_its_body_is_no_fault_of_the_upstream() {
    let upstream = TestUpstream::silent().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    let head = format!("POST / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {}\r\n", gateway.live.secret);
    client.send(format!("{head}content-length: 100\r\n\r\nabc")).await;
    upstream.has_seen(1).await;
    drop(client);
    let lines = gateway.log_lines(1).await;
    assert_eq!((&lines[0]["status"], &lines[0]["code"]), (&serde_json::Value::Null, &"forwarded".into()));
}

#[tokio::test]
async fn a_refusal_of_a_long_body_says_that_the_connection_ends() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send(format!("POST / HTTP/1.1\r\nhost: {PRODUCTION}\r\ncontent-length: 1000000\r\n\r\n")).await;
    let reply = client.reply().await.refused("missing_api_key");
    assert_eq!(reply.field("connection"), Some("close"));
}

/// A 200 is what opens a tunnel.
#[tokio::test]
async fn a_connect_that_calls_itself_grpc_is_refused_like_any_other() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let bytes = b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\ncontent-type: application/grpc\r\n\r\n";
    let reply = Http1::connect(gateway.address).await.exchange(bytes).await;
    assert_eq!(reply.status, 405);
}

#[tokio::test]
async fn an_http2_path_that_does_not_begin_with_a_slash_is_refused() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut frames = Frames::connect(gateway.address).await;
    let fields: &[(&[u8], &[u8])] =
        &[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", PRODUCTION.as_bytes()), (b":path", b"?x=1")];
    // END_STREAM and END_HEADERS.
    frames.send(&Frame::headers(1, 0x5, fields)).await;
    // HEADERS or RST_STREAM, whoever refuses it.
    assert!(within(frames.next_of(&[1, 3])).await.is_some());
    assert!(upstream.requests().is_empty());
}
