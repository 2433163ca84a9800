//! The guard as a stream: one table of heads, read whole, in pieces, by itself and by hyper's own server.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::Violation as V;
use super::*;

const LIMITS: GuardLimits = GuardLimits { head_bytes: Some(300), head_fields: Some(8), uri_bytes: Some(40), body_bytes: Some(1000) };

/// Heads and what becomes of them: `None` passes.
#[rustfmt::skip]
const HEADS: &[(&[u8], Option<V>)] = &[
    // The request line.
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"!#$%&'*+-.^_`|~09az / HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", None),
    (b"GET /a/b;c=d,e@f:g!$&'()*+-._~ HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"GET /%41%zz{}|\\^[]\"?q=1&r={}|\\^[]`?/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"GET //../. HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"GET http://a HTTP/1.1\r\nHost: b\r\n\r\n", None),
    (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", None),
    (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"GET /0123456789012345678901234567890123456 7 HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET /012345678901234567890123456789012345678 HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"GET /0123456789012345678901234567890123456789 HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::UriTooLong)),
    (b"GET /01234567890123456789012345678901234567?9 HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::UriTooLong)),
    (b"GET http://a/012345678901234567890123456789012345 HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::UriTooLong)),
    (b"GET /0123456789012345678901234567890123456789\x00 HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::UriTooLong)),
    (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::EmptyLines)),
    (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::LineEnd)),
    (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::LineEnd)),
    (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::RequestLine)),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::RequestLine)),
    (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Some(V::RequestLine)),
    (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::MethodByte)),
    (b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /\r\nHost: a\r\n\r\n", Some(V::RequestLine)),
    (b"GET /\nHost: a\r\n\r\n", Some(V::RequestLine)),
    (b"GET\r\nHost: a\r\n\r\n", Some(V::RequestLine)),
    (b"GET \r\nHost: a\r\n\r\n", Some(V::RequestLine)),
    (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::MethodByte)),
    (b"G\x80T / HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::MethodByte)),
    (b"\x00", Some(V::MethodByte)),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Some(V::MethodByte)),
    (b"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /a`b HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /?q=<a> HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /?q=\"a\" HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetByte)),
    (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::Fragment)),
    (b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::Fragment)),
    (b"GET http://a/#b HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::Fragment)),
    (b"GET # HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::Fragment)),
    (b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetForm)),
    (b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetForm)),
    (b"GET \\ HTTP/1.1\r\nHost: a\r\n\r\n", Some(V::TargetForm)),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET / http/1.1\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET / HTTP/1\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"GET / ICY/1.1\r\nHost: a\r\n\r\n", Some(V::Version)),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(V::Version)),
    // The ends of lines.
    (b"GET / HTTP/1.1\nHost: a\n\n", Some(V::LineEnd)),
    (b"GET / HTTP/1.1\r\nHost: a\n\r\n", Some(V::LineEnd)),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\n", Some(V::LineEnd)),
    (b"GET / HTTP/1.1\rHost: a\r\n\r\n", Some(V::LineEnd)),
    (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Some(V::LineEnd)),
    (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Some(V::LineEnd)),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\rX", Some(V::LineEnd)),
    // Fields.
    (b"GET / HTTP/1.1\r\nHost:a\r\nX:\r\nY: \t \r\nZ:\tz \t\r\n\r\n", None),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x80\xff\xc3\xa9 a\tb ~\r\n\r\n", None),
    (b"GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09: a\r\n\r\n", None),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: :a:b\r\nX: c\r\n\r\n", None),
    (b"GET / HTTP/1.1\r\nHost: a\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\ne: 5\r\nf: 6\r\ng: 7\r\n\r\n", None),
    (b"GET / HTTP/1.1\r\nHost: a\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\ne: 5\r\nf: 6\r\ng: 7\r\nh: 8\r\n\r\n", Some(V::TooManyFields)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", Some(V::SpaceBeforeColon)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n", Some(V::SpaceBeforeColon)),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Some(V::SpaceBeforeColon)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n", Some(V::SpaceBeforeColon)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", Some(V::Folding)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", Some(V::Folding)),
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Some(V::Folding)),
    (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Some(V::FieldName)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Some(V::FieldName)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\nY: b\r\n\r\n", Some(V::FieldName)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n", Some(V::FieldName)),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\"X\": b\r\n\r\n", Some(V::FieldName)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n", Some(V::FieldName)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: b\r\n\r\n", Some(V::FieldName)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x00\r\n\r\n", Some(V::FieldValue)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n\r\n", Some(V::FieldValue)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x7f\r\n\r\n", Some(V::FieldValue)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x0bb\r\n\r\n", Some(V::FieldValue)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: 0123456789\x1b[31m\r\n\r\n", Some(V::FieldValue)),
    // Host.
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", None),
    (b"GET / HTTP/1.1\r\nHOST: a, b\r\n\r\n", None),
    (b"GET / HTTP/1.1\r\n\r\n", Some(V::HostMissing)),
    (b"GET / HTTP/1.0\r\n\r\n", Some(V::HostMissing)),
    (b"GET http://a/ HTTP/1.1\r\n\r\n", Some(V::HostMissing)),
    (b"GET / HTTP/1.1\r\nHosts: a\r\n\r\n", Some(V::HostMissing)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Some(V::HostRepeated)),
    (b"GET / HTTP/1.0\r\nhost: a\r\nhOsT: b\r\n\r\n", Some(V::HostRepeated)),
    // Content-Length.
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", None),
    (b"POST / HTTP/1.0\r\nHost: a\r\nCONTENT-LENGTH:\t000 \r\n\r\n", None),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000001000\r\n\r\n", None),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", Some(V::BodyTooLarge)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n", Some(V::BodyTooLarge)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nContent-Type: application/grpc\r\n\r\n", None),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: Application/gRPC+proto\r\nContent-Length: 1999\r\n\r\n", None),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web\r\nContent-Length: 1001\r\n\r\n", Some(V::BodyTooLarge)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: a\r\nContent-Type: application/grpc\r\nContent-Length: 1001\r\n\r\n", Some(V::BodyTooLarge)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 00000000000000000001\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\n", Some(V::ContentLengthOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Some(V::ContentLengthRepeated)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\n", Some(V::ContentLengthRepeated)),
    // Transfer-Encoding.
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    (b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: \tChunKed\t \r\n\r\n", None),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow, chunked\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Some(V::TransferEncodingOdd)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Some(V::FieldValue)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Some(V::TransferEncodingRepeated)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", Some(V::TransferEncodingRepeated)),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Some(V::TransferEncodingInHttp10)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Some(V::TwoFramings)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", Some(V::TwoFramings)),
    // Names that others may read as framing.
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 1\r\n\r\n", Some(V::LookAlike)),
    (b"POST / HTTP/1.1\r\nHost: a\r\ncontent.length: 1\r\n\r\n", Some(V::LookAlike)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n", Some(V::LookAlike)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTRANSFER~ENCODING: chunked\r\n\r\n", Some(V::LookAlike)),
    (b"POST / HTTP/1.1\r\nHost: a\r\ncontentxlength: 1\r\ncontent-type_: b\r\nup_rade: c\r\n\r\n", None),
    (b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer b\r\nauthorization: c\r\nAuthoriz_tion: d\r\n\r\n", None),
];

// --- A stream by itself

/// A socket that gives what it was told to, piece by piece, and takes `accepts` bytes at each writing.
struct Scripted {
    reads: VecDeque<Vec<u8>>,
    ends: bool,
    accepts: Rc<RefCell<VecDeque<usize>>>,
    written: Rc<RefCell<Vec<u8>>>,
}

impl Scripted {
    fn reading(pieces: &[&[u8]]) -> Self {
        let reads = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect();
        Self { reads, ends: false, accepts: Rc::default(), written: Rc::default() }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.reads.pop_front() {
            Some(mut piece) => {
                let rest = piece.split_off(piece.len().min(out.remaining()));
                out.put_slice(&piece);
                if !rest.is_empty() {
                    self.reads.push_front(rest);
                }
                Poll::Ready(Ok(()))
            }
            None if self.ends => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(most) = self.accepts.borrow_mut().pop_front() else { return Poll::Pending };
        let taken = &bytes[..most.min(bytes.len())];
        self.written.borrow_mut().extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How a reading ended: nothing more for now, the end of the stream, or an error.
#[derive(Debug, PartialEq)]
enum End {
    Pending,
    Closed,
    Error(Option<BodyViolation>),
}

fn poll_once<T: AsyncRead + Unpin>(stream: &mut Guarded<T>, space: usize) -> Poll<Result<Vec<u8>, End>> {
    let mut space = vec![0; space];
    let mut out = ReadBuf::new(&mut space);
    match Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut out) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) if out.filled().is_empty() => Poll::Ready(Err(End::Closed)),
        Poll::Ready(Ok(())) => Poll::Ready(Ok(out.filled().to_vec())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(End::Error(BodyViolation::of(&error)))),
    }
}

/// Everything that passes, in reads of `space` bytes, and how it ended.
fn read_all<T: AsyncRead + Unpin>(stream: &mut Guarded<T>, space: usize) -> (Vec<u8>, End) {
    let mut passed = Vec::new();
    loop {
        match poll_once(stream, space) {
            Poll::Pending => return (passed, End::Pending),
            Poll::Ready(Ok(bytes)) => passed.extend(bytes),
            Poll::Ready(Err(end)) => return (passed, end),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Passed {
    bytes: Vec<u8>,
    end: End,
    heads: u64,
    verdict: Option<Refused>,
}

fn pass(pieces: &[&[u8]], space: usize) -> Passed {
    let (mut stream, state) = Guarded::new(Scripted::reading(pieces), &LIMITS);
    let (bytes, end) = read_all(&mut stream, space);
    let verdict = (0..state.heads()).find_map(|_| state.take_verdict());
    Passed { bytes, end, heads: state.heads(), verdict }
}

const CANNED: &[u8] = b"GET / HTTP/1.1\r\nhost: invalid\r\nconnection: close\r\n\r\n";

#[test]
fn each_head_passes_untouched_or_not_at_all() {
    for (head, violation) in HEADS {
        let passed = pass(&[head], 4096);
        assert_eq!(passed.verdict.map(|refused| refused.what), *violation, "{:?}", head.escape_ascii().to_string());
        let is_head = head.starts_with(b"HEAD ");
        if violation.is_none() {
            assert_eq!(passed.bytes, *head);
        } else if !is_head {
            assert_eq!(passed.bytes, CANNED);
        }
        assert_eq!((passed.end, passed.heads), (End::Pending, 1));
    }
}

#[test]
fn each_head_gets_the_same_verdict_wherever_it_is_cut() {
    for (head, _) in HEADS {
        let whole = pass(&[head], 4096);
        for cut in 1..head.len() {
            assert_eq!(pass(&[&head[..cut], &head[cut..]], 4096), whole, "cut at {cut}: {:?}", head.escape_ascii().to_string());
        }
        let bytes: Vec<&[u8]> = head.chunks(1).collect();
        assert_eq!(pass(&bytes, 7), whole);
    }
}

#[test]
fn what_could_be_read_of_a_refused_head_is_told_without_its_query() {
    #[track_caller]
    fn check(head: &[u8], method: Option<Method>, target: Option<&str>) {
        let refused = pass(&[head], 4096).verdict.expect("refused");
        assert_eq!((refused.method, refused.target.as_deref()), (method, target));
    }
    check(b"GET /a?b HTTP/1.1\r\n\r\n", Some(Method::GET), Some("/a"));
    check(b"GET /a HTTP/1.1\r\nHost a\r\n", Some(Method::GET), Some("/a"));
    check(b"GET /abc\x00", Some(Method::GET), Some("/abc"));
    check(b"GET /0123456789012345678901234567890123456789", Some(Method::GET), Some("/012345678901234567890123456789012345678"));
    check(b"\r\nPUT http://a/b HTTP/3", Some(Method::PUT), Some("http://a/b"));
    check(b"GET \r\n", Some(Method::GET), Some(""));
    check(b"G\x00T / HTTP/1.1\r\n\r\n", None, None);
    check(b"A123456789012345678901234567890123456789 /a b", None, Some("/a"));
}

#[test]
fn a_refused_head_request_is_answered_without_a_body() {
    assert_eq!(pass(&[b"HEAD / HTTP/1.1\r\n\r\n"], 4096).bytes, b"HEAD / HTTP/1.1\r\nhost: invalid\r\nconnection: close\r\n\r\n");
}

#[test]
fn a_target_is_not_in_what_a_log_of_types_shows() {
    let refused = pass(&[b"GET /token/abc HTTP/1.1\r\n\r\n"], 4096).verdict.expect("refused");
    assert_eq!(format!("{refused:?}"), "Refused { what: HostMissing, method: Some(GET), .. }");
}

#[test]
fn a_head_may_be_as_long_as_its_bound_and_no_longer() {
    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4)).into_bytes()
    };
    assert_eq!(pass(&[&head(300)], 4096).bytes, head(300));
    assert_eq!(pass(&[&head(301)], 4096).verdict.map(|refused| refused.what), Some(V::HeadTooLong));
    // An endless line is refused as soon as the bound is reached, and nothing more is read.
    let passed = pass(&[&[b'x'; 299], b"x", b"x"], 4096);
    assert_eq!(passed.verdict.map(|refused| refused.what), Some(V::HeadTooLong));
}

#[test]
fn a_closed_stream_ends_for_hyper_too_also_in_the_middle_of_a_head() {
    for start in [&b""[..], b"\r\n", b"GET / HT"] {
        let mut scripted = Scripted::reading(&[start]);
        scripted.ends = true;
        let (mut stream, state) = Guarded::new(scripted, &LIMITS);
        assert_eq!(read_all(&mut stream, 64), (Vec::new(), End::Closed));
        assert_eq!(state.heads(), 0);
    }
}

#[test]
fn the_phase_tells_when_a_head_begins_and_ends() {
    let pieces: [&[u8]; 5] = [b"\r\n", b"P", b"OST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", b"x", b"yG"];
    let (mut stream, state) = Guarded::new(Scripted::reading(&[]), &LIMITS);
    assert!(state.idle() && !state.head_started());
    let mut phases = Vec::new();
    for piece in pieces {
        stream.io.reads.push_back(piece.to_vec());
        read_all(&mut stream, 4096);
        phases.push((state.phase(), state.heads()));
    }
    assert_eq!(phases, [(Phase::Idle, 0), (Phase::Head, 0), (Phase::Body, 1), (Phase::Body, 1), (Phase::Head, 1)]);
    stream.io.reads.push_back(b" ".to_vec());
    read_all(&mut stream, 4096);
    assert_eq!((state.phase(), state.heads()), (Phase::Head, 1));
    stream.io.reads.push_back(b"\x00".to_vec());
    read_all(&mut stream, 4096);
    assert_eq!((state.phase(), state.heads()), (Phase::Idle, 2));
    state.take_verdict();
    assert_eq!(state.phase(), Phase::Idle);
    state.take_verdict();
    assert_eq!(state.phase(), Phase::Refused);
}

#[test]
fn a_client_is_not_to_blame_for_a_head_while_hyper_asks_for_none() {
    let (mut stream, state) = Guarded::new(Scripted::reading(&[&[GET, &GET[..9]].concat()]), &LIMITS);
    assert_eq!(poll_once(&mut stream, 4096), Poll::Ready(Ok(GET.to_vec())));
    assert!(state.idle());
    assert_eq!(poll_once(&mut stream, 4096), Poll::Pending);
    assert!(state.head_started());
}

// --- Several messages

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n";

#[test]
fn a_verdict_belongs_to_its_own_request() {
    let three = [GET, GET, b"GET / HTTP/1.1\r\n\r\n", GET].concat();
    let (mut stream, state) = Guarded::new(Scripted::reading(&[&three]), &LIMITS);
    let (passed, end) = read_all(&mut stream, 4096);
    assert_eq!((passed, end), ([GET, GET, CANNED].concat(), End::Pending));
    assert_eq!(state.take_verdict(), None);
    assert_eq!(state.take_verdict(), None);
    assert_eq!(state.take_verdict().map(|refused| refused.what), Some(V::HostMissing));
    assert_eq!(state.take_verdict(), None);
}

#[test]
fn whole_heads_pass_before_the_rest_of_the_next_one_has_come() {
    let (mut stream, _) = Guarded::new(Scripted::reading(&[&[GET, &GET[..9]].concat()]), &LIMITS);
    assert_eq!(read_all(&mut stream, 4096), (GET.to_vec(), End::Pending));
    stream.io.reads.push_back([&GET[9..], GET].concat());
    assert_eq!(read_all(&mut stream, 4096), ([GET, GET].concat(), End::Pending));
}

#[test]
fn nothing_is_kept_between_messages() {
    let (mut stream, _) = Guarded::new(Scripted::reading(&[&GET[..9], &GET[9..]]), &LIMITS);
    read_all(&mut stream, 4096);
    assert_eq!(stream.held.bytes.capacity(), 0);
}

#[test]
fn a_body_is_as_long_as_was_said_and_the_next_head_follows() {
    let post: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n";
    let bytes = [post, GET].concat();
    for cut in 0..bytes.len() {
        let passed = pass(&[&bytes[..cut], &bytes[cut..]], 4096);
        assert_eq!((passed.bytes, passed.heads, passed.verdict), (bytes.clone(), 2, None), "cut at {cut}");
    }
    // What stands in the place of the body is the body.
    let passed = pass(&[&post[..post.len() - 4], b"GET /\r\n"], 4096);
    assert_eq!(passed.verdict.map(|refused| refused.what), Some(V::MethodByte));
}

#[test]
fn a_malformed_body_passes_up_to_its_fault() {
    #[track_caller]
    fn check(body: &[u8], passes: usize, violation: BodyViolation) {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes = [head, body, GET].concat();
        for cut in 0..bytes.len() {
            let passed = pass(&[&bytes[..cut], &bytes[cut..]], 4096);
            assert_eq!(passed.end, End::Error(Some(violation)), "cut at {cut}");
            assert_eq!(passed.bytes, &bytes[..head.len() + passes], "cut at {cut}");
            assert_eq!((passed.heads, passed.verdict), (1, None));
        }
    }
    check(b"1 \r\n", 1, BodyViolation::ChunkSize);
    check(b"3\r\nabc0\r\n\r\n", 6, BodyViolation::ChunkEnd);
    check(b"3\nabc", 1, BodyViolation::ChunkSize);
    check(b"0;a b\r\n\r\n", 3, BodyViolation::ChunkExtension);
    check(b"3e9\r\n", 3, BodyViolation::TooLarge);
    check(b"0\r\nA : b\r\n\r\n", 3, BodyViolation::Trailer(V::SpaceBeforeColon));
    check(b"0\r\nA: b\r\n c\r\n\r\n", 3, BodyViolation::Trailer(V::Folding));
    check(b"0\r\nA: b\x00\r\n\r\n", 3, BodyViolation::Trailer(V::FieldValue));
    check(b"0\r\nContent-Length: 1\r\n\r\n", 3, BodyViolation::Trailer(V::FieldName));
    check(b"0\r\nHost: 1\r\n\r\n", 3, BodyViolation::Trailer(V::FieldName));
    check(b"0\r\nTransfer_Encoding: 1\r\n\r\n", 3, BodyViolation::Trailer(V::LookAlike));
    check(b"0\r\na:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\n\r\n", 3, BodyViolation::Trailer(V::TooManyFields));
    let long = [b"0\r\nA: ", &[b'x'; 300][..], b"\r\n\r\n"].concat();
    check(&long, 3, BodyViolation::Trailer(V::HeadTooLong));
}

#[test]
fn a_malformed_body_is_refused_when_the_service_is_told() {
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n?";
    let (mut stream, state) = Guarded::new(Scripted::reading(&[bytes]), &LIMITS);
    assert_eq!(poll_once(&mut stream, 4096), Poll::Ready(Ok(bytes[..bytes.len() - 1].to_vec())));
    assert_eq!(state.phase(), Phase::Body);
    assert_eq!(poll_once(&mut stream, 4096), Poll::Ready(Err(End::Error(Some(BodyViolation::ChunkSize)))));
    assert_eq!(state.phase(), Phase::Refused);
}

#[test]
fn a_chunked_body_passes_with_its_trailers_and_the_next_head_follows() {
    let post: &[u8] =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n00\r\nA: b\r\nUpgrade: c\r\n\r\n";
    let bytes = [post, GET].concat();
    for cut in 0..bytes.len() {
        let passed = pass(&[&bytes[..cut], &bytes[cut..]], 11);
        assert_eq!((passed.bytes, passed.end, passed.heads, passed.verdict), (bytes.clone(), End::Pending, 2, None), "cut at {cut}");
    }
}

// --- Upgrades

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream behind a request for an upgrade that the service was just handed, and what came after it.
fn parked(after: &[u8]) -> (Guarded<Scripted>, Arc<GuardState>) {
    let (mut stream, state) = Guarded::new(Scripted::reading(&[&[UPGRADE, after].concat()]), &LIMITS);
    assert_eq!(read_all(&mut stream, 4096), (UPGRADE.to_vec(), End::Pending));
    assert_eq!((state.take_verdict(), state.parked(), state.phase()), (None, true, Phase::Parked));
    (stream, state)
}

#[test]
fn what_follows_a_request_for_an_upgrade_waits_and_then_passes_raw() {
    let (mut stream, state) = parked(b"\x81\x00\n\n");
    stream.io.reads.push_back(b"more".to_vec());
    assert_eq!(read_all(&mut stream, 4096), (Vec::new(), End::Pending));
    assert!(state.tunnel());
    stream.io.reads.push_back(GET.to_vec());
    assert_eq!(read_all(&mut stream, 4096), ([b"\x81\x00\n\nmore", GET].concat(), End::Pending));
    assert_eq!((state.phase(), state.heads(), state.tunnel()), (Phase::Tunnel, 1, false));
}

#[test]
fn what_follows_a_declined_upgrade_is_the_next_request() {
    let (mut stream, state) = parked(b"\x81\x00\n\n");
    state.no_tunnel();
    assert_eq!(read_all(&mut stream, 4096), (CANNED.to_vec(), End::Pending));
    assert_eq!(state.take_verdict().map(|refused| refused.what), Some(V::MethodByte));

    let (mut stream, state) = parked(&[UPGRADE, GET].concat());
    state.no_tunnel();
    assert_eq!(read_all(&mut stream, 4096), (UPGRADE.to_vec(), End::Pending));
    assert_eq!((state.take_verdict(), state.parked()), (None, true));
    state.no_tunnel();
    assert_eq!(read_all(&mut stream, 4096), (GET.to_vec(), End::Pending));
}

#[test]
fn the_answer_to_one_request_is_not_the_answer_to_the_next() {
    let (mut stream, state) = Guarded::new(Scripted::reading(&[&[GET, UPGRADE, GET].concat()]), &LIMITS);
    assert_eq!(read_all(&mut stream, 4096), ([GET, UPGRADE].concat(), End::Pending));
    state.take_verdict();
    assert!(!state.parked() && !state.tunnel());
    state.no_tunnel();
    assert_eq!(read_all(&mut stream, 4096), (Vec::new(), End::Pending));
    state.take_verdict();
    assert!(state.parked() && state.tunnel());
    assert_eq!(read_all(&mut stream, 4096), (GET.to_vec(), End::Pending));
}

#[test]
fn a_request_with_a_body_or_of_http_10_is_never_upgraded() {
    for head in [
        &b"GET / HTTP/1.0\r\nHost: a\r\nUpgrade: x\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nUpgrade: x\r\n\r\n0\r\n\r\n",
    ] {
        let (mut stream, state) = Guarded::new(Scripted::reading(&[head, GET]), &LIMITS);
        assert_eq!(read_all(&mut stream, 4096), ([head, GET].concat(), End::Pending));
        state.take_verdict();
        assert!(!state.parked() && !state.tunnel());
    }
}

#[test]
fn an_answer_wakes_a_reading_that_waits_for_it() {
    let answers: [fn(&GuardState); 3] = [|state| assert!(state.tunnel()), GuardState::no_tunnel, |state| state.interim(b"x")];
    for answer in answers {
        let (mut stream, state) = parked(b"");
        let woken = Arc::new(Woken::default());
        let mut space = [0; 64];
        let pending = Pin::new(&mut stream).poll_read(&mut Context::from_waker(&woken.clone().into()), &mut ReadBuf::new(&mut space));
        assert!(pending.is_pending());
        answer(&state);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_client_that_leaves_while_it_is_parked_is_noticed() {
    let (mut stream, _) = parked(b"abc");
    stream.io.ends = true;
    assert_eq!(read_all(&mut stream, 4096), (Vec::new(), End::Closed));
}

#[test]
fn no_more_than_a_bound_is_kept_while_parked_and_none_of_it_is_lost() {
    let (mut stream, state) = parked(b"");
    let flood = vec![b'x'; 50_000];
    stream.io.reads.push_back(flood.clone());
    assert_eq!(read_all(&mut stream, 4096), (Vec::new(), End::Pending));
    assert_eq!((stream.held.bytes.len(), stream.io.reads[0].len()), (16 * 1024, 50_000 - 16 * 1024));
    assert!(state.tunnel());
    assert_eq!(read_all(&mut stream, 4096), (flood, End::Pending));
}

// --- Writing

/// A guarded stream whose socket takes as many bytes as it is told, and what it took.
struct Writer {
    stream: Guarded<Scripted>,
    state: Arc<GuardState>,
    accepts: Rc<RefCell<VecDeque<usize>>>,
    written: Rc<RefCell<Vec<u8>>>,
}

impl Writer {
    fn new() -> Self {
        let scripted = Scripted::reading(&[]);
        let (accepts, written) = (Rc::clone(&scripted.accepts), Rc::clone(&scripted.written));
        let (stream, state) = Guarded::new(scripted, &LIMITS);
        Self { stream, state, accepts, written }
    }

    /// Offers bytes as hyper does, again and again until the socket takes no more. The rest is returned.
    fn offer<'b>(&mut self, mut bytes: &'b [u8], accepts: &[usize], vectored: bool) -> &'b [u8] {
        *self.accepts.borrow_mut() = accepts.iter().copied().collect();
        let cx = &mut Context::from_waker(Waker::noop());
        while !bytes.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let (first, second) = bytes.split_at(bytes.len() / 2);
            let slices = [io::IoSlice::new(first), io::IoSlice::new(second)];
            match if vectored { stream.poll_write_vectored(cx, &slices) } else { stream.poll_write(cx, bytes) } {
                Poll::Ready(written) => bytes = &bytes[written.expect("written")..],
                Poll::Pending => break,
            }
        }
        bytes
    }

    fn flush(&mut self, accepts: &[usize]) -> bool {
        *self.accepts.borrow_mut() = accepts.iter().copied().collect();
        Pin::new(&mut self.stream).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[track_caller]
    fn wrote(&self, expected: &str) {
        assert_eq!(String::from_utf8_lossy(&self.written.borrow()), expected);
    }
}

#[test]
fn an_interim_reply_goes_out_with_the_next_flush() {
    let mut writer = Writer::new();
    writer.state.interim(b"<one>");
    writer.state.interim(b"<two>");
    assert!(!writer.flush(&[3]));
    writer.wrote("<on");
    assert!(writer.flush(&[3, 99]));
    writer.wrote("<one><two>");
    assert!(writer.flush(&[]));
}

#[test]
fn an_interim_reply_precedes_the_next_bytes_of_hyper() {
    for vectored in [false, true] {
        let mut writer = Writer::new();
        writer.state.interim(b"<interim>");
        assert_eq!(writer.offer(b"reply", &[4], vectored), b"reply");
        writer.wrote("<int");
        assert_eq!(writer.offer(b"reply", &[5, 2, 1, 99, 99], vectored), b"");
        writer.wrote("<interim>reply");
    }
}

#[test]
fn an_interim_reply_waits_for_the_rest_of_the_reply_before() {
    for vectored in [false, true] {
        let mut writer = Writer::new();
        assert_eq!(writer.offer(b"first reply;", &[3], vectored), b"st reply;");
        writer.state.interim(b"<interim>");
        // hyper has put the second reply behind the rest of the first.
        let rest = writer.offer(b"st reply;second", &[2, 4], vectored);
        writer.wrote("first rep");
        assert_eq!(writer.offer(rest, &[99; 9], vectored), b"");
        writer.wrote("first reply;<interim>second");
    }
}

#[test]
fn vectored_writing_is_passed_on() {
    assert!(!AsyncWrite::is_write_vectored(&Writer::new().stream));
    let (guarded, _) = Guarded::new(tokio::io::duplex(1).0, &LIMITS);
    assert!(AsyncWrite::is_write_vectored(&guarded));
}

fn shut_down(stream: &mut Guarded<Scripted>) -> bool {
    Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn what_a_refused_client_still_sends_is_read_for_nothing_until_it_ends() {
    let (mut stream, state) = Guarded::new(Scripted::reading(&[b"GET / HTTP/1.1\r\n\r\n", b"more"]), &LIMITS);
    read_all(&mut stream, 4096);
    assert!(state.take_verdict().is_some() && !shut_down(&mut stream));
    assert!(stream.io.reads.is_empty() && state.phase() == Phase::Refused);
    stream.io.ends = true;
    assert!(shut_down(&mut stream));
}

#[test]
fn what_a_refused_client_still_sends_is_read_for_nothing_up_to_a_bound() {
    let (mut stream, _) = Guarded::new(Scripted::reading(&[b"GET / HTTP/1.1\r\n\r\n", &vec![b'x'; 2_000_000]]), &LIMITS);
    read_all(&mut stream, 4096);
    assert!(shut_down(&mut stream));
    assert_eq!(stream.io.reads[0].len(), 2_000_000 - 1024 * 1024);
}

#[test]
fn a_stream_lingers_behind_half_a_body_and_not_between_messages() {
    let half = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    for (bytes, lingers) in [(&half[..], true), (GET, false), (b"", false), (UPGRADE, false)] {
        let (mut stream, state) = Guarded::new(Scripted::reading(&[bytes]), &LIMITS);
        read_all(&mut stream, 4096);
        assert_eq!(shut_down(&mut stream), !lingers);
        assert_eq!(state.phase() == Phase::Refused, lingers);
    }
}

// --- With hyper

/// What the service of a connection saw of one request.
#[derive(Debug, PartialEq)]
struct Seen {
    verdict: Option<V>,
    method: Method,
    target: String,
    fields: usize,
    body: Result<Vec<u8>, Option<BodyViolation>>,
}

async fn bounded<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("done in time")
}

async fn see(state: &GuardState, request: Request<Incoming>) -> Seen {
    let verdict = state.take_verdict().map(|refused| refused.what);
    state.no_tunnel();
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(|error| BodyViolation::of(&error));
    Seen { verdict, method: head.method, target: head.uri.to_string(), fields: head.headers.len(), body }
}

/// Sends bytes, piece by piece, to hyper behind a guard. Ends when hyper has closed the connection or `requests` were answered.
async fn serve(pieces: &[&[u8]], limits: &GuardLimits, requests: usize) -> (Vec<Seen>, Vec<u8>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (guarded, state) = Guarded::new(server, limits);
    let seen = RefCell::new(Vec::new());
    let service = service_fn(async |request| {
        let one = see(&state, request).await;
        seen.borrow_mut().push(one);
        let reply = Response::new(Full::new(Bytes::from_static(b"reply")));
        Ok::<_, Infallible>(if seen.borrow().len() >= requests { closing(reply) } else { reply })
    });
    let mut builder = http1::Builder::new();
    limits.widen(&mut builder);
    let connection = builder.serve_connection(TokioIo::new(guarded), service);
    let replies = async move {
        let mut client: DuplexStream = client;
        for piece in pieces {
            // hyper may have closed already: then nobody wants the rest.
            if client.write_all(piece).await.is_err() {
                break;
            }
        }
        let mut replies = Vec::new();
        client.read_to_end(&mut replies).await.expect("read the replies");
        replies
    };
    let (_, replies) = bounded(async { tokio::join!(connection, replies) }).await;
    (seen.into_inner(), replies)
}

fn closing(mut reply: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    reply.headers_mut().insert("connection", "close".parse().expect("a value"));
    reply
}

#[tokio::test]
async fn the_service_sees_each_head_that_passes_and_a_verdict_for_each_that_does_not() {
    for (head, violation) in HEADS {
        let shown = head.escape_ascii().to_string();
        let has_body = violation.is_none() && shown.to_ascii_lowercase().contains("transfer-encoding: ");
        let body: &[u8] = if has_body { b"0\r\n\r\n" } else { b"" };
        let (seen, reply) = serve(&[head, body, &vec![b'x'; 2000]], &LIMITS, 1).await;
        assert_eq!(seen.len(), 1, "{shown}");
        assert_eq!(seen[0].verdict, *violation, "{shown}");
        assert!(reply.starts_with(b"HTTP/1.1 200") || reply.starts_with(b"HTTP/1.0 200"), "{shown}");
        if violation.is_none() {
            let target = head.split(|byte| *byte == b' ').nth(1).expect("a target");
            // hyper adds the path that a whole URI may lack.
            assert_eq!(seen[0].target.trim_end_matches('/').as_bytes(), target.strip_suffix(b"/").unwrap_or(target), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_reply_to_a_refused_head_arrives_and_the_connection_ends() {
    let (seen, replies) = serve(&[GET, b"GET / HTTP/1.1\nHost: a\n\n", GET], &LIMITS, 9).await;
    let verdicts: Vec<_> = seen.iter().map(|seen| seen.verdict).collect();
    assert_eq!(verdicts, [None, Some(V::LineEnd)]);
    let replies = String::from_utf8(replies).expect("ASCII");
    assert_eq!(replies.matches("HTTP/1.1 200 OK\r\n").count(), 2);
    assert!(replies.to_ascii_lowercase().contains("connection: close"));

    let (seen, replies) = serve(&[b"HEAD / HTTP/1.1\r\n\r\n"], &LIMITS, 9).await;
    assert_eq!((seen[0].verdict, &seen[0].method), (Some(V::HostMissing), &Method::HEAD));
    assert!(replies.ends_with(b"\r\n\r\n"));
}

#[tokio::test]
async fn a_bad_chunk_is_told_apart_from_a_client_that_went_away() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for (rest, violation) in [(&b"4 \r\n"[..], BodyViolation::ChunkSize), (b"3e8\r\n", BodyViolation::TooLarge)] {
        let (seen, reply) = serve(&[head, rest], &LIMITS, 1).await;
        assert_eq!(seen[0].body, Err(Some(violation)));
        assert!(reply.starts_with(b"HTTP/1.1 200"));
    }
    let (client, server) = tokio::io::duplex(1024);
    let (guarded, state) = Guarded::new(server, &LIMITS);
    let body = RefCell::new(None);
    let service = service_fn(async |request| {
        *body.borrow_mut() = Some(see(&state, request).await.body);
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(guarded), service);
    let gone = async move {
        let mut client: DuplexStream = client;
        client.write_all(head).await.expect("sent");
    };
    let _ = bounded(async { tokio::join!(connection, gone) }).await;
    assert_eq!(body.into_inner(), Some(Err(None)));
}

#[tokio::test]
async fn hyper_carries_all_that_the_guard_lets_pass_with_every_limit_off() {
    let off = GuardLimits::default();
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(65_533));
    let large_head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2_000_000));
    let many_fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(16_383));
    let long_name = format!("GET / HTTP/1.1\r\nHost: a\r\n{}: b\r\n\r\n", "x".repeat(65_535));
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long_extension = format!("{chunked}0;{}\r\n\r\n", "x".repeat(16_382));
    let long_trailer = format!("{chunked}0\r\na: {}\r\n\r\n", "x".repeat(16_376));
    let many_trailers = format!("{chunked}0\r\n{}\r\n", "a: b\r\n".repeat(100));
    for bytes in [long_target, large_head, many_fields, long_name, long_extension, long_trailer, many_trailers] {
        let (seen, reply) = serve(&[bytes.as_bytes()], &off, 1).await;
        assert_eq!((seen.len(), seen[0].verdict), (1, None), "{}", &bytes[..80]);
        assert!(seen[0].body.is_ok() && reply.starts_with(b"HTTP/1.1 200"), "{}", &bytes[..80]);
    }
}

#[tokio::test]
async fn the_guard_refuses_what_hyper_cannot_carry_with_every_limit_off() {
    let off = GuardLimits::default();
    let field = "a: b\r\n";
    for (bytes, violation) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(65_534)), V::UriTooLong),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", field.repeat(16_384)), V::TooManyFields),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}: b\r\n\r\n", "x".repeat(65_536)), V::HeadTooLong),
    ] {
        assert_eq!(serve(&[bytes.as_bytes()], &off, 1).await.0[0].verdict, Some(violation));
    }
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0";
    for (rest, violation) in [
        (format!(";{}\r\n\r\n", "x".repeat(16_383)), BodyViolation::ChunkExtension),
        (format!("\r\na: {}\r\n\r\n", "x".repeat(16_377)), BodyViolation::Trailer(V::HeadTooLong)),
        (format!("\r\n{}\r\n", field.repeat(101)), BodyViolation::Trailer(V::TooManyFields)),
    ] {
        let (seen, _) = serve(&[chunked.as_bytes(), rest.as_bytes()], &off, 1).await;
        assert_eq!(seen[0].body, Err(Some(violation)));
    }
}

