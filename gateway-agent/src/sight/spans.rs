//! A record as spans, by OpenTelemetry's semantic conventions for HTTP: one of a
//! server for the request, and under it one of a client for each attempt.

use std::time::{Duration, UNIX_EPOCH};

use http::Version;

use crate::sight::{
    context::SpanId,
    otlp::{KeyValue, Span, SpanKind, Status, StatusCode},
    record::{Attempt, Record, Trace, is_servers_fault},
};

/// The methods that are told by their name; others are `_OTHER`, since anybody
/// can invent some.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// In a span's flags: it is known whether its parent is of another process, and it is.
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;

/// Appends a record's spans; none, if it has no trace.
pub(crate) fn add(record: &Record, into: &mut Vec<Span>) {
    let Some(trace) = &record.trace else { return };
    into.push(server(record, trace));
    let attempts = record.attempts.iter().enumerate();
    into.extend(attempts.filter_map(|(at, attempt)| client(record, trace, at, attempt)));
}

fn server(record: &Record, trace: &Trace) -> Span {
    let (host, port) = host_and_port(&record.host);
    let mut attributes = vec![
        KeyValue::text("http.request.method", method(record)),
        KeyValue::text("url.scheme", record.scheme),
        KeyValue::text("url.path", &*record.path),
        KeyValue::text("network.protocol.name", "http"),
        KeyValue::text("network.protocol.version", protocol(record.version)),
        KeyValue::text("client.address", record.client.to_str().unwrap_or_default()),
        KeyValue::number("http.response.body.size", whole(record.response_bytes)),
    ];
    let mut more = |key, value: Option<&str>| {
        attributes.extend(value.map(|value| KeyValue::text(key, value)));
    };
    let ours = record.answer.as_ref();
    let last = record.attempts.last();
    let backend = last.map(|attempt| attempt.backend.as_str());
    let decision = last.map(decision);
    more("server.address", Some(host).filter(|host| !host.is_empty()));
    more("user_agent.original", record.user_agent.as_deref());
    more(
        "rampmeter.service",
        record.service.as_ref().map(|s| s.as_str()),
    );
    more(
        "rampmeter.backend",
        backend.or_else(|| ours?.backend.as_deref()),
    );
    more("rampmeter.reason", ours.map(|ours| &*ours.reason));
    more(
        "rampmeter.decision",
        decision.as_deref().or_else(|| ours?.decision.as_deref()),
    );
    let failed = record.server_failed();
    let cause = record.broken.or(ours.map(|ours| &*ours.reason));
    more("error.type", error_type(record, cause, failed).as_deref());
    attributes.extend(port.map(|port| KeyValue::number("server.port", port)));
    attributes.extend(statuses(record.status, record.grpc_status));
    let remote = if trace.parent.is_some() {
        PARENT_REMOTE
    } else {
        0
    };
    Span {
        kind: SpanKind::Server.into(),
        attributes,
        status: status(failed),
        flags: PARENT_KNOWN | remote | u32::from(trace.flags.bits()),
        ..span(
            record,
            trace,
            trace.span,
            trace.parent,
            Duration::ZERO,
            record.duration,
        )
    }
}

