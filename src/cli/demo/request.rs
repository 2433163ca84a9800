//! One request of the demo: as a curl line for people and for `sh`, and as bytes of our own where there is no curl.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long one may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Request {
    to: SocketAddr,
    path: &'static str,
    host: Option<&'static str>,
    authorization: Option<String>,
    /// With one it is a POST.
    body: Option<&'static str>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

impl Request {
    pub const fn get(to: SocketAddr, path: &'static str) -> Self {
        Self { to, path, host: None, authorization: None, body: None }
    }

    pub fn host(self, host: &'static str) -> Self {
        Self { host: Some(host), ..self }
    }

    pub fn secret(self, secret: &str) -> Self {
        Self { authorization: Some(format!("Bearer {secret}")), ..self }
    }

    pub fn post(self, body: &'static str) -> Self {
        Self { body: Some(body), ..self }
    }

    /// A line for a shell; the reply comes with its head.
    pub fn curl(&self) -> String {
        let mut line = "curl -si".to_owned();
        // A proxy of the environment could not reach this machine by this address.
        if ["http_proxy", "all_proxy", "ALL_PROXY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
            line.push_str(" --noproxy '*'");
        }
        let fields =
            [self.host.map(|host| format!("Host: {host}")), self.authorization.as_ref().map(|value| format!("Authorization: {value}"))];
        for field in fields.into_iter().flatten().chain(self.body.map(|_| "Content-Type: application/json".to_owned())) {
            line.push_str(&format!(" -H '{field}'"));
        }
        if let Some(body) = self.body {
            line.push_str(&format!(" -d '{body}'"));
        }
        format!("{line} http://{}{}", self.to, self.path)
    }

    pub async fn send(&self) -> Result<Reply> {
        tokio::time::timeout(PATIENCE, self.exchange()).await.context("no reply came in time")?
    }

    async fn exchange(&self) -> Result<Reply> {
        let socket = TcpStream::connect(self.to).await.with_context(|| format!("connect to {}", self.to))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let request = self.build()?;
        let exchange = async {
            let reply = sender.send_request(request).await?;
            let status = reply.status().as_u16();
            let body = reply.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Reply { status, body: String::from_utf8_lossy(&body).into_owned() })
        };
        tokio::select! {
            reply = exchange => Ok(reply?),
            ended = connection => {
                ended?;
                anyhow::bail!("the connection ended before the reply")
            }
        }
    }

    fn build(&self) -> Result<hyper::Request<Full<Bytes>>> {
        let to = self.to.to_string();
        let mut builder = hyper::Request::builder().uri(self.path).header(HOST, self.host.unwrap_or(&to));
        if let Some(value) = &self.authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        if self.body.is_some() {
            builder = builder.method("POST").header(CONTENT_TYPE, "application/json");
        }
        Ok(builder.body(Full::new(Bytes::from_static(self.body.unwrap_or_default().as_bytes())))?)
    }
}

impl Reply {
    /// What `curl -i` prints: heads of interim replies, perhaps, then the head and the body.
    pub fn printed_by_curl(printed: &str) -> Option<Self> {
        let (head, body) = printed.split_once("\r\n\r\n")?;
        let status: u16 = head.strip_prefix("HTTP/")?.split(' ').nth(1)?.parse().ok()?;
        if (100..200).contains(&status) { Self::printed_by_curl(body) } else { Some(Self { status, body: body.to_owned() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_from_what_curl_prints() {
        let reply = Reply::printed_by_curl("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\na: b\r\n\r\n{}\r\n\r\n").unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (403, "{}\r\n\r\n"));
        assert!(Reply::printed_by_curl("curl: (7) Failed to connect").is_none());
    }

    #[test]
    fn a_request_is_a_line_for_a_shell() {
        let to = "127.0.0.1:8080".parse().unwrap();
        let line = Request::get(to, "/a").host("b").secret("x").post("{}").curl();
        assert!(line.starts_with("curl -si") && line.ends_with(" http://127.0.0.1:8080/a"), "{line}");
        assert!(line.contains("-H 'Host: b' -H 'Authorization: Bearer x' -H 'Content-Type: application/json' -d '{}'"), "{line}");
    }
}
