//! Row 1, as far as a parsed head shows it: target, Host, sizes and the names of fields. For HTTP/1 the guard has judged the
//! raw bytes already; for HTTP/2 the fields are judged here, and what RFC 9113 calls malformed was refused by the codec.

use hyper::header::{CONTENT_LENGTH, HOST, HeaderName};
use hyper::{HeaderMap, Method};

use super::reply::is_grpc;
use super::{Head, host};
use crate::access::denial::Denial;
use crate::access::path;

/// Bounds of a head and of the length that it declares; None lifts one.
#[derive(Clone, Copy, Default, Debug)]
pub struct HeadLimits {
    pub head_bytes: Option<u64>,
    pub head_fields: Option<u64>,
    pub uri_bytes: Option<u64>,
    pub body_bytes: Option<u64>,
}

/// What is wrong with a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    pub denial: Denial,
    pub detail: &'static str,
}

const fn bad(detail: &'static str) -> Violation {
    Violation { denial: Denial::BadRequest, detail }
}

const fn over(denial: Denial) -> Violation {
    Violation { denial, detail: denial.detail() }
}

/// The host name of a well-framed request, without its port.
///
/// # Errors
/// The first violation.
pub(super) fn check<'a>(head: &Head<'a>, limits: &HeadLimits) -> Result<&'a str, Violation> {
    check_sizes(head, limits)?;
    if !head.guarded {
        check_fields(head.headers, limits)?;
    }
    // A CONNECT without `:protocol` has no path; it is refused by its method, whatever else it is.
    if *head.method != Method::CONNECT || head.protocol.is_some() {
        check_target(head)?;
    }
    check_host(head)
}

fn check_sizes(head: &Head<'_>, limits: &HeadLimits) -> Result<(), Violation> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if exceeds(target, limits.uri_bytes) {
        return Err(over(Denial::UriTooLong));
    }
    Ok(())
}

fn check_target(head: &Head<'_>) -> Result<(), Violation> {
    let Some(target) = head.uri.path_and_query() else { return Err(bad("The target of the request has no path.")) };
    if !target.as_str().starts_with('/') {
        return Err(bad(path::PathFault::NotRooted.detail()));
    }
    path::check(target.path().as_bytes()).map_err(|fault| bad(fault.detail()))?;
    if target.query().is_some_and(|query| !path::query_is_plain(query.as_bytes())) {
        return Err(bad("The query has a character that is not visible ASCII."));
    }
    Ok(())
}

/// Exactly one host: the Host field, the authority of the target, or both and equal (RFC 9112, section 3.2; RFC 9113,
/// section 8.3.1).
fn check_host<'a>(head: &Head<'a>) -> Result<&'a str, Violation> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(bad("The request has more than one Host."));
    }
    let field = field.map(|field| field.to_str().map_err(|_| bad("The Host is not a host name."))).transpose()?;
    let target = head.uri.authority().map(hyper::http::uri::Authority::as_str);
    let authority = match (field, target) {
        (Some(field), Some(target)) if !field.eq_ignore_ascii_case(target) => {
            return Err(bad("The Host differs from the authority of the request's target."));
        }
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) => return Err(bad("The request has no Host.")),
    };
    host::name_of(authority).ok_or(bad("The Host is not a host name."))
}

/// Fields of HTTP/2, which no guard has seen.
fn check_fields(headers: &HeaderMap, limits: &HeadLimits) -> Result<(), Violation> {
    // As RFC 9113, section 6.5.2 counts them.
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    if exceeds(bytes, limits.head_bytes) || exceeds(headers.len(), limits.head_fields) {
        return Err(over(Denial::HeadersTooLarge));
    }
    if headers.keys().any(looks_like_framing) {
        return Err(bad("The name of a field looks like one that frames or authenticates the request."));
    }
    check_length(headers, limits)
}

