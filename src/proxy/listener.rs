//! Listening sockets and the connections that come by them: bounded before anything is read, timed from their first byte.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::http1_guard::{GuardLimits, GuardState, Guarded, Phase};
use super::pace::{Activity, Pace};
use super::proxy_protocol::{self, Source};
use super::worker::{LocalExecutor, Slots, Worker};
use crate::access::address::ClientAddress;
use crate::config::{self, Limits};
use crate::drain::Drain;
use crate::tls::ListenerCertificates;

/// How many connections may wait in the kernel for a worker to accept them.
const BACKLOG: i32 = 4096;
/// After a failed accept, descriptors being exhausted for one: trying at once would fail again.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);
/// Between two looks at the first bytes of a connection that sent fewer than three.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long these looks may go on if heads may take any time.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// What an HTTP/2 connection announces as its largest head, as a multiple of the limit: between the two the gateway refuses in
/// its own words, beyond the codec does.
const HTTP2_HEAD_ROOM: u64 = 4;

/// A listener's sockets, one for each worker, all bound.
#[derive(Debug)]
pub struct Bound {
    pub address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
    pub tls: Option<ListenerCertificates>,
    proxy_protocol: bool,
}

/// One worker's share of a listener.
#[derive(Debug)]
pub struct Listening {
    socket: std::net::TcpListener,
    tls: Option<ListenerCertificates>,
    proxy_protocol: bool,
    slots: Slots,
    sources: Sources,
}

impl Bound {
    /// Binds a listener for so many workers.
    ///
    /// # Errors
    /// If the address is not this machine's, or anybody holds it already.
    pub fn bind(config: &config::Listener, tls: Option<ListenerCertificates>, workers: usize) -> io::Result<Self> {
        let first = if config.address.port() == 0 {
            bind(config.address, true)?
        } else {
            // Sharing the port, as workers do, would also share it with a stranger who does: so it is first tried alone.
            drop(bind(config.address, false)?);
            bind(config.address, true)?
        };
        let address = first.local_addr()?;
        let others = (1..workers).map(|_| bind(address, true));
        let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<_>>()?;
        Ok(Self { address, sockets, tls, proxy_protocol: config.proxy_protocol })
    }

    /// Shares for the workers, in any order.
    pub fn shares(self, slots: &Slots, sources: &Sources) -> Vec<Listening> {
        let Self { sockets, tls, proxy_protocol, .. } = self;
        let share = |socket| Listening { socket, tls: tls.clone(), proxy_protocol, slots: slots.clone(), sources: sources.clone() };
        sockets.into_iter().map(share).collect()
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Or a restart would have to wait until the old connections are forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How many connections there are from each source, over all workers.
#[derive(Clone, Default, Debug)]
pub struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of a source, counted until it is dropped.
#[derive(Debug)]
struct Sourced(Sources, IpAddr);

impl Sources {
    /// None if the source has `limit` connections already.
    fn count(&self, source: IpAddr, limit: usize) -> Option<Sourced> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Sourced(self.clone(), source))
    }
}

impl Drop for Sourced {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

/// One client's connection, as its requests see it.
pub struct Connection {
    pub worker: Rc<Worker>,
    /// Who is at the other end, as far as the socket or a PROXY header says.
    pub peer: ClientAddress,
    /// The same as the value of a field, if it is known.
    pub peer_text: Option<HeaderValue>,
    /// `http` or `https`: what the listener saw.
    pub scheme: &'static str,
    /// The state that an HTTP/1 connection shares with the guard before it.
    pub guard: Option<Arc<GuardState>>,
    exchanges: Cell<usize>,
    /// All exchanges so far.
    begun: Cell<u64>,
    /// Held for its end.
    _open: Open,
}

impl Connection {
    pub(super) fn begin_exchange(&self) {
        self.exchanges.set(self.exchanges.get() + 1);
        self.begun.set(self.begun.get() + 1);
    }

    pub(super) fn end_exchange(&self) {
        self.exchanges.set(self.exchanges.get().saturating_sub(1));
    }

