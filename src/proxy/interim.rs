//! Interim replies of the upstream (1xx but 100 and 101) on their way to clients of HTTP/1.1. The server library has no way
//! to send them, so their heads are handed to the guard, which writes them before the reply. `100 Continue` is not passed: the
//! gateway answers `Expect` itself and never sends it on.

use std::rc::Rc;
use std::sync::Arc;

use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};

use super::body::RequestBody;
use super::exchange::Exchange;
use super::listener::Connection;

impl Connection {
    pub(super) fn relay_interim(&self, request: &mut Request<RequestBody>, exchange: &Rc<Exchange>) {
        let Some(guard) = self.guard.as_ref().filter(|_| exchange.takes_interim()) else { return };
        let guard = Arc::clone(guard);
        hyper::ext::on_informational(request, move |reply| {
            if !matches!(reply.status(), StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
                guard.interim(&head(reply.status(), reply.headers()));
            }
        });
    }
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default()).into_bytes();
    let one_hop = ["connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te"];
    let passes = |name: &str| !one_hop.contains(&name) && !name.starts_with("x-martis-");
    for (name, value) in headers.iter().filter(|(name, _)| passes(name.as_str())) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{CONNECTION, HeaderValue, LINK};

    #[test]
    fn an_interim_head_has_what_concerns_the_client() {
        let headers = HeaderMap::from_iter([
            (LINK, HeaderValue::from_static("</a.css>; rel=preload")),
            (CONNECTION, HeaderValue::from_static("keep-alive")),
        ]);
        assert_eq!(head(StatusCode::EARLY_HINTS, &headers), b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
    }
}
