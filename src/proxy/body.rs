//! Bodies on their way through: counted, bounded and handed on piece by piece, each only when the other side asks for it.

use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::exchange::{BodyFault, Exchange};
use super::http1_guard::{BodyViolation, ViolationKind};
use super::upstream::Lease;

type Failure = Box<dyn Error + Send + Sync>;

/// The body of a request on its way to the upstream. Its trailers are dropped.
#[derive(Debug)]
pub struct RequestBody {
    /// None for a request that must not have one: an upgrade.
    from: Option<Incoming>,
    exchange: Rc<Exchange>,
    /// What the client declared and has not sent yet.
    missing: Option<u64>,
    /// What may still come.
    room: u64,
}

/// The request's body cannot be sent whole.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request ended before its end")]
struct CutOff;

impl RequestBody {
    /// Streams `from`, up to `limit` bytes.
    pub(super) fn new(from: Incoming, exchange: Rc<Exchange>, limit: Option<u64>) -> Self {
        let missing = from.size_hint().exact();
        exchange.set_unread(!from.is_end_stream());
        Self { from: Some(from), exchange, missing, room: limit.unwrap_or(u64::MAX) }
    }

    pub(super) fn none(exchange: Rc<Exchange>) -> Self {
        Self { from: None, exchange, missing: None, room: 0 }
    }

    fn fail(&self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.exchange.body_failed(fault);
        Poll::Ready(Some(Err(CutOff.into())))
    }

    fn take(&mut self, data: &Bytes) -> Option<BodyFault> {
        let length = data.len() as u64;
        self.exchange.sent(length);
        self.missing = self.missing.map(|missing| missing.saturating_sub(length));
        match self.room.checked_sub(length) {
            Some(room) => {
                self.room = room;
                None
            }
            None => Some(BodyFault::TooLarge),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.get_mut();
        let Some(from) = &mut this.from else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *from).poll_frame(cx));
        this.exchange.set_unread(!matches!(frame, None | Some(Err(_))) && !from.is_end_stream());
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => match this.take(&data) {
                    None => Poll::Ready(Some(Ok(Frame::data(data)))),
                    Some(fault) => this.fail(fault),
                },
                // Trailers: what a client says behind its body was not there when it was decided.
                Err(_) => Poll::Ready(None),
            },
            Some(Err(error)) => this.fail(fault_of(&error)),
            // HTTP/2 streams that were reset without an error end like whole ones.
            None if this.missing.is_some_and(|missing| missing > 0) => this.fail(BodyFault::Gone),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.from.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.from.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

fn fault_of(error: &hyper::Error) -> BodyFault {
    match BodyViolation::of(error).map(|violation| (violation, violation.kind())) {
        Some((_, ViolationKind::BodyTooLarge)) => BodyFault::TooLarge,
        Some((violation, _)) => BodyFault::Malformed(violation),
        None => BodyFault::Gone,
    }
}

/// The body of a reply.
#[derive(Debug)]
pub enum ReplyBody {
    /// One of ours.
    Own(Option<Bytes>),
    /// The upstream's.
    Forwarded(ForwardedBody),
}

/// The body of a reply on its way from the upstream. Once it was read to its end the connection that it came by is free.
#[derive(Debug)]
pub struct ForwardedBody {
    from: Incoming,
    lease: Option<Lease>,
    exchange: Rc<Exchange>,
}

impl ForwardedBody {
    pub(super) fn new(from: Incoming, lease: Lease, exchange: Rc<Exchange>) -> Self {
        let mut body = Self { from, lease: Some(lease), exchange };
        body.release_at_end();
        body
    }

    fn release_at_end(&mut self) {
        if self.from.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = match self.get_mut() {
            Self::Own(bytes) => return Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes)))),
            Self::Forwarded(body) => body,
        };
        let frame = ready!(Pin::new(&mut body.from).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                body.exchange.received(frame.data_ref().map_or(0, Bytes::len) as u64);
                // hyper does not ask again once it knows that this was the last frame.
                if frame.is_trailers() {
                    body.release();
                }
                body.release_at_end();
            }
            None => body.release(),
            // The lease is dropped with the body, and the connection with it.
            Some(Err(_)) => body.exchange.reply_cut_off(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Forwarded(body) => body.from.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Forwarded(body) => body.from.size_hint(),
        }
    }
}