#[tokio::test]
async fn an_upgrade_through_hyper_hands_over_what_the_client_sent_too_early() {
    let (mut client, server) = tokio::io::duplex(1024);
    let (guarded, state) = Guarded::new(server, &LIMITS);
    let service = service_fn(async |_: Request<Incoming>| {
        assert_eq!(state.take_verdict(), None);
        // The upstream takes a moment; the client's early bytes must not be read as a request meanwhile.
        tokio::task::yield_now().await;
        assert!(state.tunnel());
        let mut reply = Response::new(Empty::<Bytes>::new());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        Ok::<_, Infallible>(reply)
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(guarded), service);
    client.write_all(&[UPGRADE, b"early"].concat()).await.expect("sent");
    bounded(&mut connection).await.expect("upgraded");

    let parts = connection.into_parts();
    let mut tunnel = parts.io.into_inner();
    client.write_all(b"late\n\n").await.expect("sent");
    let mut came = parts.read_buf.to_vec();
    while came.len() < 11 {
        bounded(tunnel.read_buf(&mut came)).await.expect("read");
    }
    assert_eq!(came, b"earlylate\n\n");
    tunnel.write_all(b"back").await.expect("written");
    drop(tunnel);
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.expect("read");
    assert!(reply.starts_with("HTTP/1.1 101 ") && reply.ends_with("\r\n\r\nback"), "{reply}");
}

#[tokio::test]
async fn an_upgrade_can_also_be_awaited_by_a_task_of_its_own() {
    let (mut client, server) = tokio::io::duplex(1024);
    let (guarded, state) = Guarded::new(server, &LIMITS);
    let service = service_fn(async |request: Request<Incoming>| {
        assert_eq!((state.take_verdict(), state.tunnel()), (None, true));
        tokio::spawn(async move {
            let mut tunnel = TokioIo::new(hyper::upgrade::on(request).await.expect("upgraded"));
            let mut came = vec![0; 9];
            tunnel.read_exact(&mut came).await.expect("read");
            tunnel.write_all(&came).await.expect("written");
        });
        let mut reply = Response::new(Empty::<Bytes>::new());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        Ok::<_, Infallible>(reply)
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(guarded), service).with_upgrades();
    client.write_all(&[UPGRADE, b"early"].concat()).await.expect("sent");
    bounded(connection).await.expect("upgraded");
    client.write_all(b"late").await.expect("sent");
    let mut reply = String::new();
    bounded(client.read_to_string(&mut reply)).await.expect("read");
    assert!(reply.starts_with("HTTP/1.1 101 ") && reply.ends_with("\r\n\r\nearlylate"), "{reply}");
}

#[tokio::test]
async fn an_interim_reply_is_seen_before_the_service_has_replied() {
    let (mut client, server) = tokio::io::duplex(1024);
    let (guarded, state) = Guarded::new(server, &LIMITS);
    let (go_on, mut wait) = tokio::sync::mpsc::channel::<()>(1);
    let wait = RefCell::new(Some(&mut wait));
    let service = service_fn(async |_: Request<Incoming>| {
        assert_eq!(state.take_verdict(), None);
        state.interim(b"HTTP/1.1 103 Early Hints\r\n\r\n");
        let wait = wait.borrow_mut().take().expect("one request");
        wait.recv().await;
        Ok::<_, Infallible>(closing(Response::new(Full::new(Bytes::new()))))
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(guarded), service);
    let reply = async {
        client.write_all(GET).await.expect("sent");
        let mut interim = vec![0; 28];
        client.read_exact(&mut interim).await.expect("the interim reply");
        assert_eq!(interim, b"HTTP/1.1 103 Early Hints\r\n\r\n");
        go_on.send(()).await.expect("sent");
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.expect("the reply");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"));
    };
    let (done, ()) = bounded(async { tokio::join!(connection, reply) }).await;
    done.expect("served");
}

// --- Any bytes

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn in_pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for cut in cuts {
        let (piece, more) = rest.split_at(*cut.min(&rest.len()));
        pieces.push(piece.to_vec());
        rest = more;
    }
    pieces.push(rest.to_vec());
    pieces
}

/// Heads that are right, or nearly.
fn head() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![3 => "GET|POST|HEAD|PUT|CONNECT|OPTIONS", 1 => "[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,20}"];
    let target = prop_oneof![
        3 => "/[!-~]{0,20}", 1 => "[!-~]{1,20}", 1 => "https?://[!-~]{0,20}", 1 => Just("*".to_owned()), 1 => "[a-z.]{1,9}:[0-9]{1,6}",
    ];
    let name = prop_oneof![
        4 => "[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,70}",
        1 => "host|Content-Length|transfer-encoding|connection|expect|upgrade|content_length|te|content-type",
    ];
    let value = prop_oneof![
        4 => vec(prop_oneof![8 => 0x20u8..0x7f, 1 => 0x80u8..=0xff, 1 => Just(b'\t')], 0..40),
        1 => "chunked|0|12|close|keep-alive|100-continue|websocket|application/grpc".prop_map(String::into_bytes),
    ];
    let version = prop_oneof![8 => Just("HTTP/1.1"), 2 => Just("HTTP/1.0"), 1 => Just("HTTP/2.0")];
    (method, target, version, vec((name, value), 0..8)).prop_map(|(method, target, version, fields)| {
        let mut head = format!("{method} {target} {version}\r\nHost: a\r\n").into_bytes();
        for (name, value) in fields {
            head.extend([name.as_bytes(), b": ", &value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        head
    })
}

/// A message that is right, and its body.
fn message() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let plain = vec(any::<u8>(), 0..40).prop_map(|body| {
        let head = format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        ([head.as_bytes(), &body].concat(), body)
    });
    let chunk = (vec(any::<u8>(), 1..40), "(;[a-z]{1,5}(=([a-z]{1,5}|\"[ a-z;\t]{0,5}\"))?){0,2}", "0{0,3}");
    let chunked = (vec(chunk, 0..4), "([a-z]{1,3}: ?[a-z ]{0,9}\r\n){0,3}").prop_map(|(chunks, trailers)| {
        let mut bytes = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let mut body = Vec::new();
        for (data, extensions, zeros) in chunks {
            bytes.extend(format!("{zeros}{:x}{extensions}\r\n", data.len()).bytes());
            bytes.extend([&data[..], b"\r\n"].concat());
            body.extend(data);
        }
        bytes.extend(format!("0\r\n{trailers}\r\n").bytes());
        (bytes, body)
    });
    let none = Just((b"\r\nGET /n HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n".to_vec(), Vec::new()));
    prop_oneof![plain, chunked, none]
}

proptest! {
    #[test]
    fn no_bytes_make_the_guard_panic_or_depend_on_where_they_are_cut(
        bytes in prop_oneof![vec(any::<u8>(), 0..200), head(), "[GPOST /H1.\r\n:a0-9]{0,80}".prop_map(String::into_bytes)],
        cuts in vec(0usize..40, 0..6),
        space in 1usize..100,
    ) {
        let pieces = in_pieces(&bytes, &cuts);
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(pass(&pieces, space), pass(&[&bytes], 4096));
    }

    #[test]
    fn hyper_never_refuses_a_head_that_the_guard_let_pass(mut head in head(), wrong in proptest::option::of((any::<prop::sample::Index>(), any::<u8>()))) {
        if let Some((place, byte)) = wrong {
            let place = place.index(head.len());
            head[place] = byte;
        }
        let own = pass(&[&head], 4096);
        prop_assume!(own.heads == 1);
        // A body that is never sent would be waited for.
        head.extend([b'0', b'\r', b'\n', b'\r', b'\n'].iter().cycle().take(1200));
        let (seen, reply) = runtime().block_on(serve(&[&head], &LIMITS, 1));
        prop_assert_eq!(seen.len(), 1);
        prop_assert_eq!(seen[0].verdict, own.verdict.map(|refused| refused.what));
        prop_assert!(reply.starts_with(b"HTTP/1.1 200 OK") || reply.starts_with(b"HTTP/1.0 200 OK"));
    }

    #[test]
    fn hyper_and_the_guard_see_the_same_messages(messages in vec(message(), 1..5), cuts in vec(1usize..60, 0..8)) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let pieces = in_pieces(&bytes, &cuts);
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let (seen, replies) = runtime().block_on(serve(&pieces, &LIMITS, messages.len()));
        let bodies: Vec<_> = seen.into_iter().map(|seen| (seen.verdict, seen.body)).collect();
        let sent: Vec<_> = messages.into_iter().map(|(_, body)| (None, Ok(body))).collect();
        prop_assert_eq!(bodies, sent);
        prop_assert!(replies.ends_with(b"reply"));
    }
}
