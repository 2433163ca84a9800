//! From a permitted request to the upstream and back: takes a [`Permit`], and there is no other way through here.
//!
//! The head that goes out is made from the parsed parts: what concerns one hop or could be taken for an identity goes out, and
//! what the gateway knows of the request goes in last, so that nothing a client sends can stand beside it or take it away.
//! Framing is left to the client library, which counts the body itself.

use std::fmt::Write;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::http::request::Parts;
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::body::{ForwardedBody, ReplyBody, RequestBody};
use super::exchange::{BodyFault, Exchange};
use super::listener::Connection;
use super::upgrade::{self, Upgrade, Upgrading};
use super::upstream::{Upstream, blame};
use crate::access::address::ClientAddress;
use crate::access::decide::Permit;
use crate::access::denial::Denial;
use crate::gate::Refused;
use crate::gate::reply::{Scratch, X_REQUEST_ID, is_grpc};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_MARTIS_ACCOUNT: HeaderName = HeaderName::from_static("x-martis-account");
const X_MARTIS_KEY_ID: HeaderName = HeaderName::from_static("x-martis-key-id");
const X_MARTIS_ENVIRONMENT: HeaderName = HeaderName::from_static("x-martis-environment");
const X_MARTIS_PERMISSIONS: HeaderName = HeaderName::from_static("x-martis-permissions");

/// About so many fields are put into each request.
const SET_BY_GATEWAY: usize = 10;

/// A request that may pass, made ready for its upstream.
#[derive(Debug)]
pub(super) struct Forwarding {
    request: Request<RequestBody>,
    /// Its place in the configured list of upstreams.
    upstream: usize,
    upgrading: Option<Upgrading>,
    exchange: Rc<Exchange>,
}

impl Forwarding {
    /// Makes the request for the upstream.
    ///
    /// # Errors
    /// What the client is told if there is no such request.
    pub(super) fn begin(
        permit: &Permit,
        connection: &Rc<Connection>,
        parts: Parts,
        body: Incoming,
        upgrade: Option<Upgrade>,
        exchange: &Rc<Exchange>,
    ) -> Result<Self, Denial> {
        let worker = &connection.worker;
        let upstream = worker.upstreams.get(permit.upstream()).ok_or(Denial::UpstreamUnreachable)?;
        exchange.forwarding(permit.holder(), permit.upstream());
        let upgrade = upgrade.filter(|upgrade| upstream.upgrades_to(upgrade.protocol()));
        if upgrade.is_none() {
            if parts.method == Method::CONNECT {
                // Nothing else could be forwarded in its place: any success would be taken for an open tunnel.
                return Err(Denial::MethodNotAllowed);
            }
            // A wish that nobody grants is dropped, and what follows is the next request.
            connection.guard.iter().for_each(|guard| guard.no_tunnel());
        }

        let limit = if is_grpc(&parts.headers) { None } else { worker.gate.limits.body_bytes };
        let body = match upgrade {
            Some(_) => RequestBody::none(Rc::clone(exchange)),
            None => RequestBody::new(body, Rc::clone(exchange), limit),
        };
        let mut request = upstream_head(permit, connection, parts, exchange, upstream).map(|()| body);
        if !upstream.speaks_http2() && !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
            // Said outright: a GET whose length is not known would otherwise be taken for one without a body.
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let upgrading = upgrade.map(|upgrade| upgrade.ask(&mut request));
        connection.relay_interim(&mut request, exchange);
        Ok(Self { request, upstream: permit.upstream(), upgrading, exchange: Rc::clone(exchange) })
    }

    /// Sends the request, and returns the head of the reply, whose body follows as it comes.
    ///
    /// # Errors
    /// What the client is told if there is no reply.
    pub(super) async fn reply(self) -> Result<Response<ReplyBody>, Refused<'static>> {
        let Self { request, upstream, upgrading, exchange } = self;
        let connection = exchange.connection();
        let upstream = connection.worker.upstreams.get(upstream).ok_or(Denial::UpstreamUnreachable)?;
        let (response, mut lease) = match upstream.send(request, &exchange).await {
            Ok(replied) => replied,
            Err(denial) => return Err(refused(denial, exchange.body_fault())),
        };
        exchange.replied(response.status().as_u16());
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        match upgrading {
            Some(upgrading) if switching => return upgrade::tunnel(upgrading, response, lease, &exchange),
            Some(upgrading) if upgrading.would_mislead(response.status()) => return Err(Denial::UpstreamBroken.into()),
            // Nobody asked for it, so what follows would belong to nobody.
            None if switching => return Err(Denial::UpstreamBroken.into()),
            Some(_) => connection.guard.iter().for_each(|guard| guard.no_tunnel()),
            None => {}
        }
        let (mut parts, body) = response.into_parts();
        if frame_once(&mut parts.headers)? {
            lease.doubt();
        }
        clean_reply(&mut parts.headers, &exchange.request_id);
        if exchange.is_http10() {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let body = ForwardedBody::new(body, lease, Rc::clone(&exchange));
        Ok(Response::from_parts(parts, ReplyBody::Forwarded(body)))
    }
}