    fn is_busy(&self) -> bool {
        self.exchanges.get() > 0
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// What a connection holds of shared bounds and counts; all given back when it is dropped.
type Open = (Option<tokio::sync::OwnedSemaphorePermit>, Option<Sourced>, crate::telemetry::metrics::ConnectionGauge, mpsc::Sender<()>);

/// What accepting takes.
pub(super) struct Accepting {
    tls: Option<TlsAcceptor>,
    proxy_protocol: bool,
    slots: Slots,
    sources: Sources,
    worker: Rc<Worker>,
    drain: Drain,
    open: mpsc::Sender<()>,
}

impl Accepting {
    /// Beside the socket, which ends with [`accept`] and not with the last connection.
    pub(super) fn new(
        listening: Listening,
        worker: Rc<Worker>,
        drain: Drain,
        open: mpsc::Sender<()>,
    ) -> io::Result<(Rc<Self>, TcpListener)> {
        let Listening { socket, tls, proxy_protocol, slots, sources } = listening;
        let listener = TcpListener::from_std(socket)?;
        let tls = tls.map(|tls| TlsAcceptor::from(tls.config));
        Ok((Rc::new(Self { tls, proxy_protocol, slots, sources, worker, drain, open }), listener))
    }
}

/// Accepts connections until it is time to finish. Then the socket is closed, so that whoever connects is told at once.
pub(super) async fn accept(accepting: Rc<Accepting>, listener: TcpListener) {
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Not before the connection: the slots that idle workers hold would be missing elsewhere. So one connection of
                    // each worker waits here, and the others in the kernel's queue.
                    let slot = match &accepting.slots {
                        // The semaphore is never closed.
                        Some(slots) => slots.clone().acquire_owned().await.ok(),
                        None => None,
                    };
                    tokio::task::spawn_local(serve(Rc::clone(&accepting), stream, peer, slot));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = accepting.drain.told() => {}
    }
}

async fn serve(accepting: Rc<Accepting>, mut stream: TcpStream, peer: SocketAddr, slot: Option<tokio::sync::OwnedSemaphorePermit>) {
    let worker = &accepting.worker;
    let socket = ClientAddress::of(peer.ip());
    let Some(sourced) = accepting.count_source(socket) else { return };
    // Without it small replies wait for acknowledgements; a socket that refuses it is gone already.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let open = (slot, sourced, worker.shared_metrics().connection(), accepting.open.clone());
    let peer = if accepting.proxy_protocol {
        let Some(peer) = accepting.proxied(&mut stream, socket).await else { return };
        peer
    } else {
        socket
    };
    let peer_text = peer.known().and_then(|address| HeaderValue::try_from(address.to_string()).ok());
    let connection = |scheme| Connection {
        worker: Rc::clone(worker),
        peer,
        peer_text,
        scheme,
        guard: None,
        exchanges: Cell::new(0),
        begun: Cell::new(0),
        _open: open,
    };
    match &accepting.tls {
        None => match first_bytes(&stream, &worker.limits, &accepting.drain).await {
            Some(Version::Http1) => accepting.http1(stream, connection("http")).await,
            Some(Version::Http2) => accepting.http2(stream, connection("http")).await,
            None => {}
        },
        Some(tls) => {
            let Some(Ok(stream)) = within(worker.limits.tls_handshake_timeout, tls.accept(stream)).await else { return };
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => accepting.http2(stream, connection("https")).await,
                _ => accepting.http1(stream, connection("https")).await,
            }
        }
    }
}

async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

enum Version {
    Http1,
    Http2,
}

/// Which protocol a plain connection speaks. The preface of HTTP/2 begins with what no method of HTTP/1 begins with
/// (RFC 9113, section 3.4); nothing is taken from the stream. None if no byte comes while it may, or there is no time for one.
async fn first_bytes(stream: &TcpStream, limits: &Limits, drain: &Drain) -> Option<Version> {
    tokio::select! {
        biased;
        readable = within(limits.idle_timeout, stream.readable()) => readable?.ok()?,
        () = drain.told() => return None,
    }
    let look = async {
        let mut first = [0; 3];
        loop {
            match stream.peek(&mut first).await {
                Ok(0) | Err(_) => return None,
                Ok(3) if first == *b"PRI" => return Some(Version::Http2),
                Ok(seen) if seen < 3 && first.get(..seen) == b"PRI".get(..seen) => {
                    // Looking again at once would find the same: a peek leaves the socket readable.
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(_) => return Some(Version::Http1),
            }
        }
    };
    // Bounded even where heads are not: a client that ends after one of the three would be looked at for ever.
    timeout(limits.head_timeout.unwrap_or(FIRST_BYTES), look).await.ok().flatten()
}

impl Accepting {
    /// Counts a connection for its source; None if that has too many.
    fn count_source(&self, source: ClientAddress) -> Option<Option<Sourced>> {
        match (self.worker.limits.connections_per_source, source) {
            (Some(limit), ClientAddress::Known(address)) if !self.worker.gate.addresses.trusts(source) => {
                self.sources.count(address, limit).map(Some)
            }
            _ => Some(None),
        }
    }

    /// Who a PROXY header says is the peer; None if there is none, or it is from somebody who is not believed.
    async fn proxied(&self, stream: &mut TcpStream, socket: ClientAddress) -> Option<ClientAddress> {
        if !self.worker.gate.addresses.trusts(socket) {
            return None;
        }
        let header = within(self.worker.limits.head_timeout, proxy_protocol::read_header(stream)).await?.ok()?;
        Some(match header.source {
            Source::Address(address) => ClientAddress::of(address.ip()),
            Source::Local => socket,
            Source::UnixOrUnknown => ClientAddress::Unknown,
        })
    }

    async fn http1(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, mut connection: Connection) {
        let limits = &self.worker.limits;
        let guard_limits = GuardLimits {
            head_bytes: limits.head_bytes,
            head_fields: limits.head_fields,
            uri_bytes: limits.uri_bytes,
            body_bytes: limits.body_bytes,
        };
        let (guarded, guard) = Guarded::new(stream, &guard_limits);
        connection.guard = Some(Arc::clone(&guard));
        let connection = Rc::new(connection);
        let service = {
            let connection = Rc::clone(&connection);
            service_fn(move |request| super::handle(&connection, request))
        };
        let mut server = http1::Builder::new();
        guard_limits.widen(&mut server);
        let served = std::pin::pin!(server.serve_connection(TokioIo::new(guarded), service).with_upgrades());
        let activity = || {
            let doing = match guard.phase() {
                // The next head may have begun already; the patience with it begins when the reply before it is out.
                _ if connection.is_busy() => Activity::Busy,
                Phase::Refused => Activity::Ending,
                Phase::Head => Activity::Head,
                Phase::Idle => Activity::Idle,
                Phase::Body | Phase::Parked | Phase::Tunnel => Activity::Busy,
            };
            (doing, connection.begun.get() + guard.heads())
        };
        self.run(served, activity, http1::UpgradeableConnection::graceful_shutdown).await;
    }

    async fn http2(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, connection: Connection) {
        let limits = &self.worker.limits;
        let connection = Rc::new(connection);
        let service = {
            let connection = Rc::clone(&connection);
            service_fn(move |request| super::handle(&connection, request))
        };
        let mut server = http2::Builder::new(LocalExecutor);
        server.timer(TokioTimer::new()).max_concurrent_streams(limits.http2_streams).enable_connect_protocol();
        let largest = limits.head_bytes.map_or(u64::from(u32::MAX), |limit| limit.saturating_mul(HTTP2_HEAD_ROOM));
        server.max_header_list_size(u32::try_from(largest).unwrap_or(u32::MAX));
        let served = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
        let activity = || (if connection.is_busy() { Activity::Busy } else { Activity::Idle }, connection.begun.get());
        self.run(served, activity, http2::Connection::graceful_shutdown).await;
    }

    /// Runs a connection to its end: its own, that of its patience, or the one that everything comes to.
    async fn run<C: Future>(&self, mut served: Pin<&mut C>, activity: impl Fn() -> (Activity, u64), finish: impl Fn(Pin<&mut C>)) {
        let limits = &self.worker.limits;
        let mut pace = Pace::new(limits.idle_timeout, limits.head_timeout, self.worker.clock.clone());
        let mut told = std::pin::pin!(self.drain.told());
        let mut finishing = false;
        std::future::poll_fn(|context| {
            loop {
                if served.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                let (doing, turn) = activity();
                // A head that has begun is a request that was accepted: it is finished, too.
                if !finishing && doing != Activity::Head && told.as_mut().poll(context).is_ready() {
                    finishing = true;
                    finish(served.as_mut());
                    continue;
                }
                // Who was told to finish and has nothing to do may need the client for it, who may be gone.
                let doing = if finishing && doing == Activity::Idle { Activity::Ending } else { doing };
                match pace.poll(doing, turn, context) {
                    Poll::Ready(Activity::Idle) => {
                        finishing = true;
                        finish(served.as_mut());
                    }
                    over => return over.map(drop),
                }
            }
        })
        .await;
    }
}
