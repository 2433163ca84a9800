//! The data plane: from an accepted connection to a reply, one request at a time, forward only.
//!
//! [`handle`] is the path of one request, start to end. Everything of a worker lives on its one thread, so nothing here takes
//! a lock; there is no store here and no `await` before the decision.

mod body;
mod exchange;
mod forward;
pub mod http1_guard;
mod interim;
pub mod listener;
mod pace;
pub mod proxy_protocol;
mod upgrade;
pub mod upstream;
pub mod worker;

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::ext::Protocol;
use hyper::header::{EXPECT, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, Uri};

use self::body::ReplyBody;
use self::exchange::{Exchange, Judged};
use self::forward::Forwarding;
use self::http1_guard::ViolationKind;
use self::listener::Connection;
use self::upgrade::Upgrade;
use crate::access::denial::Denial;
use crate::gate::reply::{self, Addressee, is_grpc};
use crate::gate::{Head, Judgement, Refused};

/// How much of a refused request's body is read for nothing, so that its connection can be used on.
const READ_FOR_NOTHING: u64 = 64 * 1024;

/// What becomes of a request: a refusal is there at once, a reply of the upstream takes its time.
#[allow(clippy::large_enum_variant, reason = "boxing a refusal would make it cost an allocation")]
enum Answer {
    Now(Option<Response<ReplyBody>>),
    /// Boxed, so that refusals and the connections that wait for requests do not carry the room for it.
    Later(Pin<Box<dyn Future<Output = Response<ReplyBody>>>>),
}

impl Future for Answer {
    type Output = Result<Response<ReplyBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(reply) => reply.take().map_or(Poll::Pending, |reply| Poll::Ready(Ok(reply))),
            Self::Later(reply) => reply.as_mut().poll(context).map(Ok),
        }
    }
}

/// Decides one request, and refuses it or begins to forward it. A plain function: nothing is waited for before the decision.
fn handle(connection: &Rc<Connection>, mut request: Request<Incoming>) -> Answer {
    let worker = &connection.worker;
    let (arrived, time) = (worker.clock.monotonic(), worker.clock.now());
    let misframed = connection.guard.as_ref().and_then(|guard| guard.take_verdict());
    let upgrade = Upgrade::asked(&mut request, connection);
    let (mut parts, body) = request.into_parts();

    let Judgement { client, environment, verdict } = match misframed {
        None => worker.gate.judge(&head_of(&parts, connection), time, &mut ()),
        Some(refused) => misframed_judgement(refused, connection, &mut parts),
    };

    let request_id = worker.request_id(&parts.headers);
    let to = Addressee {
        request_id: request_id.clone(),
        client,
        head_only: parts.method == Method::HEAD,
        // A status of 200 would open a tunnel for a CONNECT.
        grpc: is_grpc(&parts.headers) && parts.method != Method::CONNECT,
        close: false,
    };
    let exchange = Exchange::begin(connection, &parts, Judged { request_id, client, environment, arrived, time });
    match verdict {
        Ok(permit) => {
            let exchange = Rc::new(exchange);
            let forwarding = Forwarding::begin(&permit, connection, parts, body, upgrade, &exchange);
            Answer::Later(Box::pin(forwarded(forwarding, exchange, to)))
        }
        Err(refused) => {
            let close = connection.guard.is_some() && (ends_connection(refused.denial) || is_long(&body));
            if connection.guard.is_some() && !close && !parts.headers.contains_key(EXPECT) {
                discard(body, worker.limits.body_gap);
            }
            Answer::Now(Some(refuse(&refused, Addressee { close, ..to }, parts.headers, &exchange)))
        }
    }
}

async fn forwarded(forwarding: Result<Forwarding, Denial>, exchange: Rc<Exchange>, to: Addressee) -> Response<ReplyBody> {
    let outcome = match forwarding {
        Ok(forwarding) => forwarding.reply().await,
        Err(denial) => Err(denial.into()),
    };
    outcome.unwrap_or_else(|refused| refuse(&refused, to, HeaderMap::new(), &exchange))
}

fn head_of<'a>(parts: &'a Parts, connection: &Connection) -> Head<'a> {
    Head {
        method: &parts.method,
        uri: &parts.uri,
        headers: &parts.headers,
        protocol: parts.extensions.get::<Protocol>().map(Protocol::as_str),
        guarded: connection.guard.is_some(),
        peer: connection.peer,
    }
}

/// The guard has refused the head and put a canned one in its place; what could be read of the client's own is shown instead.
fn misframed_judgement(refused: http1_guard::Refused, connection: &Connection, parts: &mut Parts) -> Judgement<'static> {
    parts.headers.clear();
    parts.method = refused.method.unwrap_or_default();
    parts.uri = refused.target.and_then(|target| target.parse().ok()).unwrap_or_else(|| Uri::from_static("/"));
    let denial = match refused.what.kind() {
        ViolationKind::BadRequest => Denial::BadRequest,
        ViolationKind::UriTooLong => Denial::UriTooLong,
        ViolationKind::HeadersTooLarge => Denial::HeadersTooLarge,
        ViolationKind::BodyTooLarge => Denial::BodyTooLarge,
    };
    let verdict = Err(Refused { detail: Some(refused.what.detail()), ..denial.into() });
    Judgement { client: connection.peer, environment: None, verdict }
}

/// Whether an HTTP/1 connection cannot be trusted to be read on.
const fn ends_connection(denial: Denial) -> bool {
    matches!(denial, Denial::BadRequest | Denial::BodyTooLarge | Denial::UriTooLong | Denial::HeadersTooLarge)
}

fn refuse(refused: &Refused<'_>, mut to: Addressee, fields: HeaderMap, exchange: &Exchange) -> Response<ReplyBody> {
    let connection = exchange.connection();
    if let Some(guard) = &connection.guard {
        // Whatever the request hoped to become, it does not.
        guard.no_tunnel();
        to.close |= exchange.body_fault().is_some() || exchange.is_unread() || exchange.is_http10();
    }
    let reply = reply::refusal(refused, to, fields, &mut connection.worker.scratch.borrow_mut());
    exchange.refused(refused.denial, refused.holder);
    exchange.received(reply.body().len() as u64);
    reply.map(|body| ReplyBody::Own(Some(body)))
}

/// Whether more of a refused request's body is announced than is read for nothing.
fn is_long(body: &Incoming) -> bool {
    body.size_hint().lower() > READ_FOR_NOTHING
}

/// Reads what is left of a refused request's body, up to a bound, so that the next request of its connection can be read. HTTP/2
/// needs none of it, and a client that waits for `100 Continue` must not be told to go on.
fn discard(mut body: Incoming, patience: Option<Duration>) {
    if body.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(async move {
        let mut left = READ_FOR_NOTHING;
        let rest = std::future::poll_fn(|context| poll_discard(&mut body, &mut left, context));
        match patience {
            Some(patience) => drop(tokio::time::timeout(patience, rest).await),
            None => rest.await,
        }
    });
}

fn poll_discard(body: &mut Incoming, left: &mut u64, context: &mut Context<'_>) -> Poll<()> {
    loop {
        match Pin::new(&mut *body).poll_frame(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
            Poll::Ready(Some(Ok(frame))) => match left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(()),
            },
        }
    }
}
