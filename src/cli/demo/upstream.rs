//! The upstream of the demo: it answers every request with what it received, in JSON.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, Request, StatusCode};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::net::TcpListener;

#[derive(Serialize)]
struct Received {
    method: String,
    /// With the query.
    path: String,
    headers: BTreeMap<String, String>,
    body_bytes: usize,
}

/// Starts it on any port; it ends with the runtime.
pub async fn start() -> io::Result<SocketAddr> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = socket.local_addr()?;
    tokio::spawn(async move { axum::serve(socket, Router::new().fallback(echo)).await });
    Ok(address)
}

async fn echo(request: Request<Body>) -> Result<(StatusCode, [(HeaderName, &'static str); 1], String), StatusCode> {
    let (parts, mut body) = request.into_parts();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        body_bytes += frame.data_ref().map_or(0, |data| data.len());
    }
    let header = |(name, value): (&HeaderName, &axum::http::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let received = Received {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: parts.headers.iter().map(header).collect(),
        body_bytes,
    };
    let text = serde_json::to_string_pretty(&received).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok((StatusCode::OK, [(CONTENT_TYPE, "application/json")], text + "\n"))
}
