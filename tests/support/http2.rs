//! HTTP/2 from either end: by the `h2` crate where the exchange is a proper one, by frames where it must not be.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use hyper::http::{self, HeaderMap, request, response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::http1::Stream;
use super::message::{Fields, Reply, Request};
use super::wait::{eventually, within};

/// A client's connection.
pub struct Http2 {
    pub requests: Requests,
    /// Ends when the connection does, with what ended it.
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

/// The way to a connection.
#[derive(Clone)]
pub struct Requests(SendRequest<Bytes>);

impl Http2 {
    /// With prior knowledge.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    pub async fn over(stream: impl Stream + 'static) -> Self {
        Self::over_with(stream, &h2::client::Builder::new()).await
    }

    pub async fn over_with(stream: impl Stream + 'static, builder: &h2::client::Builder) -> Self {
        let (sender, connection) = within(builder.handshake(stream)).await.unwrap();
        Self { requests: Requests(sender), connection: tokio::spawn(connection) }
    }

    pub async fn ask(&mut self, request: &Request) -> Reply {
        self.try_ask(request).await.unwrap()
    }

    pub async fn try_ask(&mut self, request: &Request) -> Result<Reply, h2::Error> {
        // One that says how long its body is and has none is a beginning.
        let declared = request.fields.iter().any(|(name, _)| name == "content-length");
        let (reply, mut body) = self.open(head(request), request.body.is_empty() && !declared).await?;
        if !request.body.is_empty() {
            body.send_data(request.body.clone(), true)?;
        }
        whole(within(reply).await?).await
    }

    /// Sends a head; the body follows, unless this was the end.
    pub async fn open(&mut self, head: http::Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.requests.clone().open(head, end).await
    }

    /// Waits until the gateway has said that it takes RFC 8441.
    pub async fn takes_extended_connect(&self) {
        let Requests(sender) = &self.requests;
        eventually("the setting of RFC 8441", || sender.is_extended_connect_protocol_enabled().then_some(())).await;
    }
}

impl Requests {
    pub async fn open(self, head: http::Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        within(self.0.ready()).await?.send_request(head, end)
    }
}

/// The head of a request; its method may be CONNECT.
pub fn head(request: &Request) -> http::Request<()> {
    let uri = match request.method {
        "CONNECT" => request.host.clone(),
        _ => format!("http://{}{}", request.host, request.path),
    };
    let mut head = http::Request::builder().method(request.method).uri(uri);
    for (name, value) in &request.fields {
        head = head.header(name, value);
    }
    head.body(()).unwrap()
}

/// The whole reply.
pub async fn whole(reply: http::Response<RecvStream>) -> Result<Reply, h2::Error> {
    let (response::Parts { status, headers, .. }, mut body) = reply.into_parts();
    let mut data = Vec::new();
    while let Some(piece) = within(body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        data.extend_from_slice(&piece);
    }
    let trailers = within(body.trailers()).await?.as_ref().map(fields).unwrap_or_default();
    Ok(Reply { status: status.as_u16(), fields: fields(&headers), body: data, trailers, interim: Vec::new() })
}

pub fn fields(headers: &HeaderMap) -> Fields {
    headers.iter().map(|(name, value)| (name.as_str(), std::str::from_utf8(value.as_bytes()).unwrap())).collect()
}

/// A server that speaks HTTP/2, as a script. Ends when it is dropped.
pub struct Http2Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<request::Parts>>>,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Http2Upstream {
    /// Answers every request with the body that it brought, piece by piece.
    pub async fn echo() -> Self {
        Self::echo_on(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// The same where another one was before.
    pub async fn echo_on(address: SocketAddr) -> Self {
        Self::start_on(address, None, |request, mut respond| async move {
            let mut body = request.into_body();
            let mut reply = respond.send_response(http::Response::new(()), false).unwrap();
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                let _ = reply.send_data(piece, false);
            }
            let _ = reply.send_data(Bytes::new(), true);
        })
        .await
    }

    pub async fn start<F>(script: impl Fn(http::Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), None, script).await
    }

    pub async fn start_on<F>(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        script: impl Fn(http::Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&connections);
        let (script, log) = (Arc::new(script), Arc::clone(&seen));
        let serving = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                count.fetch_add(1, Relaxed);
                let (script, log, tls) = (Arc::clone(&script), Arc::clone(&log), tls.clone());
                open.spawn(async move {
                    let stream: Box<dyn Stream> = match tls {
                        None => Box::new(stream),
                        Some(tls) => Box::new(tls.accept(stream).await.unwrap()),
                    };
                    let mut exchanges = tokio::task::JoinSet::new();
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (parts, body) = request.into_parts();
                        log.lock().unwrap().push(parts.clone());
                        exchanges.spawn(script(http::Request::from_parts(parts, body), respond));
                    }
                });
            }
        });
        Self { address, seen, connections, serving }
    }

    /// How many connections were ever made.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    pub fn requests(&self) -> Vec<request::Parts> {
        self.seen.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn request(&self) -> request::Parts {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.into_iter().next().unwrap()
    }
}

impl Drop for Http2Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A frame of HTTP/2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const GOAWAY: u8 = 7;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;

    /// A head, each field written out without compression: any bytes can stand in names and values.
    pub fn headers(stream: u32, flags: u8, fields: &[(&[u8], &[u8])]) -> Self {
        let mut payload = Vec::new();
        for (name, value) in fields {
            payload.push(0);
            push_text(&mut payload, name);
            push_text(&mut payload, value);
        }
        Self { kind: Self::HEADERS, flags: flags | Self::END_HEADERS, stream, payload }
    }

    fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes(), &self.payload].concat()
    }
}

/// RFC 7541, sections 5.1 and 5.2: a length in seven bits and more, then the bytes as they are.
fn push_text(payload: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(length @ 0..127) => payload.push(length),
        _ => {
            payload.push(127);
            let mut left = text.len() - 127;
            while left >= 128 {
                payload.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            payload.push(u8::try_from(left).unwrap());
        }
    }
    payload.extend_from_slice(text);
}

/// A client's connection on which any frame can be sent.
pub struct Frames(TcpStream);

impl Frames {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = within(TcpStream::connect(address)).await.unwrap();
        let settings = Frame { kind: Frame::SETTINGS, flags: 0, stream: 0, payload: Vec::new() };
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&settings.encode()).await.unwrap();
        Self(stream)
    }

    pub async fn send(&mut self, frame: &Frame) {
        within(self.0.write_all(&frame.encode())).await.unwrap();
    }

    /// The next frame that is one of these kinds; None at the end of the connection.
    pub async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = within(self.next()).await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [length @ .., kind, flags, a, b, c, d] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes([a, b, c, d]), payload })
    }
}
