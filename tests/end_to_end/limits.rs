//! Bounds on what clients may take in time and number. Those on sizes are in `framing`.

use std::time::Duration;

use crate::support::gateway::{PRODUCTION, Setup};
use crate::support::http1::{Http1, encode};
use crate::support::http2::{self, Frames, Http2};
use crate::support::message::Request;
use crate::support::upstream::TestUpstream;
use crate::support::wait::{eventually, eventually_asked, within};

#[tokio::test]
async fn a_head_is_not_waited_for_longer_than_it_may_take_however_it_drips() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).limit("head_timeout", "150ms").start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send("GET / HTTP/1.1\r\n").await;
    // Each byte comes soon, the head never.
    let dripping = async {
        while client.try_send("x-a: 1\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(dripping).await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_second_head_has_its_own_time() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).limit("head_timeout", "400ms").start().await;
    let mut client = Http1::connect(gateway.address).await;
    let request = encode(&Request::get("/").with(&gateway.live));
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(800) {
        let (first, second) = request.split_at(20);
        client.send(first).await;
        tokio::task::yield_now().await;
        client.send(second).await;
        client.reply().await.passed();
    }
    client.send("GET /unfinished HTTP/1.1\r\n").await;
    assert!(client.until_end().await.is_empty());
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let (upstream, permits) = TestUpstream::held_back().await;
    let gateway = Setup::before(upstream.address).limit("idle_timeout", "300ms").limit("head_timeout", "300ms").start().await;
    let mut busy = Http1::connect(gateway.address).await;
    busy.send(encode(&Request::get("/").with(&gateway.live))).await;
    let mut busy_http2 = Http2::connect(gateway.address).await;
    let (reply, _) = busy_http2.open(http2::head(&Request::get("/").with(&gateway.live)), true).await.unwrap();

    let mut idle = Http1::connect(gateway.address).await;
    idle.ask(&Request::get("/")).await.refused("missing_api_key");
    assert!(idle.ends().await);
    assert!(Http1::connect(gateway.address).await.ends().await, "one that never said anything is idle, too");
    let mut idle_http2 = Http2::connect(gateway.address).await;
    idle_http2.ask(&Request::get("/")).await.refused("missing_api_key");
    within(idle_http2.connection).await.unwrap().unwrap();

    // Those were idle as long as these are busy.
    permits.add_permits(2);
    assert_eq!(busy.reply().await.passed().text(), "late");
    assert_eq!(http2::whole(within(reply).await.unwrap()).await.unwrap().passed().text(), "late");
}

#[tokio::test]
async fn connections_of_one_source_are_bounded_and_those_of_trusted_proxies_are_not() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).limit("connections_per_source", "2").start().await;
    let request = Request::get("/").with(&gateway.live);
    let (mut first, mut second) = (Http1::connect(gateway.address).await, Http1::connect(gateway.address).await);
    first.ask(&request).await.passed();
    second.ask(&request).await.passed();
    assert!(Http1::connect(gateway.address).await.ends().await);
    first.ask(&request).await.passed();
    drop(second);
    eventually_asked("room for another", || async {
        let mut another = Http1::connect(gateway.address).await;
        another.try_send(encode(&request)).await.ok()?;
        another.until_end_or_reply().await.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;

    let gateway = Setup::before(upstream.address).limit("connections_per_source", "2").trusting("127.0.0.1").start().await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut client = Http1::connect(gateway.address).await;
        client.ask(&Request::get("/").with(&gateway.live)).await.passed();
        open.push(client);
    }
}

#[tokio::test]
async fn a_connection_too_many_waits_for_one_to_end() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).limit("connections", "2").start().await;
    let request = Request::get("/").with(&gateway.live);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = Http1::connect(gateway.address).await;
        client.ask(&request).await.passed();
        open.push(client);
    }
    let mut third = Http1::connect(gateway.address).await;
    third.send(encode(&request)).await;
    open.pop();
    third.reply().await.passed();
}

#[tokio::test]
async fn streams_of_one_connection_are_bounded() {
    let upstream = TestUpstream::silent().await;
    let gateway = Setup::before(upstream.address).limit("http2_streams", "3").start().await;
    let credential = format!("Bearer {}", gateway.live.secret);
    let head: [(&[u8], &[u8]); 5] = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", PRODUCTION.as_bytes()),
        (b":path", b"/"),
        (b"authorization", credential.as_bytes()),
    ];
    let mut client = Frames::connect(gateway.address).await;
    for stream in [1, 3, 5, 7] {
        client.send(&http2::Frame::headers(stream, http2::Frame::END_STREAM, &head)).await;
    }
    let refused = client.next_of(&[http2::Frame::RST_STREAM, http2::Frame::GOAWAY]).await.unwrap();
    assert_eq!((refused.kind, refused.stream), (http2::Frame::RST_STREAM, 7));
    eventually("the other requests", || (upstream.requests().len() == 3).then_some(())).await;
}
