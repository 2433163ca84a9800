//! Bodies on their way through: whole, in both directions, at the pace of who reads them, and no longer than somebody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::sync::mpsc;

use crate::support::gateway::{PRODUCTION, Setup, TestGateway};
use crate::support::http1::{Http1, encode};
use crate::support::http2::{self, Http2};
use crate::support::message::Request;
use crate::support::upstream::{After, Exchange, TestUpstream};
use crate::support::wait::within;

/// A piece of a large body.
const PIECE: usize = 64 * 1024;
/// Far more than all buffers on the way hold together.
const ENDLESS: u64 = 256 << 20;
/// More than the buffers of two sockets, a gateway between them, and the windows of HTTP/2; far less than what is sent.
const BUFFERED: u64 = 48 << 20;
/// Whoever could not send for so long is held back.
const HELD_BACK: Duration = Duration::from_millis(300);

/// How large a large body is. 64 MiB show every mistake in handing pieces on; whether memory stays flat is shown by 1 GiB, which
/// takes its time and a process to itself: `tests/README.md` has the command.
fn large() -> u64 {
    std::env::var("MARTIS_TEST_BODY_BYTES").map_or(64 << 20, |bytes| bytes.parse().expect("a number of bytes"))
}

/// Bytes that are different from place to place, so that a piece that is lost, doubled or moved is noticed.
struct Pattern(Bytes);

impl Pattern {
    /// A prime, so that no piece begins where the one before it did.
    const PERIOD: usize = 65_521;

    fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let period: Vec<u8> = (0..Self::PERIOD).map(|_| random.u8(..)).collect();
        Self([&period[..], &period, &period].concat().into())
    }

    fn piece(&self, at: u64, length: usize) -> Bytes {
        let start = usize::try_from(at % Self::PERIOD as u64).unwrap();
        self.0.slice(start..start + length.min(2 * Self::PERIOD))
    }

    #[track_caller]
    fn check(&self, at: u64, mut piece: &[u8]) {
        let mut at = at;
        while !piece.is_empty() {
            let expected = self.piece(at, piece.len());
            assert!(piece.starts_with(&expected), "the bytes from {at} on are others");
            piece = &piece[expected.len()..];
            at += expected.len() as u64;
        }
    }
}

/// The resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Reads a body that must be the pattern, and answers with its length.
async fn count(mut exchange: Exchange) -> After {
    let (pattern, mut at) = (Pattern::new(), 0);
    while let Ok(Some(piece)) = exchange.http.piece().await {
        pattern.check(at, &piece);
        at += piece.len() as u64;
    }
    exchange.answer("200 OK", "", at.to_string().as_bytes()).await
}

/// Answers with the pattern.
async fn pour(mut exchange: Exchange, length: u64) -> After {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    let (pattern, mut at, mut sent) = (Pattern::new(), 0, exchange.http.try_send(head).await);
    while sent.is_ok() && at < length {
        let piece = pattern.piece(at, PIECE.min(usize::try_from(length - at).unwrap()));
        at += piece.len() as u64;
        sent = exchange.http.try_send(piece).await;
    }
    if sent.is_ok() { exchange.go_on() } else { After::Close }
}

async fn without_bound(upstream: &TestUpstream) -> TestGateway {
    Setup::before(upstream.address).limit("body_bytes", "off").start().await
}

fn upload(gateway: &TestGateway, length: u64) -> Request {
    Request::post("/", "").field("content-length", &length.to_string()).with(&gateway.live)
}

/// Sends all of a piece as the other end makes room for it.
async fn send(body: &mut SendStream<Bytes>, mut piece: Bytes, end: bool) -> Result<(), h2::Error> {
    while !piece.is_empty() {
        body.reserve_capacity(piece.len());
        let room = std::future::poll_fn(|context| body.poll_capacity(context)).await.expect("the stream is open")?;
        let part = piece.split_to(room.min(piece.len()));
        body.send_data(part, end && piece.is_empty())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let upstream = TestUpstream::start(count).await;
    let gateway = without_bound(&upstream).await;
    let (length, pattern) = (large(), Pattern::new());
    let before = resident();

    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&upload(&gateway, length))).await;
    let mut at = 0;
    while at < length {
        let piece = pattern.piece(at, PIECE.min(usize::try_from(length - at).unwrap()));
        client.send(&piece).await;
        at += piece.len() as u64;
    }
    assert_eq!(client.reply().await.passed().text(), length.to_string());

    let mut client = Http2::connect(gateway.address).await;
    let (reply, mut body) = client.open(http2::head(&upload(&gateway, length)), false).await.unwrap();
    let mut at = 0;
    while at < length {
        let piece = pattern.piece(at, PIECE.min(usize::try_from(length - at).unwrap()));
        at += piece.len() as u64;
        within(send(&mut body, piece, at == length)).await.unwrap();
    }
    let reply = http2::whole(within(reply).await.unwrap()).await.unwrap();
    assert_eq!(reply.passed().text(), length.to_string());
    stays_flat(before);
}

