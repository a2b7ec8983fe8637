//! One probe of one endpoint, on a connection of its own: a kept one would prove
//! that a connection lives, not that the endpoint takes new ones.

use std::time::Duration;

use bytes::Bytes;
use fleet_config::{Endpoint, HealthCheck, Probe};
use http::{
    HeaderMap, Method, Request, StatusCode,
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    backend::{dial::dial, tls::Tls},
    limits::{MAX_BUFFER_BYTES, MAX_HEADER_BYTES, MAX_HEADERS},
    serve::executor::LocalExecutor,
    stream::Stream,
};

/// How we name ourselves to endpoints, so that their logs can tell probes.
const AGENT: &str = concat!("rampmeter-health/", env!("CARGO_PKG_VERSION"));

/// A gRPC health answer has two bytes and five of framing; a page that is none
/// is not read to its end.
const MAX_ANSWER_BYTES: usize = 4 << 10;

/// Longest reason that is kept and told.
const MAX_REASON: usize = 120;

/// Asks once, within the check's timeout. Must run on a local runtime.
///
/// # Errors
/// Why the endpoint counts as failed, in a few words.
pub(crate) async fn ask(
    endpoint: &Endpoint,
    check: &HealthCheck,
    tls: Option<&Tls>,
) -> Result<(), String> {
    let asked = timeout(check.timeout, exchange(endpoint, check, tls)).await;
    let answer = asked.unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout)));
    answer.map_err(|why| {
        let printable = why.chars().filter(|c| !c.is_control());
        printable.take(MAX_REASON).collect()
    })
}

async fn exchange(
    endpoint: &Endpoint,
    check: &HealthCheck,
    tls: Option<&Tls>,
) -> Result<(), String> {
    let http2 = matches!(check.probe, Probe::Grpc { .. });
    let connected = dial(endpoint, None, tls, http2).await;
    let stream = connected.map_err(|error| format!("cannot connect: {error}"))?;
    let base = endpoint.to_string();
    let authority = base.split_once("://").map_or(&*base, |(_, rest)| rest);
    let io = TokioIo::new(stream);
    match &check.probe {
        Probe::Http { path } => http(io, authority, path).await,
        Probe::Grpc { service } => grpc(io, &base, service, check.timeout).await,
    }
}

async fn http(io: TokioIo<Stream>, authority: &str, path: &str) -> Result<(), String> {
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        .handshake(io)
        .await
        .map_err(in_words)?;
    // Ends with this probe.
    let mut driver = JoinSet::new();
    driver.spawn_local(connection);
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(HOST, authority)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(in_words)?;
    let status = response.status();
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("status {}", status.as_u16())),
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; its status is 1 for `SERVING`.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc(
    io: TokioIo<Stream>,
    base: &str,
    service: &str,
    limit: Duration,
) -> Result<(), String> {
    let (mut sender, connection) = http2::Builder::new(LocalExecutor)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .handshake(io)
        .await
        .map_err(in_words)?;
    let mut driver = JoinSet::new();
    driver.spawn_local(connection);
    let question = CheckRequest {
        service: service.to_owned(),
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{base}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("grpc-timeout", format!("{}m", limit.as_millis()))
        .header(USER_AGENT, AGENT)
        .body(Full::new(framed(&question)))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(in_words)?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("HTTP status {}", head.status.as_u16()));
    }
    let whole = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let whole = whole.map_err(|error| error.to_string())?;
    check_status(whole.trailers().unwrap_or(&head.headers))?;
    serving(&whole.to_bytes())
}

/// One message as gRPC frames it: not compressed, its length, itself.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len() as u32;
    let mut frame = vec![0];
    frame.extend(length.to_be_bytes());
    frame.extend(message.encode_to_vec());
    frame.into()
}

/// The call's own status: in the trailers, or in the header when it was refused.
fn check_status(fields: &HeaderMap) -> Result<(), String> {
    let field = |name| fields.get(name).and_then(|value| value.to_str().ok());
    match field("grpc-status") {
        Some("0") => Ok(()),
        Some(status) => {
            let message = field("grpc-message").unwrap_or_default();
            Err(format!("gRPC status {status} {message}")
                .trim_end()
                .to_owned())
        }
        None => Err("no gRPC status".to_owned()),
    }
}

fn serving(body: &[u8]) -> Result<(), String> {
    let answer = match body {
        [0, _, _, _, _, message @ ..] => CheckResponse::decode(message),
        _ => return Err("the answer is no gRPC message".to_owned()),
    };
    match answer.map(|answer| answer.status) {
        Ok(1) => Ok(()),
        Ok(2) => Err("NOT_SERVING".to_owned()),
        Ok(3) => Err("SERVICE_UNKNOWN".to_owned()),
        Ok(_) => Err("serving status UNKNOWN".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// hyper's own message is general; what went wrong is behind it.
fn in_words(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
