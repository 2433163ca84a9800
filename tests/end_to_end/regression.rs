//! Mistakes that were made and found, each as the test that found it or would have. Those that belong to a surface with tests of
//! its own stand there.

use crate::support::gateway::{PRODUCTION, Setup};
use crate::support::http1::{Http1, encode};
use crate::support::http2::{Http2Upstream, fields};
use crate::support::message::Request;
use crate::support::upstream::TestUpstream;

/// One sentence had quotation marks in it, and broke the body that it stood in.
#[tokio::test]
async fn every_sentence_about_a_bad_head_can_stand_in_json() {
    let upstream = TestUpstream::echo().await;
    let setup = Setup::before(upstream.address).limit("head_bytes", "1KiB").limit("head_fields", "5").limit("uri_bytes", "50B");
    let gateway = setup.limit("body_bytes", "10B").start().await;
    let (long, many) = ("v".repeat(2_000), "x: y\r\n".repeat(10));
    let heads = [
        "\r\n\r\nGET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\nhost: a\r\n",
        "GET  / HTTP/1.1\r\n",
        "G\"T / HTTP/1.1\r\n",
        "GET /\u{1} HTTP/1.1\r\n",
        "GET /#a HTTP/1.1\r\n",
        "GET a HTTP/1.1\r\n",
        "GET http: HTTP/1.1\r\n",
        "GET / HTTP/3\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n b\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n",
        "GET / HTTP/1.1\r\nhost: \u{1}\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent_length: 1\r\n",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n",
        "GET / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n",
        &format!("GET /{long} HTTP/1.1\r\nhost: a\r\n"),
        &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n"),
        &format!("GET / HTTP/1.1\r\nhost: a\r\n{many}"),
        "GET /../ HTTP/1.1\r\nhost: a\r\n",
        "GET // HTTP/1.1\r\nhost: a\r\n",
        "GET /%2F HTTP/1.1\r\nhost: a\r\n",
        "GET /%00 HTTP/1.1\r\nhost: a\r\n",
        "GET /% HTTP/1.1\r\nhost: a\r\n",
        "GET /{ HTTP/1.1\r\nhost: a\r\n",
        "GET http://b/ HTTP/1.1\r\nhost: a\r\n",
        "GET / HTTP/1.1\r\nhost: a/b\r\n",
    ];
    let mut sentences = std::collections::BTreeSet::new();
    for head in heads {
        let reply = Http1::connect(gateway.address).await.exchange(format!("{head}\r\n").as_bytes()).await;
        let problem = reply.json();
        assert_eq!(problem["status"], reply.status, "{head:?}");
        sentences.insert(problem["detail"].as_str().unwrap().to_owned());
    }
    assert!(sentences.len() > 25, "too few ways to be wrong were tried: {sentences:#?}");
}

/// Beside the authority of the target stood the Host of the client, and the two differed.
#[tokio::test]
async fn an_upstream_of_http2_is_told_one_host() {
    let upstream = Http2Upstream::echo().await;
    let gateway = Setup::before(upstream.address).upstream("protocol = \"http2\"\nhost = \"core.internal\"").start().await;
    gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
    let received = upstream.request();
    assert_eq!(received.uri.authority().map(|authority| authority.as_str()), Some("core.internal"));
    let fields = fields(&received.headers);
    assert_eq!((fields.get("host"), fields.get("x-forwarded-host")), (None, Some(PRODUCTION)));
}

/// The library writes no length for a body that is empty, and some servers answer a POST without one with 411.
#[tokio::test]
async fn a_declared_length_of_nothing_goes_on_and_an_undeclared_one_does_not() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    for declared in [Some("0"), None] {
        let request = Request::new("POST", "/").with(&gateway.live);
        let request = declared.map_or(request.clone(), |length| request.field("content-length", length));
        Http1::connect(gateway.address).await.exchange(&encode(&request)).await.passed();
        assert_eq!(upstream.requests().pop().unwrap().field("content-length"), declared);
    }
}

/// Servers were counted as free while a connection to them was being made, so the first burst went to one of them.
#[tokio::test]
async fn servers_with_as_little_to_do_have_their_turns() {
    let (one, other) = (TestUpstream::echo().await, TestUpstream::echo().await);
    let servers = [&one, &other].map(|upstream| format!("http://{}", upstream.address));
    let gateway = Setup::before(one.address).servers(&servers).start().await;
    let mut client = Http1::connect(gateway.address).await;
    for _ in 0..10 {
        client.ask(&Request::get("/").with(&gateway.live)).await.passed();
    }
    assert_eq!((one.requests().len(), other.requests().len()), (5, 5));
}