#[tokio::test]
async fn a_large_reply_arrives_whole() {
    let upstream = TestUpstream::start(|exchange| pour(exchange, large())).await;
    let gateway = without_bound(&upstream).await;
    let pattern = Pattern::new();
    let before = resident();

    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&Request::get("/").with(&gateway.live))).await;
    client.reply_head_to("GET").await;
    let mut at = 0;
    while let Some(piece) = within(client.piece()).await.unwrap() {
        pattern.check(at, &piece);
        at += piece.len() as u64;
    }
    assert_eq!(at, large());

    let mut client = Http2::connect(gateway.address).await;
    let (reply, _) = client.open(http2::head(&Request::get("/").with(&gateway.live)), true).await.unwrap();
    let mut body = within(reply).await.unwrap().into_body();
    let mut at = 0;
    while let Some(piece) = within(body.data()).await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        pattern.check(at, &piece);
        at += piece.len() as u64;
    }
    assert_eq!(at, large());
    stays_flat(before);
}

/// Meant for a process that does nothing else; the ordinary run has many tests side by side.
#[expect(clippy::print_stderr, reason = "whoever asks for a large body wants the figure")]
fn stays_flat(before: u64) {
    if std::env::var_os("MARTIS_TEST_BODY_BYTES").is_some() {
        let grown = resident().saturating_sub(before);
        eprintln!("{} MiB there and {} MiB back: memory grew by {} KiB", large() >> 20, large() >> 20, grown >> 10);
        assert!(grown < 8 << 20, "memory grew by {grown} bytes");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_upstream() {
    for over_http2 in [false, true] {
        let sent = Arc::new(AtomicU64::new(0));
        let (report, mut held_back) = mpsc::unbounded_channel();
        let counted = Arc::clone(&sent);
        let upstream = TestUpstream::start(move |exchange| pour_until_held_back(exchange, Arc::clone(&counted), report.clone())).await;
        let gateway = without_bound(&upstream).await;
        let request = Request::get("/").with(&gateway.live);
        let (mut http1, mut http2) = (Http1::connect(gateway.address).await, Http2::connect(gateway.address).await);
        let _unread = if over_http2 {
            Some(http2.open(http2::head(&request), true).await.unwrap())
        } else {
            http1.send(encode(&request)).await;
            None
        };
        assert_eq!(within(held_back.recv()).await, Some(true), "the upstream could send everything");
        assert!(sent.load(Relaxed) < BUFFERED, "{} bytes went out to nobody", sent.load(Relaxed));
    }
}

async fn pour_until_held_back(mut exchange: Exchange, sent: Arc<AtomicU64>, report: mpsc::UnboundedSender<bool>) -> After {
    let mut going = exchange.http.try_send(format!("HTTP/1.1 200 OK\r\ncontent-length: {ENDLESS}\r\n\r\n")).await;
    let piece = vec![0; PIECE];
    while going.is_ok() && sent.load(Relaxed) < ENDLESS {
        match tokio::time::timeout(HELD_BACK, exchange.http.try_send(&piece)).await {
            Ok(done) => going = done,
            Err(_) => {
                let _ = report.send(true);
                return After::Close;
            }
        }
        sent.fetch_add(PIECE as u64, Relaxed);
    }
    let _ = report.send(false);
    After::Close
}

#[tokio::test]
async fn an_upstream_that_does_not_read_stops_the_client() {
    let upstream = TestUpstream::silent().await;
    let gateway = without_bound(&upstream).await;
    let piece = vec![0; PIECE];

    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&upload(&gateway, ENDLESS))).await;
    let mut sent = 0;
    while sent < ENDLESS && tokio::time::timeout(HELD_BACK, client.try_send(&piece)).await.is_ok() {
        sent += PIECE as u64;
    }
    assert!(sent < BUFFERED, "{sent} bytes went out to nobody");

    let mut client = Http2::connect(gateway.address).await;
    let (_reply, mut body) = client.open(http2::head(&upload(&gateway, ENDLESS)), false).await.unwrap();
    let (piece, mut sent) = (Bytes::from(piece), 0);
    while sent < ENDLESS && tokio::time::timeout(HELD_BACK, send(&mut body, piece.clone(), false)).await.is_ok() {
        sent += PIECE as u64;
    }
    assert!(sent < BUFFERED, "{sent} bytes went out to nobody");
}

