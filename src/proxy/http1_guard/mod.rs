//! The guard before hyper's HTTP/1 server: it reads what the client sends first, and lets pass only what cannot be misread.
//!
//! hyper is lenient where origins differ (bare LF, white space, two framings), and what it does refuse it answers by itself,
//! with an empty body that no log line and no metric knows of. The contract wants every refusal told alike. So a
//! [`Guarded`] stream stands between the socket and hyper, follows the framing of all messages, and checks every head
//! before its first byte goes on. In place of a bad head hyper gets a canned one, and the service, asking
//! [`GuardState::take_verdict`] first of all, answers it with the refusal. hyper's own refusals and bounds are never what a
//! client meets. A malformed body makes the body's reading fail with a [`BodyViolation`].
//!
//! In the common case a head comes whole: it is read into hyper's buffer and checked there, without a copy or allocation.
//! Only what may not go on yet is kept aside: a piece of a head, and the bytes behind a request for an upgrade.
//!
//! Not here: clocks (who times a head or an end asks [`GuardState::phase`]), replies, and what targets, hosts and credentials
//! mean.

mod body;
mod framing;
mod head;
mod state;
mod violation;

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use hyper::server::conn::http1;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize;

use framing::Framing;
use state::Interim;

pub use state::{GuardState, Phase, Refused};
pub use violation::{BodyViolation, Violation, ViolationKind};

/// The bounds of `[limits]` that a guard holds clients to. `None`: off, which leaves only what hyper and its types can
/// carry: heads of 16 MiB, 16 384 fields, targets of 65 534 bytes, any body. A larger number does not lift these either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardLimits {
    /// Bytes of a head, from the first of its request line to the last of its empty line.
    pub head_bytes: Option<u64>,
    /// Fields of a head.
    pub head_fields: Option<usize>,
    /// Bytes of a target, its query included.
    pub uri_bytes: Option<u64>,
    /// Bytes of a body without its framing. Not for `application/grpc`, and not for tunnels.
    pub body_bytes: Option<u64>,
}

/// The limits with hyper's own in the place of those that are off.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    head_bytes: usize,
    head_fields: usize,
    uri_bytes: usize,
    body_bytes: u64,
}

const MOST_HEAD_BYTES: usize = 16 * 1024 * 1024;
const MOST_HEAD_FIELDS: usize = 16 * 1024;
const MOST_URI_BYTES: usize = 65_534;
/// Of a client that was refused, after the reply.
const MOST_READ_FOR_NOTHING: usize = 1024 * 1024;
/// Where hyper stops by default.
const HYPER_BUFFER: usize = 8192 + 4096 * 100;
const HYPER_FIELDS: usize = 100;

impl GuardLimits {
    /// Sets the bounds of hyper's server so that the guard's are always met first. The rest stays as it is by default:
    /// `half_close`, `pipeline_flush`, `ignore_invalid_headers` and the tolerance for spaces off, no `header_read_timeout`.
    pub fn widen(&self, server: &mut http1::Builder) {
        let bounds = self.bounds();
        if bounds.head_bytes > HYPER_BUFFER {
            server.max_buf_size(bounds.head_bytes);
        }
        // Only if it must be: hyper then allocates for each head.
        if bounds.head_fields > HYPER_FIELDS {
            server.max_headers(bounds.head_fields);
        }
    }

    fn bounds(&self) -> Bounds {
        let size =
            |limit: Option<u64>, most: usize| limit.and_then(|limit| usize::try_from(limit).ok()).map_or(most, |limit| limit.min(most));
        Bounds {
            head_bytes: size(self.head_bytes, MOST_HEAD_BYTES),
            head_fields: self.head_fields.map_or(MOST_HEAD_FIELDS, |limit| limit.min(MOST_HEAD_FIELDS)),
            uri_bytes: size(self.uri_bytes, MOST_URI_BYTES),
            body_bytes: self.body_bytes.unwrap_or(u64::MAX),
        }
    }
}