fn check_length(headers: &HeaderMap, limits: &HeadLimits) -> Result<(), Violation> {
    let mut fields = headers.get_all(CONTENT_LENGTH).iter();
    let Some(field) = fields.next() else { return Ok(()) };
    if fields.next().is_some() {
        return Err(bad("The request has more than one Content-Length."));
    }
    let digits = field.as_bytes();
    let length = field.to_str().ok().filter(|_| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
    let length = length.and_then(|digits| digits.parse::<u64>().ok()).ok_or(bad("The Content-Length is not a number."))?;
    // Calls of gRPC may be open for ever; their bytes are not counted.
    let too_long = limits.body_bytes.is_some_and(|limit| length > limit) && !is_grpc(headers);
    if too_long { Err(over(Denial::BodyTooLarge)) } else { Ok(()) }
}

fn exceeds(size: usize, limit: Option<u64>) -> bool {
    limit.is_some_and(|limit| size as u64 > limit)
}

/// Whether a name becomes one of the names that frame or authenticate a request only when its other characters are read as
/// `-`, as CGI and many servers do with `_`.
fn looks_like_framing(name: &HeaderName) -> bool {
    let name = name.as_str();
    let odd = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-';
    let same = |other: &str| name.len() == other.len() && name.bytes().zip(other.bytes()).all(|(a, b)| a == b || (b == b'-' && odd(a)));
    name.bytes().any(odd) && ["host", "content-length", "transfer-encoding", "authorization"].into_iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::address::ClientAddress;
    use hyper::Uri;
    use hyper::header::HeaderValue;

    fn limits() -> HeadLimits {
        HeadLimits { head_bytes: Some(2_000), head_fields: Some(10), uri_bytes: Some(50), body_bytes: Some(100) }
    }

    #[track_caller]
    fn check_head(uri: &str, fields: &[(&'static str, &str)], expected: Result<&str, Denial>) {
        let uri: Uri = uri.parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let head =
            Head { method: &Method::POST, uri: &uri, headers: &headers, protocol: None, guarded: false, peer: ClientAddress::Unknown };
        assert_eq!(check(&head, &limits()).map_err(|violation| violation.denial), expected, "{uri} {fields:?}");
    }

    #[test]
    fn one_host_is_needed_and_two_must_agree() {
        check_head("/a", &[("host", "api.martis.id:80")], Ok("api.martis.id"));
        check_head("http://api.martis.id/a", &[], Ok("api.martis.id"));
        check_head("http://api.martis.id/a", &[("host", "API.martis.id")], Ok("api.martis.id").map(|_| "API.martis.id"));
        check_head("http://api.martis.id/a", &[("host", "other")], Err(Denial::BadRequest));
        check_head("/a", &[], Err(Denial::BadRequest));
        check_head("/a", &[("host", "a"), ("host", "a")], Err(Denial::BadRequest));
        check_head("/a", &[("host", "user@a")], Err(Denial::BadRequest));
        check_head("http://user@a/b", &[], Err(Denial::BadRequest));
    }

    #[test]
    fn the_target_must_be_a_plain_path() {
        check_head("/a?b=//..", &[("host", "a")], Ok("a"));
        check_head("//a", &[("host", "a")], Err(Denial::BadRequest));
        check_head("/a/../b", &[("host", "a")], Err(Denial::BadRequest));
        check_head("*", &[("host", "a")], Err(Denial::BadRequest));
        check_head(&format!("/{}", "a".repeat(50)), &[("host", "a")], Err(Denial::UriTooLong));
    }

    #[test]
    fn fields_of_http2_are_bounded_and_unambiguous() {
        check_head("/a", &[("host", "a"), ("content-length", "100")], Ok("a"));
        check_head("/a", &[("host", "a"), ("content-length", "101")], Err(Denial::BodyTooLarge));
        check_head("/a", &[("host", "a"), ("content-length", "+1")], Err(Denial::BadRequest));
        check_head("/a", &[("host", "a"), ("content-length", "1"), ("content-length", "1")], Err(Denial::BadRequest));
        check_head("/a", &[("host", "a"), ("content_length", "1")], Err(Denial::BadRequest));
        check_head("/a", &[("host", "a"), ("transfer.encoding", "chunked")], Err(Denial::BadRequest));
        check_head("/a", &[("host", "a"), ("x_authorization", "b")], Ok("a"));
        check_head("/a", &[("host", "a"), ("x", &"v".repeat(2_000))], Err(Denial::HeadersTooLarge));
        check_head("/a", &[("host", "a"); 1].iter().copied().chain([("x", "v"); 10]).collect::<Vec<_>>(), Err(Denial::HeadersTooLarge));
    }
}
