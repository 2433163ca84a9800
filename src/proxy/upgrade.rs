//! Connections that become something else: WebSockets over HTTP/1.1, and over HTTP/2 by RFC 8441.
//!
//! A tunnel opens only on the upstream's 101. Until then whatever a client sends behind its request is its next request, and
//! held back by the guard.

use std::rc::Rc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;

use super::body::{ReplyBody, RequestBody};
use super::exchange::Exchange;
use super::listener::Connection;
use super::upstream::Lease;
use crate::access::denial::Denial;
use crate::gate::Refused;

/// A client's wish that its connection, or stream, become something else.
#[derive(Debug)]
pub struct Upgrade {
    protocol: HeaderValue,
    client: OnUpgrade,
    by: By,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// RFC 9110, section 7.8.
    Field,
    /// Extended CONNECT, RFC 8441.
    Connect,
}

/// The same once the upstream has been asked.
#[derive(Debug)]
pub struct Upgrading {
    protocol: HeaderValue,
    client: OnUpgrade,
    by: By,
    /// What the upstream has to prove that it understood the handshake which the gateway began in the client's place.
    accept: Option<String>,
}

impl Upgrade {
    /// What a request asks for, if it does.
    pub(super) fn asked(request: &mut Request<Incoming>, connection: &Connection) -> Option<Self> {
        if request.version() == Version::HTTP_2 {
            let websocket = request.extensions().get::<Protocol>()?.as_str().eq_ignore_ascii_case("websocket");
            let client = websocket.then(|| hyper::upgrade::on(request))?;
            return Some(Self { protocol: HeaderValue::from_static("websocket"), client, by: By::Connect });
        }
        // The guard parks behind a request with an Upgrade field and no body: only then can a tunnel follow.
        if !connection.guard.as_ref().is_some_and(|guard| guard.parked()) || !names_upgrade(request.headers()) {
            return None;
        }
        let protocol = request.headers().get(UPGRADE)?.clone();
        Some(Self { protocol, client: hyper::upgrade::on(request), by: By::Field })
    }

    pub(super) fn protocol(&self) -> &str {
        self.protocol.to_str().unwrap_or_default()
    }

    /// Puts the wish into the request for the upstream.
    pub(super) fn ask(self, request: &mut Request<RequestBody>) -> Upgrading {
        let Self { protocol, client, by } = self;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
        let mut accept = None;
        if by == By::Connect {
            // RFC 8441, section 5: over HTTP/2 there is no key, so the gateway makes one for the hop to the upstream.
            let key = BASE64.encode(fastrand::u128(..).to_be_bytes());
            accept = Some(accept_for(&key));
            if let Ok(key) = HeaderValue::from_str(&key) {
                headers.insert(SEC_WEBSOCKET_KEY, key);
            }
            *request.method_mut() = Method::GET;
        }
        Upgrading { protocol, client, by, accept }
    }
}

impl Upgrading {
    /// Whether a reply that is no 101 could be taken for an open tunnel: over HTTP/2 any success would be.
    pub(super) fn would_mislead(&self, status: StatusCode) -> bool {
        self.by == By::Connect && status.is_success()
    }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let mut tokens = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// RFC 6455, section 4.2.2.
fn accept_for(key: &str) -> String {
    let joined = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes()))
}

/// The upstream said 101: so does the reply, and from there on both ends are joined.
///
/// # Errors
/// If what the upstream said is no proof that it understood, or the client's connection cannot be handed over.
pub(super) fn tunnel(
    upgrading: Upgrading,
    mut response: Response<Incoming>,
    lease: Lease,
    exchange: &Rc<Exchange>,
) -> Result<Response<ReplyBody>, Refused<'static>> {
    let Upgrading { protocol, client, by, accept } = upgrading;
    let connection = exchange.connection();
    let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accept.is_some_and(|accept| accepted != Some(accept.as_bytes())) {
        return Err(Denial::UpstreamBroken.into());
    }
    if by == By::Field && !connection.guard.as_ref().is_some_and(|guard| guard.tunnel()) {
        return Err(Denial::UpstreamBroken.into());
    }
    let upstream = hyper::upgrade::on(&mut response);
    tokio::task::spawn_local(join(client, upstream, lease, Rc::clone(exchange), connection.worker.open_stream()));

    let (mut parts, _) = response.into_parts();
    let mut reply = Response::new(ReplyBody::Own(None));
    super::forward::clean_reply(&mut parts.headers, &exchange.request_id);
    match by {
        By::Field => {
            *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol);
        }
        By::Connect => {
            parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
    }
    *reply.headers_mut() = parts.headers;
    Ok(reply)
}

async fn join(client: OnUpgrade, upstream: OnUpgrade, lease: Lease, exchange: Rc<Exchange>, open: impl Sized) {
    let Ok((client, upstream)) = tokio::try_join!(client, upstream) else { return };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    // An error is the end of one side, and ends the other: there is nobody else to tell.
    if let Ok((sent, received)) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        exchange.sent(sent);
        exchange.received(received);
    }
    drop((lease, open));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_of_a_handshake_is_the_one_of_the_rfc() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_upgrade_must_be_named_by_connection() {
        let headers = |value: &'static str| HeaderMap::from_iter([(CONNECTION, HeaderValue::from_static(value))]);
        assert!(names_upgrade(&headers("keep-alive, Upgrade")));
        assert!(!names_upgrade(&headers("keep-alive")));
        assert!(!names_upgrade(&HeaderMap::new()));
    }
}
