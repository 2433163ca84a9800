//! Connections to upstreams: made, used by one exchange at a time, and kept for the next one only if the last was whole.
//!
//! Each worker has its own. A connection goes back only by [`Lease::give_back`], after its reply was read to the end; a lease
//! that is dropped in any other way ends its connection. A request is tried a second time only if hyper hands it back
//! unsent, which it does as long as no byte of it was written.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::exchange::{BodyFault, Exchange};
use super::pace::Alarm;
use super::worker::LocalExecutor;
use crate::access::denial::Denial;
use crate::config::{self, Limits, UpstreamProtocol};
use crate::tls::{self, TlsError, UpstreamTls};

/// How long a connection is kept without use: less than servers commonly keep theirs.
const KEPT_IDLE: Duration = Duration::from_secs(30);
/// How many are kept for one server and worker.
const MOST_IDLE: usize = 1024;

/// Where requests go that a permit sends to one upstream.
#[derive(Debug)]
pub struct Upstream {
    name: Box<str>,
    servers: Vec<Rc<Server>>,
    /// Whose turn it is among servers with as little to do.
    turn: Cell<usize>,
    protocol: UpstreamProtocol,
    /// Sent as Host in place of the client's.
    pub(super) host: Option<HeaderValue>,
    pub(super) forward_authorization: bool,
    upgrades: Vec<String>,
    tls: Option<UpstreamTls>,
    connect_timeout: Option<Duration>,
    first_byte_timeout: Option<Duration>,
}

struct Server {
    host: Box<str>,
    port: u16,
    /// The name to verify, of a server that speaks TLS.
    tls: Option<ServerName<'static>>,
    /// Exchanges under way.
    pending: Cell<usize>,
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Option<http2::SendRequest<RequestBody>>>,
}

struct Idle {
    link: Http1Link,
    since: Instant,
}

struct Http1Link {
    sender: http1::SendRequest<RequestBody>,
    alarm: Alarm,
    /// Held for its end.
    _connection: EndOnDrop,
}

/// A connection's task; ends with whoever holds it.
struct EndOnDrop(JoinHandle<()>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Link {
    Http1(Http1Link),
    Http2(http2::SendRequest<RequestBody>),
}

/// A connection, or a share of one, for one exchange.
pub struct Lease {
    link: Link,
    pending: Pending,
    /// It has served an exchange before, so the server may be closing it this very moment.
    reused: bool,
    doubtful: bool,
}

/// Counts an exchange with a server for as long as it lasts.
struct Pending(Rc<Server>);

impl Pending {
    fn count(server: &Rc<Server>) -> Self {
        server.pending.set(server.pending.get() + 1);
        Self(Rc::clone(server))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get().saturating_sub(1));
    }
}

/// What comes of a request: the head of its reply, or an error, with the request again if no byte of it was sent.
type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