fn refused(denial: Denial, fault: Option<BodyFault>) -> Refused<'static> {
    let detail = match fault {
        Some(BodyFault::Malformed(violation)) => Some(violation.detail()),
        _ => None,
    };
    Refused { detail, ..blame(denial, fault).into() }
}

/// The head for the upstream, out of the client's.
fn upstream_head(permit: &Permit, connection: &Connection, parts: Parts, exchange: &Exchange, upstream: &Upstream) -> Request<()> {
    let Parts { method, uri, mut headers, version, .. } = parts;
    let worker = &connection.worker;
    let mut scratch = worker.scratch.borrow_mut();
    let (said_scheme, said_host) = worker.gate.addresses.said(connection.peer, &headers);
    let scheme = if said_scheme.unwrap_or(connection.scheme) == "https" { "https" } else { "http" };
    let said_host = said_host.map(|host| scratch.value(|text| text.put_slice(host.as_bytes())));
    let wants_trailers = upstream.speaks_http2() && headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));

    let seen_host = headers.get(HOST).cloned().or_else(|| {
        let authority = uri.authority()?;
        Some(scratch.value(|text| text.put_slice(authority.as_str().as_bytes())))
    });
    let declares_no_body = headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
    take_out(&mut headers, upstream.forward_authorization, &mut worker.removals.borrow_mut());

    if upstream.speaks_http2() {
        // The authority of the target says it; a Host beside it could only differ.
        headers.remove(HOST);
    } else if let Some(host) = upstream.host.clone().or_else(|| seen_host.clone()) {
        headers.insert(HOST, host);
    }
    if declares_no_body {
        // The client library writes no length where there is no body, and some servers insist on one (RFC 9110, section 8.6).
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if version == Version::HTTP_2 && !upstream.speaks_http2() {
        join_cookies(&mut headers, &mut scratch);
    }
    // Room for all that follows at once, and not step by step.
    headers.reserve(SET_BY_GATEWAY);
    headers.insert(VIA, HeaderValue::from_static(if version == Version::HTTP_2 { "2 martis-gateway" } else { "1.1 martis-gateway" }));
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if let Some(host) = said_host.or(seen_host.clone()) {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if let ClientAddress::Known(address) = exchange.client {
        // Most requests are from the other end of their connection, whose address was written down when it began.
        let written = connection.peer_text.clone().filter(|_| exchange.client == connection.peer);
        headers.insert(X_FORWARDED_FOR, written.unwrap_or_else(|| scratch.value(|text| write_plain(text, address))));
    }
    headers.insert(X_REQUEST_ID, exchange.request_id.clone());
    identify(permit, &mut headers, &mut scratch);

    let mut request = Request::new(());
    *request.uri_mut() = target(uri, upstream, upstream.host.as_ref().or(seen_host.as_ref()));
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    if upstream.speaks_http2() {
        *request.version_mut() = Version::HTTP_2;
    }
    request
}

fn identify(permit: &Permit, headers: &mut HeaderMap, scratch: &mut Scratch) {
    let holder = permit.holder();
    headers.insert(X_MARTIS_ACCOUNT, scratch.value(|text| text.put_slice(&holder.account.write())));
    headers.insert(X_MARTIS_KEY_ID, scratch.value(|text| text.put_slice(&holder.key.write())));
    headers.insert(X_MARTIS_ENVIRONMENT, HeaderValue::from_static(permit.environment().name()));
    let permissions = match permit.permissions().names() {
        None => HeaderValue::from_static("full"),
        Some(_) => scratch.value(|text| write_plain(text, permit.permissions())),
    };
    headers.insert(X_MARTIS_PERMISSIONS, permissions);
}

fn write_plain(text: &mut BytesMut, shown: impl std::fmt::Display) {
    // Writing to memory does not fail.
    let _ = write!(text, "{shown}");
}

/// Path and query byte for byte; for HTTP/2 with the scheme and authority that it wants in the target.
fn target(uri: Uri, upstream: &Upstream, host: Option<&HeaderValue>) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = hyper::http::uri::Parts::default();
    parts.path_and_query = Some(path.clone());
    if upstream.speaks_http2() {
        parts.scheme = Some(if upstream.is_tls() { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    }
    // A scheme without an authority is none; the path alone always is a target.
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(path))
}

/// Takes out what must not reach the upstream.
fn take_out(headers: &mut HeaderMap, forward_authorization: bool, removals: &mut Vec<HeaderName>) {
    // What Connection names concerned one hop only, also where the name is that of an end-to-end field.
    for value in headers.get_all(CONNECTION) {
        let names = value.as_bytes().split(|&byte| byte == b',').filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
        removals.extend(names.filter(|name| *name != HOST));
    }
    removals.extend(headers.keys().filter(|name| is_taken_out(name.as_str(), forward_authorization)).cloned());
    for name in removals.drain(..) {
        headers.remove(name);
    }
}

/// Whether a client's field of this name goes out; a name that only looks like one of these when its other characters are
/// read as `-` goes out, too.
fn is_taken_out(name: &str, forward_authorization: bool) -> bool {
    if *name == AUTHORIZATION {
        return !forward_authorization;
    }
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return is_ours_or_of_one_hop(name.as_bytes());
    }
    let mut plain = [0_u8; LONGEST_TAKEN_OUT];
    let end = name.len().min(LONGEST_TAKEN_OUT);
    for (to, from) in plain.iter_mut().zip(name.bytes()) {
        *to = if from.is_ascii_alphanumeric() { from } else { b'-' };
    }
    plain.get(..end).is_some_and(is_ours_or_of_one_hop)
}

