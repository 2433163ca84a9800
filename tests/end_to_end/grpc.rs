//! gRPC as it comes over the wire: calls in both directions over HTTP/2 on both sides, with trailers. What refusals look like to
//! its callers is in `decisions`.

use bytes::Bytes;
use hyper::http::{self, HeaderMap, HeaderValue};

use crate::support::gateway::{Setup, TestGateway};
use crate::support::http2::{self, Http2, Http2Upstream, head};
use crate::support::message::Request;
use crate::support::wait::within;

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

/// A service that answers each message of a call with the same message, and ends when the caller does.
async fn echo_service() -> Http2Upstream {
    Http2Upstream::start(|request, mut respond| async move {
        let reply = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut reply = respond.send_response(reply, false).unwrap();
        let mut messages = request.into_body();
        while let Some(Ok(message)) = messages.data().await {
            messages.flow_control().release_capacity(message.len()).unwrap();
            reply.send_data(message, false).unwrap();
        }
        reply.send_trailers(status("0")).unwrap();
    })
    .await
}

async fn gateway(upstream: &Http2Upstream) -> TestGateway {
    Setup::before(upstream.address).upstream("protocol = \"http2\"").start().await
}

fn call(gateway: &TestGateway) -> http::Request<()> {
    head(&Request::post("/things.Things/Watch", "").of_grpc().with(&gateway.live))
}

#[tokio::test]
async fn messages_pass_in_both_directions_and_the_status_behind_them() {
    let upstream = echo_service().await;
    let gateway = gateway(&upstream).await;
    let mut client = Http2::connect(gateway.address).await;
    let (reply, mut messages) = client.open(call(&gateway), false).await.unwrap();
    let mut reply = within(reply).await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["content-type"]), (200, &HeaderValue::from_static("application/grpc")));
    for message in ["one", "two", "three"] {
        messages.send_data(Bytes::from(message), false).unwrap();
        assert_eq!(within(reply.body_mut().data()).await.unwrap().unwrap(), message);
    }
    messages.send_data(Bytes::new(), true).unwrap();
    let rest = http2::whole(reply).await.unwrap();
    assert_eq!((rest.text(), rest.trailers.get("grpc-status")), ("", Some("0")));
    let received = upstream.request();
    assert_eq!((received.uri.path(), &received.headers["te"]), ("/things.Things/Watch", &HeaderValue::from_static("trailers")));
}

#[tokio::test]
async fn a_refusal_of_the_service_passes_as_trailers_only() {
    let upstream = Http2Upstream::start(|_, mut respond| async move {
        let reply = http::Response::builder().header("content-type", "application/grpc").header("grpc-status", "5").body(()).unwrap();
        respond.send_response(reply, true).unwrap();
    })
    .await;
    let gateway = gateway(&upstream).await;
    let reply = Http2::connect(gateway.address).await.ask(&Request::post("/things.Things/Get", "x").of_grpc().with(&gateway.live)).await;
    assert_eq!((reply.status, reply.field("grpc-status"), reply.field("x-martis-error-source")), (200, Some("5"), None));
}

#[tokio::test]
async fn a_caller_that_gives_up_takes_the_call_with_it() {
    let (told, mut given_up) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Http2Upstream::start(move |request, mut respond| {
        let told = told.clone();
        async move {
            let _reply = respond.send_response(http::Response::new(()), false).unwrap();
            let mut messages = request.into_body();
            while let Some(Ok(_)) = messages.data().await {}
            let _ = told.send(std::future::poll_fn(|context| respond.poll_reset(context)).await);
        }
    })
    .await;
    let gateway = gateway(&upstream).await;
    let mut client = Http2::connect(gateway.address).await;
    let (reply, mut messages) = client.open(call(&gateway), false).await.unwrap();
    let _reply = within(reply).await.unwrap();
    messages.send_reset(h2::Reason::CANCEL);
    assert!(within(given_up.recv()).await.unwrap().is_ok(), "the call is reset");
}

#[tokio::test]
async fn a_service_that_breaks_a_call_off_breaks_it_off_for_the_caller() {
    let upstream = Http2Upstream::start(|request, mut respond| async move {
        let mut reply = respond.send_response(http::Response::new(()), false).unwrap();
        reply.send_data(Bytes::from_static(b"half"), false).unwrap();
        let _arrived = request.into_body().data().await;
        reply.send_reset(h2::Reason::INTERNAL_ERROR);
    })
    .await;
    let gateway = gateway(&upstream).await;
    let mut client = Http2::connect(gateway.address).await;
    let (reply, mut messages) = client.open(call(&gateway), false).await.unwrap();
    let mut reply = within(reply).await.unwrap();
    assert_eq!(within(reply.body_mut().data()).await.unwrap().unwrap(), "half");
    messages.send_data(Bytes::from_static(b"go on"), false).unwrap();
    assert!(http2::whole(reply).await.is_err(), "half a call must not look whole");
}

#[tokio::test]
async fn calls_share_one_connection_to_the_service() {
    let upstream = echo_service().await;
    let gateway = gateway(&upstream).await;
    let mut client = Http2::connect(gateway.address).await;
    client.ask(&Request::post("/things.Things/Get", "first").of_grpc().with(&gateway.live)).await.passed();
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(client.open(call(&gateway), false).await.unwrap());
    }
    for (number, (reply, mut messages)) in open.into_iter().enumerate() {
        messages.send_data(Bytes::from(number.to_string()), true).unwrap();
        let reply = http2::whole(within(reply).await.unwrap()).await.unwrap();
        assert_eq!((reply.text(), reply.trailers.get("grpc-status")), (number.to_string().as_str(), Some("0")));
    }
    assert_eq!((upstream.requests().len(), upstream.connections()), (21, 1));
}
