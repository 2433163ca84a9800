//! From a refusal to the reply that says so: the only place that knows status codes, fields and bodies of refusals.
//!
//! Replies are problem details (RFC 9457); callers of gRPC get trailers-only replies instead. A refusal costs no allocation:
//! the field map of the request is used again, and text is written into a buffer of the worker's.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Response, StatusCode};

use super::Refused;
use crate::access::address::ClientAddress;
use crate::access::denial::Denial;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_MARTIS_ERROR_SOURCE: HeaderName = HeaderName::from_static("x-martis-error-source");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a reply needs to know of the request that it answers.
#[derive(Clone, Debug)]
pub struct Addressee {
    pub request_id: HeaderValue,
    pub client: ClientAddress,
    /// The method was HEAD: the reply has no body.
    pub head_only: bool,
    pub grpc: bool,
    /// The connection ends with this reply (HTTP/1).
    pub close: bool,
}

/// A buffer that texts of replies and fields are cut from: one allocation serves hundreds of them.
#[derive(Debug, Default)]
pub struct Scratch(BytesMut);

impl Scratch {
    const CHUNK: usize = 16 * 1024;

    /// Writes a text and hands it out.
    pub fn write(&mut self, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.0.capacity() < 1024 {
            self.0.reserve(Self::CHUNK);
        }
        write(&mut self.0);
        self.0.split().freeze()
    }

    /// The same as the value of a field; empty if it cannot be one.
    pub fn value(&mut self, write: impl FnOnce(&mut BytesMut)) -> HeaderValue {
        HeaderValue::from_maybe_shared(self.write(write)).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Whether a request is a gRPC call: its `content-type` is `application/grpc`, alone or with `+` or `;` behind it.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(rest) = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().split_at_checked("application/grpc".len())) else {
        return false;
    };
    rest.0.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.1.trim_ascii_start().first(), None | Some(b'+' | b';'))
}

