//! Servers that go away, answer nonsense or nothing: what the client is told, and that nothing is sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::gateway::{Setup, TestGateway};
use crate::support::http1::{Http1, encode};
use crate::support::http2::{self, Http2};
use crate::support::message::Request;
use crate::support::upstream::{After, TestUpstream};
use crate::support::wait::{eventually, within};

/// A server that sends these bytes and closes.
async fn breaking(bytes: &'static str) -> (TestUpstream, TestGateway) {
    let upstream = TestUpstream::start(move |mut exchange| async move {
        exchange.http.send(bytes).await;
        After::Close
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    (upstream, gateway)
}

#[tokio::test]
async fn an_upstream_that_is_gone_before_or_in_the_head_of_its_reply_is_broken() {
    let heads = [
        "",
        "H",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
        "HTTP/1.1 two hundred\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\ncontent-length: four\r\n\r\nbody",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "220 mail.example ESMTP\r\n",
    ];
    for head in heads {
        let (upstream, gateway) = breaking(head).await;
        let request = Request::post("/", "body").with(&gateway.live);
        let over_http1 = gateway.ask(&request).await;
        assert_eq!((over_http1.status, over_http1.code().as_deref()), (502, Some("upstream_broken")), "{head:?}");
        let over_http2 = Http2::connect(gateway.address).await.ask(&request).await;
        assert_eq!((over_http2.status, over_http2.code().as_deref()), (502, Some("upstream_broken")), "{head:?}");
        assert_eq!(upstream.requests().len(), 2, "a request that was sent is not sent again: {head:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_gone_in_the_body_breaks_the_reply_off() {
    for reply in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n\r\n",
    ] {
        let (_upstream, gateway) = breaking(reply).await;
        let request = Request::get("/").with(&gateway.live);

        let mut client = Http1::connect(gateway.address).await;
        client.send(encode(&request)).await;
        let (head, _) = client.reply_head_to("GET").await;
        assert_eq!(head.start[1], "200");
        assert!(client.rest().await.is_err(), "half a reply must not look whole: {reply:?}");

        let mut client = Http2::connect(gateway.address).await;
        let (response, _) = client.open(http2::head(&request), true).await.unwrap();
        let response = within(response).await.unwrap();
        assert!(http2::whole(response).await.is_err(), "half a reply must not look whole: {reply:?}");

        let lines = gateway.log_lines(2).await;
        assert!(lines.iter().all(|line| line["code"] == "upstream_broken" && line["status"] == 200), "{lines:#?}");
    }
}

#[tokio::test]
async fn connections_are_used_again_one_request_at_a_time() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    for number in 0..10 {
        let reply = client.ask(&Request::post("/", number.to_string()).with(&gateway.live)).await;
        assert_eq!(reply.passed().text(), number.to_string());
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_upstream_means_to_close_is_not_used_again() {
    let upstream = TestUpstream::start(|exchange| exchange.answer("200 OK", "connection: close\r\n", b"ok")).await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    for _ in 0..5 {
        client.ask(&Request::get("/").with(&gateway.live)).await.passed();
    }
    assert_eq!(upstream.connections(), 5);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_costs_no_request() {
    let upstream = TestUpstream::start(|exchange| async move {
        // Says that it goes on, and does not.
        exchange.answer("200 OK", "", b"ok").await;
        After::Close
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    for _ in 0..50 {
        client.ask(&Request::post("/", "body").with(&gateway.live)).await.passed();
    }
    assert_eq!(upstream.requests().len(), 50, "none was sent twice");
}

#[tokio::test]
async fn a_request_of_which_a_byte_was_sent_is_not_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let upstream = TestUpstream::start(move |exchange| {
        let first = counted.fetch_add(1, Relaxed) == 0;
        async move { if first { exchange.answer("200 OK", "", b"ok").await } else { After::Close } }
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.ask(&Request::get("/first").with(&gateway.live)).await.passed();
    // By the same connection of the upstream, which takes it and closes.
    client.ask(&Request::post("/second", "pay").with(&gateway.live)).await.refused("upstream_broken");
    let targets: Vec<String> = upstream.requests().iter().map(|received| received.target().to_owned()).collect();
    assert_eq!(targets, ["/first", "/second"]);
}

#[tokio::test]
async fn another_server_is_asked_where_one_cannot_be_reached() {
    let upstream = TestUpstream::echo().await;
    let servers = ["http://127.0.0.1:1".to_owned(), format!("http://{}", upstream.address)];
    let gateway = Setup::before(upstream.address).servers(&servers).start().await;
    for _ in 0..10 {
        gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
    }
    assert_eq!(upstream.requests().len(), 10);
}

#[tokio::test]
async fn the_server_with_the_least_to_do_is_asked() {
    let (one, other) = (TestUpstream::silent().await, TestUpstream::silent().await);
    let servers = [&one, &other].map(|upstream| format!("http://{}", upstream.address));
    let gateway = Setup::before(one.address).servers(&servers).start().await;
    // All by one connection, and so by one worker: each knows its own requests alone.
    let mut client = Http2::connect(gateway.address).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let (reply, _) = client.open(http2::head(&Request::get("/").with(&gateway.live)), true).await.unwrap();
        waiting.push(reply);
    }
    let asked = || (one.requests().len(), other.requests().len());
    eventually("all of the requests", || (asked().0 + asked().1 == 20).then_some(())).await;
    assert_eq!(asked(), (10, 10));
}

#[tokio::test]
async fn a_reply_that_does_not_begin_in_time_is_given_up() {
    let upstream = TestUpstream::silent().await;
    let gateway = Setup::before(upstream.address).limit("upstream_first_byte_timeout", "30ms").start().await;
    let reply = gateway.ask(&Request::post("/", "body").with(&gateway.live)).await;
    assert_eq!((reply.status, reply.code().as_deref()), (504, Some("upstream_timeout")));
    let line = &gateway.log_lines(1).await[0];
    assert_eq!((&line["status"], &line["code"], &line["upstream"]), (&504.into(), &"upstream_timeout".into(), &"core".into()));
}

#[tokio::test]
async fn time_for_the_first_byte_does_not_run_while_the_client_is_still_sending() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).limit("upstream_first_byte_timeout", "500ms").start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&Request::post("/", "").field("transfer-encoding", "chunked").with(&gateway.live))).await;
    let began = Instant::now();
    let mut pieces = 0;
    // Twice as long as a reply may take, in pieces of which each comes soon.
    while began.elapsed() < Duration::from_millis(1_000) {
        client.send_chunk(b"piece").await;
        pieces += 1;
        let arrived = || upstream.bytes().concat().windows(5).filter(|window| *window == b"piece").count();
        eventually("the piece", || (arrived() == pieces).then_some(())).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.reply().await.passed().body.len(), pieces * 5);
}

#[tokio::test]
async fn an_upstream_of_http2_that_is_gone_is_found_again() {
    let upstream = http2::Http2Upstream::echo().await;
    let gateway = Setup::before(upstream.address).upstream("protocol = \"http2\"").start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.ask(&Request::post("/", "one").with(&gateway.live)).await.passed();
    let address = upstream.address;
    drop(upstream);
    let broken = client.ask(&Request::get("/").with(&gateway.live)).await;
    assert_eq!(broken.status, 502, "{broken:?}");
    let _again = http2::Http2Upstream::echo_on(address).await;
    client.ask(&Request::post("/", "two").with(&gateway.live)).await.passed();
}

#[tokio::test]
async fn an_upstream_of_http2_that_takes_no_more_requests_on_a_connection_costs_none() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_response(hyper::http::Response::new(()), true).unwrap();
                    // GOAWAY behind the first request.
                    connection.graceful_shutdown();
                }
            });
        }
    });
    let gateway = Setup::before(address).upstream("protocol = \"http2\"").start().await;
    let mut client = Http1::connect(gateway.address).await;
    for _ in 0..20 {
        client.ask(&Request::get("/").with(&gateway.live)).await.passed();
    }
    serving.abort();
}