/// A client's stream, as hyper's HTTP/1 server may see it.
pub struct Guarded<T> {
    io: T,
    framing: Framing,
    held: Held,
    state: Arc<GuardState>,
    /// Whom the state wakes.
    waker: Option<Waker>,
    /// How many bytes may still be read for nothing once the stream is shut down; `None` before.
    linger: Option<usize>,
}

/// Bytes that were read and could not be delivered at once.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    delivered: usize,
    /// Up to here they may go on.
    good: usize,
}

impl<T> fmt::Debug for Guarded<T> {
    /// Without the bytes: there may be a secret in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("state", &self.state).finish_non_exhaustive()
    }
}

impl<T> Guarded<T> {
    /// Guards a stream whose next byte is the first of the first head, and the state to share with its service.
    pub fn new(io: T, limits: &GuardLimits) -> (Self, Arc<GuardState>) {
        let state = Arc::new(GuardState::default());
        let framing = Framing::new(limits.bounds(), Arc::clone(&state));
        (Self { io, framing, held: Held::default(), state: Arc::clone(&state), waker: None, linger: None }, state)
    }

    /// The stream itself. After a granted upgrade the guarded stream must be read on instead: it may still hold bytes.
    pub fn into_inner(self) -> T {
        self.io
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.framing.unparked() {
                this.held.check(&mut this.framing);
            }
            if this.deliver(out) {
                return Poll::Ready(Ok(()));
            }
            if let Some(violation) = this.framing.broken() {
                this.state.set_phase(Phase::Refused);
                return Poll::Ready(Err(violation.into()));
            }
            // An end of file would make hyper drop the reply that it is about to write.
            if this.framing.over() {
                return Poll::Pending;
            }
            let more = if this.held.is_empty() && !this.framing.parked() { this.read_in_place(cx, out) } else { this.read_aside(cx, out) };
            match more? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    this.framing.waits();
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<T: AsyncRead + Unpin> Guarded<T> {
    /// Hands over what may go on. `false` if there was nothing.
    fn deliver(&mut self, out: &mut ReadBuf<'_>) -> bool {
        if self.held.deliver(out) {
            return true;
        }
        match self.framing.canned() {
            Some(canned) if !canned.is_empty() => {
                let (now, later) = canned.split_at(canned.len().min(out.remaining()));
                out.put_slice(now);
                *canned = later;
                true
            }
            _ => false,
        }
    }

    /// Reads into hyper's buffer and takes back what may not go on. `false` at the end, and as soon as hyper has something.
    fn read_in_place(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, out))?;
        let read = out.filled().get(before..).unwrap_or_default();
        if read.is_empty() {
            return Poll::Ready(Ok(false));
        }
        let good = self.framing.check(read);
        let rest = read.get(good..).unwrap_or_default();
        if !rest.is_empty() {
            if !self.framing.over() {
                self.held.bytes.extend_from_slice(rest);
            }
            out.set_filled(before + good);
        }
        Poll::Ready(Ok(good == 0))
    }

    /// Reads by way of hyper's buffer to the bytes that are held. `false` at the end.
    fn read_aside(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if self.framing.parked() {
            self.keep_waker(cx.waker());
        }
        let room = self.framing.room(self.held.bytes.len());
        if room == 0 {
            return Poll::Pending;
        }
        let mut part = out.take(room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        if part.filled().is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.held.bytes.extend_from_slice(part.filled());
        self.held.check(&mut self.framing);
        Poll::Ready(Ok(true))
    }
}

impl Held {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn check(&mut self, framing: &mut Framing) {
        self.good += framing.check(self.bytes.get(self.good..).unwrap_or_default());
        if framing.over() {
            self.bytes.truncate(self.good);
        }
    }

    fn deliver(&mut self, out: &mut ReadBuf<'_>) -> bool {
        if self.is_empty() {
            return false;
        }
        let good = self.bytes.get(self.delivered..self.good).unwrap_or_default();
        let now = good.get(..out.remaining()).unwrap_or(good);
        out.put_slice(now);
        let some = !now.is_empty();
        self.delivered += now.len();
        if self.delivered == self.good {
            self.forget_delivered();
        }
        some
    }