fn client(record: &Record, trace: &Trace, at: usize, attempt: &Attempt) -> Option<Span> {
    let version = if attempt.http2 { "2" } else { "1.1" };
    let mut attributes = vec![
        KeyValue::text("http.request.method", method(record)),
        KeyValue::text("url.scheme", attempt.endpoint.scheme.to_string()),
        KeyValue::text("url.path", &*record.path),
        KeyValue::text("server.address", &*attempt.endpoint.host),
        KeyValue::number("server.port", attempt.endpoint.port),
        KeyValue::text("network.protocol.name", "http"),
        KeyValue::text("network.protocol.version", version),
        KeyValue::text("rampmeter.backend", attempt.backend.as_str()),
        KeyValue::text("rampmeter.decision", decision(attempt)),
    ];
    let service = record.service.as_ref();
    attributes.extend(service.map(|s| KeyValue::text("rampmeter.service", s.as_str())));
    if at > 0 {
        attributes.push(KeyValue::number(
            "http.request.resend_count",
            whole(at as u64),
        ));
    }
    // The last attempt's response is the one whose end the record knows.
    let is_last = at + 1 == record.tries as usize && record.answer.is_none();
    let grpc_status = record.grpc_status.filter(|_| is_last);
    let broken = record.broken.filter(|_| is_last);
    attributes.extend(statuses(attempt.status, grpc_status));
    let refused = attempt
        .status
        .filter(|s| s.is_client_error() || s.is_server_error());
    let failed = grpc_status.is_some_and(|status| status != 0);
    let cause = attempt.fault.or(broken).map(str::to_owned);
    let cause = cause.or_else(|| refused.map(|status| status.as_str().to_owned()));
    let cause = cause.or_else(|| grpc_status.filter(|_| failed).map(|s| s.to_string()));
    let error = status(cause.is_some());
    attributes.extend(cause.map(|cause| KeyValue::text("error.type", cause)));
    let answered = attempt.answered.filter(|_| !is_last);
    let ended = answered.unwrap_or(record.duration);
    Some(Span {
        kind: SpanKind::Client.into(),
        attributes,
        status: error,
        flags: PARENT_KNOWN | u32::from(trace.flags.bits()),
        ..span(
            record,
            trace,
            attempt.span?,
            Some(trace.span),
            attempt.started,
            ended,
        )
    })
}

/// What all spans have, from `started` to `ended` after the request's start.
fn span(
    record: &Record,
    trace: &Trace,
    id: SpanId,
    parent: Option<SpanId>,
    started: Duration,
    ended: Duration,
) -> Span {
    let at = record.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = |after: Duration| u64::try_from((at + after).as_nanos()).unwrap_or(u64::MAX);
    let name = match method(record) {
        "_OTHER" => "HTTP",
        method => method,
    };
    Span {
        trace_id: trace.id.0.to_be_bytes().to_vec(),
        span_id: id.0.to_be_bytes().to_vec(),
        trace_state: trace.state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: parent.map_or_else(Vec::new, |id| id.0.to_be_bytes().to_vec()),
        name: name.to_owned(),
        start_time_unix_nano: nanos(started),
        end_time_unix_nano: nanos(ended),
        ..Span::default()
    }
}

fn method(record: &Record) -> &'static str {
    let known = METHODS.into_iter().find(|known| *known == &*record.method);
    known.unwrap_or("_OTHER")
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn decision(attempt: &Attempt) -> String {
    format!("{}.{}", attempt.decision.epoch, attempt.decision.revision)
}

fn statuses(status: Option<http::StatusCode>, grpc: Option<u16>) -> impl Iterator<Item = KeyValue> {
    let http = status.map(|s| KeyValue::number("http.response.status_code", s.as_u16()));
    let grpc = grpc.map(|s| KeyValue::number("rpc.grpc.status_code", s));
    http.into_iter().chain(grpc)
}

fn error_type(record: &Record, cause: Option<&str>, failed: bool) -> Option<String> {
    let cause = cause
        .map(str::to_owned)
        .filter(|_| failed || record.broken.is_some());
    let grpc = || record.grpc_status.filter(|s| is_servers_fault(*s));
    let status = || record.status.map(|status| status.as_str().to_owned());
    let other = || {
        grpc()
            .map(|s| s.to_string())
            .or_else(status)
            .filter(|_| failed)
    };
    cause.or_else(other)
}

fn status(failed: bool) -> Option<Status> {
    failed.then(|| Status {
        code: StatusCode::Error.into(),
    })
}

/// OTLP's numbers are signed.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An authority without its port, and that.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let bracket = authority.rfind(']').unwrap_or(0);
    match authority[bracket..].rfind(':') {
        Some(at) => {
            let (host, port) = authority.split_at(bracket + at);
            (host, port[1..].parse().ok())
        }
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_has_a_host_and_maybe_a_port() {
        for (authority, expected) in [
            ("a.example", ("a.example", None)),
            ("a.example:8080", ("a.example", Some(8080))),
            ("[::1]", ("[::1]", None)),
            ("[::1]:80", ("[::1]", Some(80))),
            ("a:x", ("a", None)),
            ("", ("", None)),
        ] {
            assert_eq!(host_and_port(authority), expected, "{authority}");
        }
    }
}
