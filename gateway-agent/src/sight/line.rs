//! One line of the access log: a JSON object.

use std::{
    io::Write,
    time::{Duration, UNIX_EPOCH},
};

use prost_types::Timestamp;
use serde::Serialize;

use crate::sight::record::Record;

/// The fields in the order they are written; what there is none of is left out,
/// except for `status`, which is null when the client left before there was one.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttfb_ms: Option<f64>,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u16>,
    protocol: &'static str,
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<&'static str>,
    request_bytes: u64,
    response_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    suppressed: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde wants it
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Appends a record's line to `into`.
pub(crate) fn write(record: &Record, into: &mut Vec<u8>) {
    let last = record.attempts.last();
    let ours = record.answer.as_ref();
    let backend = last.map(|attempt| attempt.backend.as_str());
    let line = Line {
        time: time(record),
        duration_ms: millis(record.duration),
        ttfb_ms: record.first_byte.map(millis),
        method: &record.method,
        host: &record.host,
        path: &record.path,
        status: record.status.map(|status| status.as_u16()),
        grpc_status: record.grpc_status,
        protocol: protocol(record.version),
        client: record.client.to_str().unwrap_or_default(),
        service: record.service.as_ref().map(|service| service.as_str()),
        backend: backend.or_else(|| ours?.backend.as_deref()),
        endpoint: last.map(|attempt| attempt.endpoint.to_string()),
        attempts: record.tries,
        reason: ours.map(|ours| &*ours.reason),
        decision: ours.and_then(|ours| ours.decision.as_deref()),
        broken: record.broken,
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
        trace_id: record.trace.as_ref().map(|trace| trace.id.to_string()),
        user_agent: record.user_agent.as_deref(),
        suppressed: record.suppressed,
    };
    let whole = into.len();
    let written = serde_json::to_writer(&mut *into, &line);
    match written
        .map_err(Into::into)
        .and_then(|()| into.write_all(b"\n"))
    {
        Ok(()) => {}
        // Text and numbers in memory always can be; half a line never stays.
        Err(_) => into.truncate(whole),
    }
}

/// RFC 3339 with three digits of the second.
fn time(record: &Record) -> String {
    let since = record.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let whole = Timestamp {
        seconds: since.as_secs() as i64,
        nanos: 0,
    };
    let whole = whole.to_string();
    let seconds = whole.trim_end_matches('Z');
    format!("{seconds}.{:03}Z", since.subsec_millis())
}

/// To the microsecond.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// As the first line of a message has it.
fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_11 => "HTTP/1.1",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "",
    }
}
