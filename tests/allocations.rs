//! A refusal allocates nothing beyond what hyper itself allocates. Alone in its binary, because the allocator is counted as a
//! whole: the client here is a plain socket that allocates nothing while it counts.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "the functions beside the test are a part of it")]

use std::alloc::System;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use martis_gateway::app;
use martis_gateway::clock::Clock;
use martis_gateway::config;
use martis_gateway::store::Random;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUEST: &[u8] = b"GET /api/v1/payments/charges?limit=10 HTTP/1.1\r\nHost: api.martis.id\r\nUser-Agent: martis-node/3.1\r\n\
    Accept: application/json\r\nAuthorization: Bearer sk_live_nobody\r\n\r\n";
const ROUNDS: u32 = 5_000;

/// Allocations for each request of one connection, whatever is allocated in the background by chance included.
fn allocations(server: SocketAddr, reply_begins: &[u8]) -> f64 {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut reply = [0; 4096];
    let mut round = || {
        stream.write_all(REQUEST).unwrap();
        let read = stream.read(&mut reply).unwrap();
        assert!(reply[..read].starts_with(reply_begins), "{}", String::from_utf8_lossy(&reply[..read]));
    };
    // Buffers grow to their size first.
    (0..500).for_each(|_| round());
    let region = Region::new(ALLOCATOR);
    (0..ROUNDS).for_each(|_| round());
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / f64::from(ROUNDS)
}

/// hyper with a service that answers everything with an empty reply, on a thread of its own.
fn bare_hyper() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.unwrap();
        });
    });
    address
}

#[test]
fn a_refusal_allocates_no_more_than_hyper_itself() {
    let bare = allocations(bare_hyper(), b"HTTP/1.1 200 ");

    let folder = tempfile::tempdir().unwrap();
    let text = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"access.log\"\n\
        [limits]\nfailed_authentications = \"off\"\n";
    let config = config::parse(text, folder.path(), "gateway.toml", &|_| None).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let bound = runtime.block_on(app::bind(config, Clock::of_the_machine(), Random::of_the_machine())).unwrap();
    let (address, index, clock) = (bound.listeners[0], bound.index(), Clock::of_the_machine());
    let running = runtime.spawn(bound.run(async { drop(stopped.await) }));

    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !index.may_serve(clock.now()) {
        assert!(std::time::Instant::now() < patience, "the gateway does not get ready");
        std::thread::yield_now();
    }

    let gateway = allocations(address, b"HTTP/1.1 401 ");
    // One chunk for texts serves dozens of refusals, and the store is looked at in the background: less than one allocation in
    // five requests together. A field map or a body of its own would be one or two for each.
    assert!(gateway <= bare + 0.2, "a refusal takes {gateway:.2} allocations, hyper alone {bare:.2}");
    println!("allocations for a refusal: {gateway:.3}; hyper alone: {bare:.3}");

    stop.send(()).unwrap();
    runtime.block_on(running).unwrap().unwrap();
}