/// Longer than each name below, so that cutting a name off there never makes it equal to one.
const LONGEST_TAKEN_OUT: usize = 32;

fn is_ours_or_of_one_hop(name: &[u8]) -> bool {
    matches!(
        name,
        // Of one hop (RFC 9110, section 7.6.1), or framing, which is made anew.
        b"connection" | b"keep-alive" | b"te" | b"trailer" | b"transfer-encoding" | b"upgrade" | b"content-length" | b"expect" | b"http2-settings"
        // Set by the gateway.
        | b"via" | b"x-request-id"
        // Taken by some servers for the client's address, or for another method or target than the one that was decided.
        | b"forwarded" | b"x-real-ip" | b"true-client-ip" | b"cf-connecting-ip" | b"x-client-ip"
        | b"x-http-method-override" | b"x-http-method" | b"x-method-override" | b"x-original-url" | b"x-rewrite-url"
    ) || name.starts_with(b"x-martis-")
        || name.starts_with(b"x-forwarded-")
        || name.starts_with(b"proxy-")
}

/// Leaves one framing of a reply where there were several, and says whether there were (RFC 9112, section 6.3).
///
/// # Errors
/// `UpstreamBroken` for a coding that cannot be passed on, since nothing would say what it is.
fn frame_once(headers: &mut HeaderMap) -> Result<bool, Denial> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Denial::UpstreamBroken);
        }
        return Ok(headers.remove(CONTENT_LENGTH).is_some());
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(false) };
    if lengths.next().is_none() && !first.as_bytes().contains(&b',') {
        return Ok(false);
    }
    // They were found to be the same when the reply was read.
    let length = first.as_bytes().split(|&byte| byte == b',').next().map(<[u8]>::trim_ascii);
    let length = length.and_then(|digits| HeaderValue::from_bytes(digits).ok()).ok_or(Denial::UpstreamBroken)?;
    headers.insert(CONTENT_LENGTH, length);
    Ok(true)
}

/// HTTP/2 lets a client send its cookies in several fields; other protocols know of one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap, scratch: &mut Scratch) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let joined = scratch.value(|text| {
        for (place, cookie) in headers.get_all(COOKIE).iter().enumerate() {
            text.put_slice(if place > 0 { b"; " } else { b"" });
            text.put_slice(cookie.as_bytes());
        }
    });
    headers.insert(COOKIE, joined);
}

