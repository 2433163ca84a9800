//! HTTP/1.1 on the raw bytes, from either end: what is sent is exactly what the test says, what comes is read strictly.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::message::{Fields, Reply, Request};
use super::wait::within;

/// What a connection can run on.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The start line and the fields of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its three parts.
    pub start: [String; 3],
    pub fields: Fields,
}

/// What is left of the body at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    Length(u64),
    Chunk(u64),
    /// A chunk's size comes next.
    ChunkSize,
    UntilClose,
    Over,
}

/// Everything that one end has read.
pub type Recording = Arc<Mutex<Vec<u8>>>;

/// How much of one connection is recorded; what large bodies have beyond it would only fill memory.
pub const RECORDED: usize = 1 << 20;

/// One end of a connection.
pub struct Http1 {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    body: Body,
    pub trailers: Fields,
    recording: Option<Recording>,
}

impl Http1 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: BytesMut::new(), body: Body::Over, trailers: Fields::default(), recording: None }
    }

    /// The same, recording what comes.
    pub fn recorded(stream: impl Stream + 'static, recording: Recording) -> Self {
        Self { recording: Some(recording), ..Self::over(stream) }
    }

    /// The stream itself, and what was read of it beyond the last message.
    pub fn into_parts(self) -> (Box<dyn Stream>, Vec<u8>) {
        (self.stream, self.buffer.to_vec())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.try_send(bytes)).await.unwrap();
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Sends one chunk of a chunked body.
    pub async fn send_chunk(&mut self, data: &[u8]) {
        let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
        chunk.extend_from_slice(data);
        chunk.extend_from_slice(b"\r\n");
        self.send(chunk).await;
    }

    /// Says that nothing more will be sent. If the other end has closed already, nobody is left to hear it.
    pub async fn finish_sending(&mut self) {
        let _ = within(self.stream.shutdown()).await;
    }

    /// Sends a request and reads its reply.
    pub async fn ask(&mut self, request: &Request) -> Reply {
        self.send(encode(request)).await;
        self.reply_to(request.method).await
    }

    /// Sends these bytes and reads a reply.
    pub async fn exchange(&mut self, bytes: &[u8]) -> Reply {
        self.send(bytes).await;
        self.reply().await
    }

    /// The same for a reply that may be cut off.
    pub async fn try_ask(&mut self, request: &Request) -> io::Result<Reply> {
        self.send(encode(request)).await;
        self.try_reply_to(request.method).await
    }

    /// Reads a reply to anything but HEAD.
    pub async fn reply(&mut self) -> Reply {
        self.reply_to("GET").await
    }

    pub async fn reply_to(&mut self, method: &str) -> Reply {
        self.try_reply_to(method).await.expect("the body of the reply comes whole")
    }

    async fn try_reply_to(&mut self, method: &str) -> io::Result<Reply> {
        let (head, interim) = self.reply_head_to(method).await;
        let body = self.rest().await?;
        Ok(Reply { status: status_of(&head), fields: head.fields, body, trailers: std::mem::take(&mut self.trailers), interim })
    }

    /// Reads the head of a reply, and what came before it. The body is read by [`Http1::piece`] or [`Http1::rest`].
    pub async fn reply_head_to(&mut self, method: &str) -> (Head, Vec<(u16, Fields)>) {
        let mut interim = Vec::new();
        loop {
            let head = within(self.head()).await.unwrap().expect("a reply comes");
            match status_of(&head) {
                101 => return (head, interim),
                status @ 100..200 => interim.push((status, head.fields)),
                204 | 304 => {
                    self.body = Body::Over;
                    return (head, interim);
                }
                _ => {
                    self.body = if method == "HEAD" { Body::Over } else { framing_of(&head.fields).unwrap_or(Body::UntilClose) };
                    return (head, interim);
                }
            }
        }
    }

    /// Reads the head of a request; None if no more comes.
    pub async fn request_head(&mut self) -> io::Result<Option<Head>> {
        let head = self.head().await?;
        if let Some(head) = &head {
            self.body = framing_of(&head.fields).unwrap_or(Body::Over);
        }
        Ok(head)
    }

    async fn head(&mut self) -> io::Result<Option<Head>> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Ok(None);
        }
        let line = self.line().await?;
        let mut parts = line.splitn(3, ' ').map(str::to_owned);
        let start = [(); 3].map(|()| parts.next().unwrap_or_default());
        Ok(Some(Head { start, fields: self.fields().await? }))
    }

    async fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Fields::default();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("a field without a colon"))?;
            fields.add(name, value.trim());
        }
    }

    /// A line without its end.
    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end + 2);
                // Fields may hold any byte above ASCII: each is shown as the character of its number.
                return Ok(line[..end].iter().map(|&byte| char::from(byte)).collect());
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// What is left of the body.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = within(self.piece()).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The next piece of the body; None at its end.
    pub async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let left = match self.body {
                Body::Over | Body::Length(0) => return Ok(None),
                Body::Length(left) | Body::Chunk(left) => left,
                Body::UntilClose => u64::MAX,
                Body::ChunkSize => {
                    self.begin_chunk().await?;
                    continue;
                }
            };
            if self.buffer.is_empty() && self.fill().await? == 0 {
                return if self.body == Body::UntilClose { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let piece = self.buffer.split_to(taken).freeze();
            self.took(taken as u64).await?;
            return Ok(Some(piece));
        }
    }

    async fn took(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.body {
            Body::Length(left) => *left -= bytes,
            Body::Chunk(left) => {
                *left -= bytes;
                if *left == 0 {
                    let end = self.line().await?;
                    self.body = Body::ChunkSize;
                    return if end.is_empty() { Ok(()) } else { Err(malformed("no line end behind a chunk")) };
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn begin_chunk(&mut self) -> io::Result<()> {
        let size = self.line().await?;
        match u64::from_str_radix(&size, 16) {
            Ok(0) => {
                self.trailers = self.fields().await?;
                self.body = Body::Over;
            }
            Ok(size) => self.body = Body::Chunk(size),
            Err(_) => return Err(malformed("no chunk size")),
        }
        Ok(())
    }

    /// The status line of a reply, or what comes before the end.
    pub async fn until_end_or_reply(&mut self) -> String {
        while !self.buffer.windows(2).any(|pair| pair == b"\r\n") && within(self.fill()).await.is_ok_and(|read| read > 0) {}
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Whether the other end closes now, without another byte.
    pub async fn ends(&mut self) -> bool {
        self.until_end().await.is_empty()
    }

    /// Everything up to and with `end`.
    pub async fn bytes_until(&mut self, end: &str) -> String {
        loop {
            let found = self.buffer.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(at) = found {
                return String::from_utf8(self.buffer.split_to(at + end.len()).to_vec()).unwrap();
            }
            assert!(within(self.fill()).await.unwrap() > 0, "the other end closed before {end:?}");
        }
    }

    /// Everything until the other end closes, or resets.
    pub async fn until_end(&mut self) -> Vec<u8> {
        while within(self.fill()).await.is_ok_and(|read| read > 0) {}
        self.buffer.split().to_vec()
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(16 * 1024);
        let before = self.buffer.len();
        let read = self.stream.read_buf(&mut self.buffer).await?;
        if let Some(recording) = &self.recording {
            let mut recording = recording.lock().unwrap();
            let room = RECORDED.saturating_sub(recording.len());
            recording.extend_from_slice(&self.buffer[before..][..read.min(room)]);
        }
        Ok(read)
    }
}

/// A request as a plain client would send it.
pub fn encode(request: &Request) -> Vec<u8> {
    let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", request.method, request.path, request.host);
    for (name, value) in &request.fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let framed = request.fields.iter().any(|(name, _)| matches!(name.as_str(), "content-length" | "transfer-encoding"));
    if !request.body.is_empty() && !framed {
        head.push_str(&format!("content-length: {}\r\n", request.body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&request.body);
    bytes
}

fn framing_of(fields: &Fields) -> Option<Body> {
    match (fields.get("content-length"), fields.get("transfer-encoding")) {
        (None, None) => None,
        (Some(length), None) => Some(Body::Length(length.parse().expect("a length is a number"))),
        (None, Some("chunked")) => Some(Body::ChunkSize),
        other => panic!("a framing that must never be sent: {other:?}"),
    }
}

fn status_of(head: &Head) -> u16 {
    head.start[1].parse().expect("a reply has a status")
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
