//! A keep-alive HTTP/1.1 client of one target.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Answered, Caller, Load, Record, Target};
use crate::backend::MARK;

/// Connections kept for reuse; more than are busy at a time at 1,000 requests
/// a second and 50 ms each.
const MAX_IDLE: usize = 64;

/// The target's answers are short; reading more is not the client's job.
const MAX_BODY: usize = 64 * 1024;

/// A target and its idle connections.
#[derive(Debug)]
pub(super) struct Client {
    name: Arc<str>,
    address: SocketAddr,
    host: String,
    method: http::Method,
    path: String,
    timeout: Duration,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

/// Why there is no answer.
enum Failed {
    Connect,
    Broken,
}

impl Client {
    pub(super) fn new(target: &Target, load: &Load) -> Self {
        Self {
            name: target.name.clone(),
            address: target.address,
            host: load
                .host
                .clone()
                .unwrap_or_else(|| target.address.to_string()),
            method: load.method.clone(),
            path: load.path.clone(),
            timeout: load.timeout,
            idle: Mutex::default(),
        }
    }

    /// Sends one request and says what became of it.
    pub(super) async fn send(&self, caller: Option<&Arc<Caller>>) -> Record {
        let at = Instant::now();
        let answer = tokio::time::timeout(self.timeout, self.exchange(at, caller)).await;
        let mut record = self.record(at, caller, Answered::TimedOut);
        match answer {
            Ok(Ok((latency, status, headers))) => {
                let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
                record.latency = latency;
                record.answered = Answered::Status(status);
                record.retry_after =
                    text(header::RETRY_AFTER.as_str()).and_then(|value| value.parse().ok());
                record.rampmeter = text("x-rampmeter").map(str::to_owned);
            }
            Ok(Err(Failed::Connect)) => record.answered = Answered::Refused,
            Ok(Err(Failed::Broken)) => record.answered = Answered::Broken,
            Err(_) => {}
        }
        record
    }

    /// A request that was not sent.
    pub(super) fn overrun(&self, caller: Option<&Arc<Caller>>) -> Record {
        self.record(Instant::now(), caller, Answered::Overrun)
    }

    fn record(&self, at: Instant, caller: Option<&Arc<Caller>>, answered: Answered) -> Record {
        Record {
            target: self.name.clone(),
            caller: caller.map(|caller| caller.name.clone()).unwrap_or_default(),
            at,
            latency: at.elapsed(),
            answered,
            retry_after: None,
            rampmeter: None,
        }
    }

    async fn exchange(
        &self,
        at: Instant,
        caller: Option<&Arc<Caller>>,
    ) -> Result<(Duration, u16, HeaderMap), Failed> {
        let mut request = self.request();
        let fields = caller.iter().flat_map(|caller| caller.fields.iter());
        request.headers_mut().extend(fields.cloned());
        loop {
            let (mut connection, reused) = match self.take_idle() {
                Some(idle) => (idle, true),
                None => (self.connect().await?, false),
            };
            let response = match connection.try_send_request(request).await {
                Ok(response) => response,
                // The target closed it while it was idle: nothing was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(Failed::Broken),
                },
            };
            let latency = at.elapsed();
            let (head, body) = response.into_parts();
            self.finish(connection, body).await;
            return Ok((latency, head.status.as_u16(), head.headers));
        }
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        let fields = [
            (header::HOST, self.host.as_str()),
            (header::HeaderName::from_static(MARK), &self.name),
        ];
        for (name, value) in fields {
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(name, value);
            }
        }
        request
    }

    fn take_idle(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, Failed> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|_| Failed::Connect)?;
        // Failing to set it costs latency only.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Failed::Broken)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Reads the answer to its end and keeps the connection if it can be.
    async fn finish(&self, mut connection: SendRequest<Empty<Bytes>>, mut body: Incoming) {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > MAX_BODY {
                return;
            }
        }
        if connection.ready().await.is_err() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}