#[tokio::test]
async fn a_client_that_goes_away_in_its_body_takes_the_upstream_request_with_it() {
    let upstream = TestUpstream::echo().await;
    let gateway = without_bound(&upstream).await;

    let mut client = Http1::connect(gateway.address).await;
    client.send([&encode(&upload(&gateway, 100))[..], b"the beginning"].concat()).await;
    upstream.has_seen(1).await;
    drop(client);
    upstream.has_open(0).await;

    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&Request::post("/", "").field("transfer-encoding", "chunked").with(&gateway.live))).await;
    client.send_chunk(b"the beginning").await;
    upstream.has_seen(2).await;
    drop(client);
    upstream.has_open(0).await;

    let mut client = Http2::connect(gateway.address).await;
    let (_reply, mut body) = client.open(http2::head(&upload(&gateway, 100)), false).await.unwrap();
    body.send_data(Bytes::from_static(b"the beginning"), false).unwrap();
    upstream.has_seen(3).await;
    body.send_reset(h2::Reason::CANCEL);
    upstream.has_open(0).await;

    assert_eq!(upstream.requests().len(), 3);
    assert!(upstream.requests().iter().all(|received| received.body.is_empty()), "none was whole");
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_takes_the_upstream_request_with_it() {
    let upstream = TestUpstream::silent().await;
    let gateway = Setup::before(upstream.address).start().await;
    let request = Request::get("/").with(&gateway.live);

    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&request)).await;
    upstream.has_seen(1).await;
    drop(client);
    // Silent about its own end, too: that the request was given up shows on the gateway's side.
    gateway.log_lines(1).await;

    let mut client = Http2::connect(gateway.address).await;
    let (reply, mut body) = client.open(http2::head(&request), true).await.unwrap();
    upstream.has_seen(2).await;
    body.send_reset(h2::Reason::CANCEL);
    drop(reply);
    let lines = gateway.log_lines(2).await;
    assert!(lines.iter().all(|line| line["status"].is_null()), "{lines:#?}");
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_reply_leaves_no_half_read_connection_behind() {
    let upstream = TestUpstream::start(|exchange| pour(exchange, ENDLESS)).await;
    let gateway = Setup::before(upstream.address).start().await;
    let request = Request::get("/").with(&gateway.live);

    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&request)).await;
    client.reply_head_to("GET").await;
    drop(client);
    upstream.has_open(0).await;

    let mut client = Http2::connect(gateway.address).await;
    let (reply, _) = client.open(http2::head(&request), true).await.unwrap();
    let reply = within(reply).await.unwrap();
    drop(reply);
    upstream.has_open(0).await;
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn pieces_of_both_bodies_pass_as_they_come() {
    let upstream = TestUpstream::start(|mut exchange| async move {
        exchange.http.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while let Ok(Some(piece)) = exchange.http.piece().await {
            exchange.http.send_chunk(&piece).await;
        }
        exchange.http.send("0\r\n\r\n").await;
        exchange.go_on()
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;

    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&Request::post("/", "").field("transfer-encoding", "chunked").with(&gateway.live))).await;
    client.reply_head_to("POST").await;
    for piece in ["one", "two", "three"] {
        client.send_chunk(piece.as_bytes()).await;
        assert_eq!(within(client.piece()).await.unwrap().as_deref(), Some(piece.as_bytes()));
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.rest().await.unwrap(), b"");

    let mut client = Http2::connect(gateway.address).await;
    let (reply, mut body) = client.open(http2::head(&Request::post("/", "").with(&gateway.live)), false).await.unwrap();
    let mut reply = within(reply).await.unwrap().into_body();
    for piece in ["one", "two", "three"] {
        body.send_data(Bytes::from(piece), false).unwrap();
        assert_eq!(within(reply.data()).await.unwrap().unwrap(), piece);
    }
    body.send_data(Bytes::new(), true).unwrap();
    assert!(within(reply.data()).await.is_none_or(|last| last.unwrap().is_empty()));
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let (publish, events) = mpsc::unbounded_channel::<&'static str>();
    let events = Arc::new(tokio::sync::Mutex::new(events));
    let upstream = TestUpstream::start(move |mut exchange| {
        let events = Arc::clone(&events);
        async move {
            exchange.http.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while let Some(event) = events.lock().await.recv().await {
                exchange.http.send_chunk(format!("data: {event}\n\n").as_bytes()).await;
            }
            After::Close
        }
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    let mut client = Http1::connect(gateway.address).await;
    client.send(format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {}\r\n\r\n", gateway.live.secret)).await;
    let (head, _) = client.reply_head_to("GET").await;
    assert_eq!(head.fields.get("content-type"), Some("text/event-stream"));
    for event in ["one", "two", "three"] {
        publish.send(event).unwrap();
        assert_eq!(within(client.piece()).await.unwrap().unwrap(), format!("data: {event}\n\n"));
    }
}

#[tokio::test]
async fn an_upstream_may_answer_before_it_has_read_the_body() {
    let upstream = TestUpstream::start(|mut exchange| async move {
        exchange.http.send("HTTP/1.1 422 Unprocessable Content\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await;
        After::Close
    })
    .await;
    let gateway = without_bound(&upstream).await;
    let mut client = Http1::connect(gateway.address).await;
    client.send(encode(&upload(&gateway, 1_000))).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (422, "no"));
}

/// Clients that share connections to the upstream, some of which give up half-way, and an upstream that now and then does.
#[tokio::test]
async fn every_reply_goes_to_the_request_that_it_answers_whatever_becomes_of_others() {
    let upstream = TestUpstream::start(|mut exchange| async move {
        let Some(body) = exchange.body().await else { return After::Close };
        let head = format!("HTTP/1.1 200 OK\r\nx-tag: {}\r\ncontent-length: {}\r\n\r\n", exchange.head.start[1], body.len());
        let reply = [head.as_bytes(), &body].concat();
        // Every seventh reply is cut off in the middle, every eleventh connection is closed behind its reply.
        let part = if exchange.number % 7 == 6 { &reply[..reply.len() / 2] } else { &reply[..] };
        let sent = exchange.http.try_send(part).await;
        if sent.is_err() || part.len() < reply.len() || exchange.number % 11 == 10 { After::Close } else { exchange.go_on() }
    })
    .await;
    let gateway = Setup::before(upstream.address).start().await;
    let clients = (0..8).map(|number| busy_client(&gateway, number));
    let whole: usize = futures_util::future::join_all(clients).await.into_iter().sum();
    assert!(whole > 200, "{whole} whole replies prove little");
    assert!(upstream.connections() < upstream.requests().len(), "no connection was used twice");
}

/// Sends requests one after the other, gives up every fifth, and counts those that were answered whole.
async fn busy_client(gateway: &TestGateway, number: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(number);
    let mut whole = 0;
    for count in 0..60 {
        let tag = format!("/{number}/{count}");
        let body = tag.repeat(random.usize(1..2_000));
        let request = Request::post(&tag, body.clone()).with(&gateway.live);
        if count % 5 == 4 {
            give_up(gateway, &request, random.usize(1..body.len())).await;
            continue;
        }
        let reply = if random.bool() {
            Http2::connect(gateway.address).await.try_ask(&request).await.ok()
        } else {
            Http1::connect(gateway.address).await.try_ask(&request).await.ok()
        };
        match reply {
            Some(reply) if reply.status == 200 => {
                assert_eq!((reply.field("x-tag"), reply.text() == body), (Some(tag.as_str()), true));
                whole += 1;
            }
            Some(reply) => drop(reply.refused("upstream_broken")),
            None => {}
        }
    }
    whole
}

async fn give_up(gateway: &TestGateway, request: &Request, sent: usize) {
    let bytes = encode(request);
    let mut client = Http1::connect(gateway.address).await;
    client.send(&bytes[..bytes.len() - sent]).await;
}
