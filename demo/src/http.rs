//! One HTTP request, for whoever looks at a single answer.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Longer than any answer of a healthy process takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// Its status code.
    pub status: u16,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body, lossily as text.
    pub body: String,
}

impl Reply {
    /// A field as text, empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// GETs a path over a connection of its own.
///
/// # Errors
/// No connection, no answer in 10 s, or half an answer.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Reply> {
    let request = Request::get(path).header(header::HOST, address.to_string());
    send(address, request.body(Full::default())?).await
}

/// Sends a request over a connection of its own.
///
/// # Errors
/// No connection, no answer in 10 s, or half an answer.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<Reply> {
    timeout(PATIENCE, exchange(address, request))
        .await
        .with_context(|| format!("{address} did not answer in time"))?
}

async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<Reply> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