    fn forget_delivered(&mut self) {
        if self.delivered < self.bytes.len() {
            self.bytes.drain(..self.delivered);
        } else {
            // A head may hold a secret, which must not outlive it. And idle connections should hold no memory.
            self.bytes.zeroize();
            self.bytes = Vec::new();
        }
        self.delivered = 0;
        self.good = 0;
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.write_in_turn(cx, bytes);
        this.note(bytes.len(), &written);
        written
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = if this.state.interim_waits() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            this.write_in_turn(cx, first.map(|slice| &**slice).unwrap_or_default())
        } else {
            Pin::new(&mut this.io).poll_write_vectored(cx, slices)
        };
        this.note(slices.iter().map(|slice| slice.len()).sum(), &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.keep_waker(cx.waker());
        if this.state.interim_waits() {
            let mut interim = this.state.interim_queue();
            // hyper flushes when it has nothing left to write: what was owed before is out.
            interim.behind = 0;
            ready!(write_interim(&mut this.io, cx, &this.state, interim))?;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Shuts the stream down. A client that was shut out in the middle of what it sends is read on for nothing until it
    /// ends, or until a bound: bytes left unread would make the kernel reset the connection and the client lose its reply.
    /// Meanwhile the phase is [`Phase::Refused`]; how long that may take is for who polls to say.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            let unfinished = this.framing.unfinished();
            this.linger = Some(if unfinished { MOST_READ_FOR_NOTHING } else { 0 });
            if unfinished {
                this.state.set_phase(Phase::Refused);
            }
        }
        this.poll_linger(cx).map(Ok)
    }
}

impl<T: AsyncRead + Unpin> Guarded<T> {
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [MaybeUninit::uninit(); 4096];
        while let Some(left) = self.linger.filter(|left| *left > 0) {
            let mut nothing = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut nothing)) {
                Ok(()) if !nothing.filled().is_empty() => self.linger = Some(left.saturating_sub(nothing.filled().len())),
                Ok(()) | Err(_) => self.linger = Some(0),
            }
        }
        Poll::Ready(())
    }
}

impl<T: AsyncWrite + Unpin> Guarded<T> {
    /// Writes bytes of hyper's, but interim replies before those that they precede.
    fn write_in_turn(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut most = bytes.len();
        if self.state.interim_waits() {
            let interim = self.state.interim_queue();
            if interim.behind > 0 {
                most = most.min(interim.behind);
            } else {
                ready!(write_interim(&mut self.io, cx, &self.state, interim))?;
            }
        }
        Pin::new(&mut self.io).poll_write(cx, bytes.get(..most).unwrap_or_default())
    }

    /// Remembers how much of what hyper offered is still to come: an interim reply that is queued now goes behind it.
    fn note(&self, offered: usize, written: &Poll<io::Result<usize>>) {
        let written = if let Poll::Ready(Ok(written)) = written { *written } else { 0 };
        self.state.set_owed(offered.saturating_sub(written));
        if self.state.interim_waits() {
            let mut interim = self.state.interim_queue();
            interim.behind = interim.behind.saturating_sub(written);
        }
    }
}

impl<T> Guarded<T> {
    /// Lets the service wake whoever polls. That is nearly always the same task, so the state's lock is taken once.
    fn keep_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            self.state.set_waker(waker);
            self.waker = Some(waker.clone());
        }
    }
}

fn write_interim<T: AsyncWrite + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    state: &GuardState,
    mut interim: MutexGuard<'_, Interim>,
) -> Poll<io::Result<()>> {
    while let Some(rest) = interim.bytes.get(interim.sent..).filter(|rest| !rest.is_empty()) {
        match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => interim.sent += written,
        }
    }
    state.interim_sent(interim);
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests;
