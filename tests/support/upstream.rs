//! Servers behind the gateway. One is a script: it is handed each request's head and the connection, and does with it what the
//! test wants: answer, echo, stall, break. Whatever it does, all bytes that arrive are kept.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::http1::{Head, Http1, Recording};
use super::message::Fields;
use super::wait::eventually;

/// A request as it arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// Which connection it came by, counted from 0.
    pub connection: usize,
    pub head: Head,
    /// As far as the script has read it.
    pub body: Vec<u8>,
    pub trailers: Fields,
}

impl Received {
    pub fn method(&self) -> &str {
        &self.head.start[0]
    }

    /// With its query.
    pub fn target(&self) -> &str {
        &self.head.start[1]
    }

    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.fields.get(name)
    }
}

/// What a server has seen.
#[derive(Default)]
struct Seen {
    connections: Vec<Recording>,
    requests: Vec<Received>,
}

/// One exchange from the server's side.
pub struct Exchange {
    pub http: Http1,
    pub head: Head,
    /// Of this exchange among all of the server, counted from 0.
    pub number: usize,
    seen: Arc<Mutex<Seen>>,
}

impl Exchange {
    /// Reads what is left of the request's body. None if the client went away before its end.
    pub async fn body(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            match self.http.piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break,
                Err(_) => return None,
            }
        }
        let mut seen = self.seen.lock().unwrap();
        let request = &mut seen.requests[self.number];
        request.body.clone_from(&body);
        request.trailers = std::mem::take(&mut self.http.trailers);
        Some(body)
    }

    /// Answers with a body of known length, and goes on with the connection.
    pub async fn answer(mut self, status: &str, fields: &str, body: &[u8]) -> After {
        let head = format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n", body.len());
        let answered = self.http.try_send([head.as_bytes(), body].concat()).await;
        if answered.is_ok() { self.go_on() } else { After::Close }
    }

    /// Answers with these bytes, and goes on with the connection.
    pub async fn answer_raw(mut self, bytes: &str) -> After {
        match self.http.try_send(bytes).await {
            Ok(()) => self.go_on(),
            Err(_) => After::Close,
        }
    }

    pub fn go_on(self) -> After {
        After::GoOn(self.http)
    }
}

/// What becomes of a connection behind an exchange.
pub enum After {
    GoOn(Http1),
    Close,
}

type Ends = Pin<Box<dyn Future<Output = After> + Send>>;
type Script = Arc<dyn Fn(Exchange) -> Ends + Send + Sync>;

/// A server that speaks HTTP/1.1. Ends when it is dropped, with all its connections.
pub struct TestUpstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    open: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl TestUpstream {
    /// Answers every request with the body that it brought.
    pub async fn echo() -> Self {
        Self::start(|mut exchange| async move {
            match exchange.body().await {
                Some(body) => exchange.answer("200 OK", "", &body).await,
                None => After::Close,
            }
        })
        .await
    }

    /// Answers every request with these bytes.
    pub async fn answering(bytes: &'static str) -> Self {
        Self::start(move |mut exchange| async move {
            match exchange.body().await {
                Some(_) => exchange.answer_raw(bytes).await,
                None => After::Close,
            }
        })
        .await
    }

    /// Takes requests and says nothing.
    pub async fn silent() -> Self {
        Self::start(|exchange| async move {
            let _held = exchange;
            std::future::pending().await
        })
        .await
    }

    /// Answers one request for each permit that is added.
    pub async fn held_back() -> (Self, Arc<Semaphore>) {
        let permits = Arc::new(Semaphore::new(0));
        let taken = Arc::clone(&permits);
        let upstream = Self::start(move |exchange| {
            let taken = Arc::clone(&taken);
            async move {
                taken.acquire().await.unwrap().forget();
                exchange.answer("200 OK", "", b"late").await
            }
        });
        (upstream.await, permits)
    }

    pub async fn start<F>(script: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = After> + Send + 'static,
    {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), None, script)
    }

    /// The same over TLS.
    pub async fn start_tls<F>(tls: TlsAcceptor, script: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = After> + Send + 'static,
    {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), Some(tls), script)
    }

    fn start_on<F>(listener: TcpListener, tls: Option<TlsAcceptor>, script: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = After> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let script: Script = Arc::new(move |exchange| Box::pin(script(exchange)));
        let (seen, open) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicUsize::new(0)));
        let serving = tokio::spawn(accept(listener, tls, script, Arc::clone(&seen), Arc::clone(&open)));
        Self { address, seen, open, serving }
    }

    pub fn requests(&self) -> Vec<Received> {
        self.seen().requests.clone()
    }

    /// The only request that came.
    #[track_caller]
    pub fn request(&self) -> Received {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.into_iter().next().unwrap()
    }

    /// How many connections were ever made.
    pub fn connections(&self) -> usize {
        self.seen().connections.len()
    }

    /// All bytes that came, connection by connection.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.seen().connections.iter().map(|recording| recording.lock().unwrap().clone()).collect()
    }

    /// Waits until so many requests have come.
    #[track_caller]
    pub fn has_seen(&self, count: usize) -> impl Future<Output = ()> {
        let seen = Arc::clone(&self.seen);
        eventually("that many requests at the upstream", move || (seen.lock().unwrap().requests.len() >= count).then_some(()))
    }

    /// Waits until so many connections are open.
    #[track_caller]
    pub fn has_open(&self, count: usize) -> impl Future<Output = ()> {
        let open = Arc::clone(&self.open);
        eventually("that many open connections of the upstream", move || (open.load(Relaxed) == count).then_some(()))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

impl Drop for TestUpstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, script: Script, seen: Arc<Mutex<Seen>>, open: Arc<AtomicUsize>) {
    // Dropped with this task, and every connection with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let recording = Recording::default();
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.connections.push(Arc::clone(&recording));
            seen.connections.len() - 1
        };
        let (tls, script, seen, open) = (tls.clone(), Arc::clone(&script), Arc::clone(&seen), Open::count(&open));
        connections.spawn(async move {
            if let Some(http) = begin(stream, tls, recording).await {
                serve(http, number, &script, &seen).await;
            }
            drop(open);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn begin(stream: TcpStream, tls: Option<TlsAcceptor>, recording: Recording) -> Option<Http1> {
    match tls {
        None => Some(Http1::recorded(stream, recording)),
        Some(tls) => Some(Http1::recorded(tls.accept(stream).await.ok()?, recording)),
    }
}

async fn serve(mut http: Http1, connection: usize, script: &Script, seen: &Arc<Mutex<Seen>>) {
    while let Ok(Some(head)) = http.request_head().await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.requests.push(Received { connection, head: head.clone(), body: Vec::new(), trailers: Fields::default() });
            seen.requests.len() - 1
        };
        match script(Exchange { http, head, number, seen: Arc::clone(seen) }).await {
            After::GoOn(next) => http = next,
            After::Close => return,
        }
    }
}

/// An open connection, counted until it ends.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