impl Upstream {
    /// # Errors
    /// If its TLS cannot be set up.
    pub fn new(config: &config::Upstream, tls: Option<UpstreamTls>, limits: &Limits) -> Result<Self, TlsError> {
        let servers = config.servers.iter().map(|server| Server::new(server, tls.as_ref()).map(Rc::new)).collect::<Result<_, _>>()?;
        Ok(Self {
            name: config.name.as_str().into(),
            servers,
            turn: Cell::new(0),
            protocol: config.protocol,
            host: config.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
            forward_authorization: config.forward_authorization,
            upgrades: config.upgrades.clone(),
            tls,
            connect_timeout: limits.upstream_connect_timeout,
            first_byte_timeout: limits.upstream_first_byte_timeout,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn speaks_http2(&self) -> bool {
        self.protocol == UpstreamProtocol::Http2
    }

    /// Whether requests reach it by TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.servers.iter().any(|server| server.tls.is_some())
    }

    /// Whether a connection may be upgraded to `protocol`: over HTTP/1.1 only, as HTTP/2 has no upgrade.
    pub(super) fn upgrades_to(&self, protocol: &str) -> bool {
        !self.speaks_http2() && self.upgrades.iter().any(|name| name.eq_ignore_ascii_case(protocol))
    }

    /// Sends a request and waits for the head of the reply.
    ///
    /// # Errors
    /// What the client is to be told. If its own body was at fault, [`Exchange::body_fault`] says so.
    pub(super) async fn send(&self, request: Request<RequestBody>, exchange: &Exchange) -> Result<(Response<Incoming>, Lease), Denial> {
        let mut lease = self.lease(true).await?;
        let reused = lease.reused;
        let unsent = match self.transmit(&mut lease, request, exchange).await? {
            Ok(response) => return Ok((response, lease)),
            Err(mut error) => error.take_message().filter(|_| reused).ok_or(Denial::UpstreamBroken)?,
        };
        drop(lease);
        // The connection was closed just as it was used again. Nothing was sent, so a second try sends nothing twice.
        Box::pin(self.send_anew(unsent, exchange)).await
    }

    async fn send_anew(&self, request: Request<RequestBody>, exchange: &Exchange) -> Result<(Response<Incoming>, Lease), Denial> {
        let mut lease = self.lease(false).await?;
        let response = self.transmit(&mut lease, request, exchange).await?.map_err(|_| Denial::UpstreamBroken)?;
        Ok((response, lease))
    }

    /// Ends connections that have been without use for too long. To be called now and then.
    pub(super) fn sweep(&self, now: Instant) {
        for server in &self.servers {
            server.idle.borrow_mut().retain(|idle| idle.is_good(now));
        }
    }

    async fn transmit(&self, lease: &mut Lease, request: Request<RequestBody>, exchange: &Exchange) -> Result<Sent, Denial> {
        match &mut lease.link {
            Link::Http1(link) => self.in_time(link.sender.try_send_request(request), &mut link.alarm, exchange).await,
            Link::Http2(sender) => {
                let sent = self.in_time(sender.try_send_request(request), &mut Alarm::default(), exchange).await;
                if sent.is_err() {
                    // It may have died without a word: who comes next gets another one.
                    lease.pending.0.http2.take();
                }
                sent
            }
        }
    }

    /// Waits for the reply, which has to begin in time, counted from the last piece of the request that was sent.
    async fn in_time(&self, reply: impl Future<Output = Sent>, alarm: &mut Alarm, exchange: &Exchange) -> Result<Sent, Denial> {
        let Some(limit) = self.first_byte_timeout else { return Ok(reply.await) };
        let mut reply = std::pin::pin!(reply);
        poll_fn(|context| {
            if let Poll::Ready(sent) = reply.as_mut().poll(context) {
                return Poll::Ready(Ok(sent));
            }
            loop {
                let due = exchange.last_sent() + limit;
                ready!(alarm.poll(due, context));
                if Instant::now() >= due {
                    return Poll::Ready(Err(Denial::UpstreamTimeout));
                }
            }
        })
        .await
    }

    /// A connection to the server with the least to do; the next one if it cannot be reached.
    async fn lease(&self, reuse: bool) -> Result<Lease, Denial> {
        let mut untried: Vec<&Rc<Server>> = Vec::new();
        if let [only] = self.servers.as_slice() {
            // Most upstreams have one server; nothing is put together for them.
            return self.lease_of(only, reuse).await.ok_or(Denial::UpstreamUnreachable);
        }
        untried.extend(&self.servers);
        // Of those with as little to do each has its turn.
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let first = turn.checked_rem(untried.len()).unwrap_or_default();
        untried.rotate_left(first);
        untried.sort_by_key(|server| std::cmp::Reverse(server.pending.get()));
        while let Some(server) = untried.pop() {
            if let Some(lease) = self.lease_of(server, reuse).await {
                return Ok(lease);
            }
        }
        Err(Denial::UpstreamUnreachable)
    }

    async fn lease_of(&self, server: &Rc<Server>, reuse: bool) -> Option<Lease> {
        // Counted before there is a connection: who waits for one is work for the server, too.
        let pending = Pending::count(server);
        if let Some(link) = reuse.then(|| server.kept(self.speaks_http2())).flatten() {
            return Some(Lease { link, pending, reused: true, doubtful: false });
        }
        // Boxed: a connection is made now and then, and every request would carry the room for making one.
        let connecting = Box::pin(self.connect(server));
        let link = match self.connect_timeout {
            Some(limit) => timeout(limit, connecting).await.unwrap_or_else(|_| Err(ConnectError::TimedOut)),
            None => connecting.await,
        };
        match link {
            Ok(link) => Some(Lease { link, pending, reused: false, doubtful: false }),
            Err(error) => {
                tracing::warn!(upstream = %self.name, server = %server, error = %error, cause = error.cause(), "no connection to the upstream");
                None
            }
        }
    }

    async fn connect(&self, server: &Server) -> Result<Link, ConnectError> {
        let stream = TcpStream::connect((server.bare_host(), server.port)).await.map_err(ConnectError::Connect)?;
        stream.set_nodelay(true).map_err(ConnectError::Connect)?;
        match (&server.tls, &self.tls) {
            (Some(name), Some(tls)) => {
                let connector = TlsConnector::from(tls.config.clone());
                let stream = connector.connect(name.clone(), stream).await.map_err(ConnectError::Tls)?;
                self.handshake(stream, server).await
            }
            _ => self.handshake(stream, server).await,
        }
    }

    fn http2(&self) -> http2::Builder<LocalExecutor> {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.timer(TokioTimer::new()).adaptive_window(true).keep_alive_interval(ASK_EVERY).keep_alive_timeout(ANSWER_WITHIN);
        builder
    }

    async fn handshake(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, server: &Server) -> Result<Link, ConnectError> {
        let stream = TokioIo::new(stream);
        match self.protocol {
            UpstreamProtocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.map_err(ConnectError::Http)?;
                let connection = tokio::task::spawn_local(async move {
                    // How it ended is told to whoever waits for a reply on it.
                    let _ = connection.with_upgrades().await;
                });
                Ok(Link::Http1(Http1Link { sender, alarm: Alarm::default(), _connection: EndOnDrop(connection) }))
            }
            UpstreamProtocol::Http2 => {
                let (sender, connection) = self.http2().handshake(stream).await.map_err(ConnectError::Http)?;
                tokio::task::spawn_local(async move {
                    let _ = connection.await;
                });
                server.http2.replace(Some(sender.clone()));
                Ok(Link::Http2(sender))
            }
        }
    }
}

/// How often an HTTP/2 server with requests under way is asked whether it is there, and how long it may take to answer.
const ASK_EVERY: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("connect")]
    Connect(#[source] std::io::Error),
    #[error("TLS handshake")]
    Tls(#[source] std::io::Error),
    #[error("HTTP handshake")]
    Http(#[source] hyper::Error),
    #[error("no connection within limits.upstream_connect_timeout")]
    TimedOut,
}

impl ConnectError {
    fn cause(&self) -> Option<String> {
        std::error::Error::source(self).map(ToString::to_string)
    }
}

impl Server {
    fn new(server: &config::Server, tls: Option<&UpstreamTls>) -> Result<Self, TlsError> {
        let named = tls.and_then(|tls| tls.server_name.clone());
        let name = match (server.tls, named) {
            (false, _) => None,
            (true, Some(name)) => Some(name),
            (true, None) => Some(tls::server_name(server.host.clone())?),
        };
        Ok(Self {
            host: server.host.as_str().into(),
            port: server.port,
            tls: name,
            pending: Cell::new(0),
            idle: RefCell::default(),
            http2: RefCell::default(),
        })
    }

    fn bare_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// A connection that is there already.
    fn kept(&self, http2: bool) -> Option<Link> {
        if http2 {
            return self.http2.borrow().as_ref().filter(|sender| !sender.is_closed()).cloned().map(Link::Http2);
        }
        let mut idle = self.idle.borrow_mut();
        // The last one that came back is the least likely to be closed by its server.
        while let Some(last) = idle.pop() {
            if last.link.sender.is_ready() {
                return Some(Link::Http1(last.link));
            }
        }
        None
    }

    fn keep(&self, link: Http1Link) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MOST_IDLE {
            idle.push(Idle { link, since: Instant::now() });
        }
    }
}

impl Idle {
    fn is_good(&self, now: Instant) -> bool {
        self.link.sender.is_ready() && now.saturating_duration_since(self.since) < KEPT_IDLE
    }
}

impl Lease {
    /// The connection must not be used again, however the reply ends.
    pub(super) fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Keeps the connection for the next exchange. To be called when the reply was read to its end; if the request is still
    /// being sent, its connection is kept only once it was sent whole, and hyper says that nothing is left over.
    ///
    /// Nothing is kept of a connection whose reply was framed in a way that could be read otherwise.
    pub(super) fn give_back(self) {
        if self.doubtful {
            return;
        }
        let Link::Http1(mut link) = self.link else { return };
        let server = Rc::clone(&self.pending.0);
        if link.sender.is_ready() {
            server.keep(link);
            return;
        }
        tokio::task::spawn_local(async move {
            if link.sender.ready().await.is_ok() {
                server.keep(link);
            }
        });
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.pending.0)
    }
}

/// What a client is told if forwarding failed, given what is known of its own body.
pub(super) fn blame(denial: Denial, fault: Option<BodyFault>) -> Denial {
    match fault {
        Some(BodyFault::TooLarge) => Denial::BodyTooLarge,
        Some(BodyFault::Malformed(_)) => Denial::BadRequest,
        // It is gone and will not read this.
        Some(BodyFault::Gone) | None => denial,
    }
}