/// The reply to a refused request. `fields` is an emptied map whose room is used again.
pub fn refusal(refused: &Refused<'_>, to: Addressee, mut fields: HeaderMap, scratch: &mut Scratch) -> Response<Bytes> {
    fields.clear();
    if to.close {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_MARTIS_ERROR_SOURCE, HeaderValue::from_static("gateway"));
    let (status, body) = if to.grpc { grpc(refused, &mut fields, scratch) } else { problem(refused, &to, &mut fields, scratch) };
    fields.insert(X_REQUEST_ID, to.request_id);
    let mut response = Response::new(if to.head_only { Bytes::new() } else { body });
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

fn problem(refused: &Refused<'_>, to: &Addressee, fields: &mut HeaderMap, scratch: &mut Scratch) -> (StatusCode, Bytes) {
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(challenge) = challenge(refused, scratch) {
        fields.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = refused.denial.retry_after() {
        fields.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    let body = scratch.write(|text| {
        // Writing to memory does not fail. No part needs escaping: titles, details, codes and permissions are ours, and a request
        // id has no character that does.
        let _ = write!(
            text,
            r#"{{"type":"urn:martis:problem:{code}","title":"{}","status":{},"detail":""#,
            refused.denial.title(),
            refused.denial.status(),
            code = refused.denial.code(),
        );
        detail(refused, text);
        let _ = write!(text, r#"","code":"{}","request_id":"{}""#, refused.denial.code(), to.request_id.to_str().unwrap_or_default());
        if refused.denial == Denial::IpNotAllowed {
            let _ = match to.client {
                ClientAddress::Known(address) => write!(text, r#","client_address":"{address}""#),
                ClientAddress::Unknown => write!(text, r#","client_address":null"#),
            };
        }
        text.extend_from_slice(b"}");
    });
    (StatusCode::from_u16(refused.denial.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body)
}

fn detail(refused: &Refused<'_>, text: &mut impl Write) {
    let _ = match (refused.detail, refused.needed) {
        (Some(detail), _) => text.write_str(detail),
        (None, Some(needed)) => write!(text, "The API key lacks the permission {needed}, which this request needs."),
        (None, None) => text.write_str(refused.denial.detail()),
    };
}

fn challenge(refused: &Refused<'_>, scratch: &mut Scratch) -> Option<HeaderValue> {
    Some(match (refused.denial.challenge()?, refused.needed) {
        (None, _) => HeaderValue::from_static(r#"Bearer realm="martis""#),
        (Some("invalid_token"), _) => HeaderValue::from_static(r#"Bearer realm="martis", error="invalid_token""#),
        (Some("invalid_request"), _) => HeaderValue::from_static(r#"Bearer realm="martis", error="invalid_request""#),
        (Some(error), Some(needed)) => scratch.value(|text| {
            let _ = write!(text, r#"Bearer realm="martis", error="{error}", scope="{needed}""#);
        }),
        (Some(error), None) => scratch.value(|text| {
            let _ = write!(text, r#"Bearer realm="martis", error="{error}""#);
        }),
    })
}

/// Trailers-only: all there is stands in the head, and the status of HTTP is 200.
fn grpc(refused: &Refused<'_>, fields: &mut HeaderMap, scratch: &mut Scratch) -> (StatusCode, Bytes) {
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(GRPC_STATUS, HeaderValue::from(grpc_status(refused.denial.status())));
    let message = scratch.value(|text| detail(refused, &mut PercentEncoding(text)));
    fields.insert(GRPC_MESSAGE, message);
    (StatusCode::OK, Bytes::new())
}

const fn grpc_status(status: u16) -> u16 {
    match status {
        400 => 3,
        401 => 16,
        403 => 7,
        405 | 421 => 12,
        413 | 414 | 429 | 431 => 8,
        502 | 503 => 14,
        504 => 4,
        _ => 2,
    }
}

/// As gRPC encodes messages: visible ASCII and space but `%` stand for themselves.
struct PercentEncoding<'a>(&'a mut BytesMut);

impl Write for PercentEncoding<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => self.0.extend_from_slice(&[byte]),
                _ => write!(self.0, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::permission::PermissionName;

    fn to() -> Addressee {
        Addressee {
            request_id: HeaderValue::from_static("req_1"),
            client: ClientAddress::of("203.0.113.7".parse().unwrap()),
            head_only: false,
            grpc: false,
            close: false,
        }
    }

    fn reply(refused: &Refused<'_>, to: Addressee) -> Response<Bytes> {
        refusal(refused, to, HeaderMap::new(), &mut Scratch::default())
    }

    fn json(response: &Response<Bytes>) -> serde_json::Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn every_denial_is_told_as_a_problem() {
        for denial in Denial::ALL {
            let response = reply(&denial.into(), to());
            assert_eq!(response.status(), denial.status());
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.headers()["x-martis-error-source"], "gateway");
            assert_eq!(response.headers()["x-request-id"], "req_1");
            assert_eq!(response.headers().contains_key("www-authenticate"), denial.challenge().is_some(), "{denial:?}");
            assert_eq!(response.headers().contains_key("retry-after"), matches!(denial.status(), 429 | 503), "{denial:?}");
            let problem = json(&response);
            assert_eq!(problem["code"], denial.code());
            assert_eq!(problem["status"], denial.status());
            assert_eq!(problem["request_id"], "req_1");
            for member in ["type", "title", "detail"] {
                assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}");
            }
        }
    }

    #[test]
    fn a_refused_address_is_shown_and_an_unknown_one_is_null() {
        let problem = json(&reply(&Denial::IpNotAllowed.into(), to()));
        assert_eq!(problem["client_address"], "203.0.113.7");
        let problem = json(&reply(&Denial::IpNotAllowed.into(), Addressee { client: ClientAddress::Unknown, ..to() }));
        assert_eq!(problem["client_address"], serde_json::Value::Null);
        assert!(problem.get("client_address").is_some());
    }

    #[test]
    fn a_missing_permission_is_named_in_the_challenge() {
        let needed = PermissionName::parse("payments.charges:write").unwrap();
        let refused = Refused { needed: Some(&needed), ..Denial::InsufficientPermissions.into() };
        let response = reply(&refused, to());
        let challenge = r#"Bearer realm="martis", error="insufficient_scope", scope="payments.charges:write""#;
        assert_eq!(response.headers()["www-authenticate"], challenge);
        assert!(json(&response)["detail"].as_str().unwrap().contains("payments.charges:write"));
    }

    #[test]
    fn a_head_request_gets_no_body() {
        let response = reply(&Denial::InvalidApiKey.into(), Addressee { head_only: true, ..to() });
        assert!(response.body().is_empty());
    }

    #[test]
    fn callers_of_grpc_get_trailers_only() {
        for denial in Denial::ALL {
            let response = reply(&denial.into(), Addressee { grpc: true, ..to() });
            assert_eq!(response.status(), 200);
            assert!(response.body().is_empty());
            assert_eq!(response.headers()["content-type"], "application/grpc");
            assert_eq!(response.headers()["grpc-message"], denial.detail());
            assert_ne!(response.headers()["grpc-status"], "2", "{denial:?} has a status of its own");
            assert_eq!(response.headers()["x-request-id"], "req_1");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let is = |kind: &'static str| is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]));
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; charset=x", "Application/GRPC"] {
            assert!(is(kind), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", "application/grpcx", ""] {
            assert!(!is(kind), "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
