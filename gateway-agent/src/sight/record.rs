//! What is known about a request when it is over. Plain values, bounded, that
//! leave the core whole: nothing in it holds a buffer of a connection.

use std::time::{Duration, SystemTime};

use breaker_core::{
    breaker::Version,
    ids::{BackendName, ServiceName},
};
use fleet_config::Endpoint;
use http::{HeaderValue, StatusCode};

use crate::sight::context::{Flags, SpanId, TraceId};

/// Of a path, in bytes; what is longer is cut.
pub(crate) const MAX_PATH: usize = 1024;

/// The same of a host, the longest name there is and a port.
pub(crate) const MAX_HOST: usize = 260;

/// The same of a `User-Agent`.
pub(crate) const MAX_USER_AGENT: usize = 256;

/// The same of a method, ours aside.
pub(crate) const MAX_METHOD: usize = 32;

/// Of a `tracestate` that goes with a span; a longer one stays behind.
pub(crate) const MAX_STATE: usize = 512;

/// Attempts that are remembered one by one; later ones are counted.
pub(crate) const MAX_ATTEMPTS: usize = 8;

/// One request, from its header to the end of its response.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// When its header was there.
    pub(crate) at: SystemTime,
    /// Until the response's last byte was handed to the connection, or the client
    /// left.
    pub(crate) duration: Duration,
    /// Until the response's header was.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) method: Box<str>,
    /// As the client sent it, with its port; empty if it named none.
    pub(crate) host: Box<str>,
    /// As the client sent it, without the query: that is where secrets are.
    pub(crate) path: Box<str>,
    pub(crate) user_agent: Option<Box<str>>,
    pub(crate) version: http::Version,
    pub(crate) client: HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    pub(crate) service: Option<ServiceName>,
    /// `None`: the client left before there was one.
    pub(crate) status: Option<StatusCode>,
    /// `grpc-status`, of the header or the trailer.
    pub(crate) grpc_status: Option<u16>,
    /// If the answer was ours.
    pub(crate) answer: Option<Ours>,
    /// How the response ended early.
    pub(crate) broken: Option<&'static str>,
    pub(crate) request_bytes: u64,
    /// Of the body.
    pub(crate) response_bytes: u64,
    /// The first [`MAX_ATTEMPTS`] of them.
    pub(crate) attempts: Vec<Attempt>,
    /// All of them.
    pub(crate) tries: u32,
    /// Failures that were not written down since the last line about one.
    pub(crate) suppressed: u64,
    /// `None` while tracing is off.
    pub(crate) trace: Option<Trace>,
}

/// What an answer of ours says in `x-rampmeter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ours {
    pub(crate) reason: Box<str>,
    pub(crate) backend: Option<Box<str>>,
    pub(crate) decision: Option<Box<str>>,
}

/// A request's place in its trace.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) id: TraceId,
    /// The caller's span; `None`: the trace begins here.
    pub(crate) parent: Option<SpanId>,
    /// Ours.
    pub(crate) span: SpanId,
    pub(crate) flags: Flags,
    /// The caller's `tracestate`, empty if it is too long for a span; `None`: it has
    /// none that could be passed on.
    pub(crate) state: Option<Box<str>>,
}

/// One attempt at a backend.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) backend: BackendName,
    pub(crate) endpoint: Endpoint,
    /// The decision it was admitted under.
    pub(crate) decision: Version,
    /// From the request's start to its own.
    pub(crate) started: Duration,
    /// The same to its response's header, or to the failure.
    pub(crate) answered: Option<Duration>,
    pub(crate) status: Option<StatusCode>,
    /// Why there is no response.
    pub(crate) fault: Option<&'static str>,
    pub(crate) http2: bool,
    /// What the backend sees as its parent, if the request is traced.
    pub(crate) span: Option<SpanId>,
}

impl Record {
    /// Whether it is one of those that are written down whatever the sample: the
    /// answer was ours, or the service failed.
    pub(crate) fn is_failure(&self) -> bool {
        self.answer.is_some() || self.server_failed()
    }

    /// Whether a server would be blamed for it.
    pub(crate) fn server_failed(&self) -> bool {
        let status = self.status.is_some_and(|status| status.is_server_error());
        let broken = self.broken.is_some_and(|how| how != CLIENT_GONE);
        status || broken || self.grpc_status.is_some_and(is_servers_fault)
    }
}

/// How a response ends whose client left.
pub(crate) const CLIENT_GONE: &str = "client_gone";

/// UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: the
/// codes that OpenTelemetry counts as a server's errors.
pub(crate) fn is_servers_fault(grpc_status: u16) -> bool {
    matches!(grpc_status, 2 | 4 | 12..=15)
}

impl Ours {
    /// Of `reason=…; backend=…; decision=…`, as this agent wrote it.
    pub(crate) fn read(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let part = |key: &str| {
            let mut parts = text.split("; ");
            let found = parts.find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
            found.map(Box::from)
        };
        Some(Self {
            reason: part("reason")?,
            backend: part("backend"),
            decision: part("decision"),
        })
    }
}

/// As much of a text as fits into `most` bytes.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// The same of bytes that clients send, whatever they are.
pub(crate) fn cut_bytes(bytes: &[u8], most: usize) -> Box<str> {
    let short = &bytes[..bytes.len().min(most)];
    // A byte that is no text becomes three that are.
    cut(&String::from_utf8_lossy(short), most).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_words_are_read_back() {
        let read = |text| Ours::read(&HeaderValue::from_static(text));
        let ours = |reason: &str, backend: Option<&str>, decision: Option<&str>| {
            Some(Ours {
                reason: reason.into(),
                backend: backend.map(Box::from),
                decision: decision.map(Box::from),
            })
        };
        let open = read("reason=open; backend=pay/eu; decision=3.42");
        assert_eq!(open, ours("open", Some("pay/eu"), Some("3.42")));
        assert_eq!(read("reason=no_route"), ours("no_route", None, None));
        let shed = read("reason=shed; service=pay; decision=3.42");
        assert_eq!(shed, ours("shed", None, Some("3.42")));
        assert_eq!(read("unlike us"), None);
    }

    #[test]
    fn what_clients_send_is_cut_and_is_text() {
        assert_eq!(cut("über", 1), "");
        assert_eq!(cut("über", 2), "ü");
        assert_eq!(&*cut_bytes(b"a\xff\xfeb", 4), "a\u{fffd}");
        assert_eq!(&*cut_bytes(b"agent/1", 256), "agent/1");
    }
}