/// Takes out of a reply what concerned the hop to the upstream, or could be taken for a word of the gateway's.
pub(super) fn clean_reply(headers: &mut HeaderMap, request_id: &HeaderValue) {
    // Few replies have any of it, so it is looked for once before anything is taken out.
    if headers.keys().any(is_taken_out_of_reply) {
        take_out_of_reply(headers);
    }
    headers.entry(X_REQUEST_ID).or_insert_with(|| request_id.clone());
}

fn is_taken_out_of_reply(name: &HeaderName) -> bool {
    [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
        || name.as_str().starts_with("x-martis-")
}

fn take_out_of_reply(headers: &mut HeaderMap) {
    let mut removals: Vec<HeaderName> = headers.keys().filter(|name| is_taken_out_of_reply(name)).cloned().collect();
    for value in headers.get_all(CONNECTION) {
        // Most say `keep-alive` and name no field.
        let tokens = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        let named = tokens.filter(|token| !token.eq_ignore_ascii_case(b"keep-alive") && !token.eq_ignore_ascii_case(b"close"));
        // A length that the reply's own body was read by cannot be taken away.
        removals.extend(named.filter_map(|name| HeaderName::from_bytes(name).ok()).filter(|name| *name != CONTENT_LENGTH));
    }
    for name in removals {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes_out(name: &str, expected: bool) {
        assert_eq!(is_taken_out(name, false), expected, "{name}");
    }

    #[test]
    fn fields_of_one_hop_and_fields_that_could_be_ours_go_out_and_others_stay() {
        for name in [
            "authorization",
            "connection",
            "te",
            "expect",
            "proxy-authorization",
            "x-martis-account",
            "x-martis-",
            "x-forwarded-for",
            "via",
        ] {
            goes_out(name, true);
        }
        for name in ["host", "accept", "content-type", "cookie", "traceparent", "x-martis", "x-api-key", "idempotency-key", "x-forwarded"] {
            goes_out(name, false);
        }
    }

    #[test]
    fn look_alikes_go_out_whatever_stands_between_their_words() {
        for name in
            ["x_martis_account", "x.martis.key~id", "x_forwarded_for", "x_request_id", "x-martis_permissions", "proxy_authorization"]
        {
            goes_out(name, true);
        }
        goes_out("x_custom_field", false);
        goes_out(&format!("x_request_id{}", "a".repeat(40)), false);
        goes_out(&format!("x_martis_{}", "a".repeat(90)), true);
    }

    #[test]
    fn the_authorization_stays_if_the_upstream_wants_it() {
        assert!(!is_taken_out("authorization", true));
    }

    #[test]
    fn what_connection_names_goes_out_but_never_the_host() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive, X-Custom , host,"));
        headers.append(CONNECTION, HeaderValue::from_static("x-other"));
        for name in ["host", "x-custom", "x-other", "accept"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        take_out(&mut headers, false, &mut Vec::new());
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }

    #[test]
    fn a_reply_keeps_one_framing() {
        let frame = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let doubtful = frame_once(&mut headers);
            (doubtful, headers.get("content-length").map(|length| length.to_str().unwrap().to_owned()))
        };
        assert_eq!(frame(&[("content-length", "5")]), (Ok(false), Some("5".to_owned())));
        assert_eq!(frame(&[("transfer-encoding", "chunked")]), (Ok(false), None));
        assert_eq!(frame(&[("content-length", "5"), ("transfer-encoding", "chunked")]), (Ok(true), None));
        assert_eq!(frame(&[("content-length", "5, 5")]), (Ok(true), Some("5".to_owned())));
        assert_eq!(frame(&[("content-length", "5"), ("content-length", "5")]), (Ok(true), Some("5".to_owned())));
        assert_eq!(frame(&[("transfer-encoding", "gzip, chunked")]).0, Err(Denial::UpstreamBroken));
        assert_eq!(frame(&[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")]).0, Err(Denial::UpstreamBroken));
    }

    #[test]
    fn a_reply_keeps_its_fields_and_its_own_request_id() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-hop"), ("x-hop", "1"), ("x-martis-forged", "1"), ("content-length", "3"), ("x-request-id", "theirs")]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        clean_reply(&mut headers, &HeaderValue::from_static("ours"));
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["x-request-id"], "theirs");
        clean_reply(&mut headers, &HeaderValue::from_static("ours"));
        headers.remove(X_REQUEST_ID);
        clean_reply(&mut headers, &HeaderValue::from_static("ours"));
        assert_eq!(headers["x-request-id"], "ours");
    }
}
