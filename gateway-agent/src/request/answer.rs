//! Answers that we make ourselves: RFC 9457 problems for HTTP, a status without
//! a body for gRPC. Each says in `x-rampmeter` that it is ours, and why.
//!
//! Names and reasons here are of `[A-Za-z0-9._/-]`, so nothing needs escaping.

use std::{fmt::Write, time::Duration};

use breaker_core::{FailureKind, breaker::Version};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    admit::refusal::{OverQuota, Refusal, Shed},
    request::{body::Body, intake::Unfit},
};

/// Says that an answer is ours, and why.
pub(crate) const OURS: HeaderName = HeaderName::from_static("x-rampmeter");
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// To an HTTP/1 client whose header did not end in time, as it goes out: hyper
/// has no request yet that could be answered.
pub(crate) const HEADER_TIMEOUT: &str = "HTTP/1.1 408 Request Timeout\r\n\
    content-type: application/problem+json\r\n\
    content-length: 138\r\n\
    connection: close\r\n\
    x-rampmeter: reason=header_timeout\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Request Timeout\",\"status\":408,\
    \"detail\":\"the request header did not end in time\",\"reason\":\"header_timeout\"}\n";

/// The same for a small body that its header waited for.
pub(crate) const BODY_TIMEOUT: &str = "HTTP/1.1 408 Request Timeout\r\n\
    content-type: application/problem+json\r\n\
    content-length: 147\r\n\
    connection: close\r\n\
    x-rampmeter: reason=body_stalled\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Request Timeout\",\"status\":408,\
    \"detail\":\"the rest of the request body did not come in time\",\"reason\":\"body_stalled\"}\n";

/// Why we answer instead of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// See [`Unfit`].
    Unfit(Unfit),
    /// It has been here before.
    Loop,
    /// No route matches.
    NoRoute,
    /// The POP's region order has none of the service's regions.
    NoRegion,
    /// The body is longer than the route allows.
    BodyTooLarge,
    /// The client stopped sending its body.
    BodyStalled,
    /// Every connection to the endpoint is busy.
    Limit,
    /// This agent has as many requests as it may hold.
    Full,
    /// No connection to the endpoint.
    Connect,
    /// No connection to the endpoint in time.
    ConnectTimeout,
    /// The endpoint closed the connection or spoke nonsense.
    Reset,
    /// The endpoint switched protocols unasked.
    Upgraded,
    /// One of our time-outs ran out.
    Timeout,
    /// A drill made it fail like this.
    Drill(FailureKind),
    /// Nothing is kept that the client would take, and it wants nobody asked.
    OnlyIfCached,
    /// A bug of ours.
    Internal,
}

/// How a fault looks from outside.
struct Face {
    status: StatusCode,
    grpc: u8,
    reason: &'static str,
    detail: &'static str,
    /// The rest of the request cannot be trusted, or is not wanted.
    close: bool,
}

const fn face(status: StatusCode, grpc: u8, reason: &'static str, detail: &'static str) -> Face {
    Face {
        status,
        grpc,
        reason,
        detail,
        close: false,
    }
}

const fn closing(face: Face) -> Face {
    Face {
        close: true,
        ..face
    }
}

/// gRPC's codes.
mod code {
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
}

impl Fault {
    /// As `x-rampmeter` says it.
    pub(crate) const fn reason(self) -> &'static str {
        self.face().reason
    }

    const fn face(self) -> Face {
        use StatusCode as S;
        use code::*;
        match self {
            Self::Unfit(Unfit::Ambiguous(why)) => {
                closing(face(S::BAD_REQUEST, INTERNAL, "bad_request", why))
            }
            Self::Unfit(Unfit::TargetTooLong) => closing(face(
                S::URI_TOO_LONG,
                INTERNAL,
                "target_too_long",
                "the request target is longer than allowed",
            )),
            Self::Unfit(Unfit::FieldsTooLarge) => closing(face(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                RESOURCE_EXHAUSTED,
                "fields_too_large",
                "a field, or all together, are longer or more than allowed",
            )),
            Self::Unfit(Unfit::Connect) => closing(face(
                S::METHOD_NOT_ALLOWED,
                UNIMPLEMENTED,
                "connect_method",
                "CONNECT is not served here",
            )),
            Self::Loop => face(
                S::LOOP_DETECTED,
                INTERNAL,
                "loop",
                "the request has been through this gateway before: a backend leads back to it",
            ),
            Self::NoRoute => face(
                S::NOT_FOUND,
                UNIMPLEMENTED,
                "no_route",
                "no route matches this host, path, method and header",
            ),
            Self::NoRegion => face(
                S::SERVICE_UNAVAILABLE,
                UNAVAILABLE,
                "no_region",
                "none of the service's regions is in the region order of this POP",
            ),
            Self::BodyTooLarge => closing(face(
                S::PAYLOAD_TOO_LARGE,
                RESOURCE_EXHAUSTED,
                "body_too_large",
                "the request body is longer than the route allows",
            )),
            Self::BodyStalled => closing(face(
                S::REQUEST_TIMEOUT,
                DEADLINE_EXCEEDED,
                "body_stalled",
                "the rest of the request body did not come in time",
            )),
            Self::Limit => face(
                S::SERVICE_UNAVAILABLE,
                UNAVAILABLE,
                "limit",
                "every connection to the backend is in use",
            ),
            Self::Full => face(
                S::SERVICE_UNAVAILABLE,
                UNAVAILABLE,
                "full",
                "the gateway has as many requests as it may hold",
            ),
            Self::Connect => face(
                S::BAD_GATEWAY,
                UNAVAILABLE,
                "connect",
                "no connection to the backend",
            ),
            Self::ConnectTimeout => face(
                S::GATEWAY_TIMEOUT,
                DEADLINE_EXCEEDED,
                "connect_timeout",
                "no connection to the backend in time",
            ),
            Self::Reset => face(
                S::BAD_GATEWAY,
                UNAVAILABLE,
                "reset",
                "the backend broke off before it answered",
            ),
            Self::Upgraded => face(
                S::BAD_GATEWAY,
                UNAVAILABLE,
                "upgraded",
                "the backend switched protocols unasked",
            ),
            Self::Timeout => face(
                S::GATEWAY_TIMEOUT,
                DEADLINE_EXCEEDED,
                "timeout",
                "the backend did not answer in time",
            ),
            Self::Drill(kind) => {
                let (status, grpc) = match kind {
                    FailureKind::Connect | FailureKind::Reset => (S::BAD_GATEWAY, UNAVAILABLE),
                    FailureKind::Timeout => (S::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED),
                    FailureKind::Http5xx | FailureKind::Grpc => {
                        (S::SERVICE_UNAVAILABLE, UNAVAILABLE)
                    }
                };
                face(
                    status,
                    grpc,
                    "drill",
                    "a drill rehearses a failure of the backend",
                )
            }
            Self::OnlyIfCached => face(
                S::GATEWAY_TIMEOUT,
                UNAVAILABLE,
                "only_if_cached",
                "nothing fresh is kept, and the request wants no backend asked",
            ),
            Self::Internal => face(
                S::INTERNAL_SERVER_ERROR,
                INTERNAL,
                "internal",
                "the gateway failed",
            ),
        }
    }
}

/// The answer to a refused request: the fast one, so it costs three small
/// allocations and no more.
pub(crate) fn refused(refusal: &Refusal, grpc: bool) -> Response<Body> {
    let face = face(
        StatusCode::SERVICE_UNAVAILABLE,
        code::UNAVAILABLE,
        refusal.reason.as_str(),
        "the backend is not taking this request now; come back after Retry-After",
    );
    let whose = Some(Whose::Backend(refusal.backend.as_str()));
    let wait = Some(refusal.retry_after);
    answer(&face, whose, Some(refusal.version), wait, grpc)
}

/// The answer to a request that no region has room for.
pub(crate) fn shed(shed: &Shed, grpc: bool) -> Response<Body> {
    let face = face(
        StatusCode::SERVICE_UNAVAILABLE,
        code::UNAVAILABLE,
        "shed",
        "the service has no room for this request in any region; come back after Retry-After",
    );
    let whose = Some(Whose::Service(shed.service.as_str()));
    let wait = Some(shed.retry_after);
    answer(&face, whose, Some(shed.version), wait, grpc)
}

/// The answer to a request over its quota, with the fields of
/// draft-ietf-httpapi-ratelimit-headers-10.
pub(crate) fn over_quota(over: &OverQuota, grpc: bool) -> Response<Body> {
    let face = face(
        StatusCode::TOO_MANY_REQUESTS,
        code::RESOURCE_EXHAUSTED,
        "quota",
        "this is more than the quota allows; come back after Retry-After",
    );
    let whose = Some(Whose::Service(over.service.as_str()));
    let mut response = answer(&face, whose, None, Some(over.retry_after), grpc);
    let (quota, window) = policy(over.rate);
    let wait = whole_seconds(over.retry_after);
    let headers = response.headers_mut();
    let mut field = |name, text: String| {
        // Digits and punctuation always make a value.
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
            headers.insert(name, value);
        }
    };
    field(RATE_LIMIT_POLICY, format!("\"quota\";q={quota};w={window}"));
    field(RATE_LIMIT, format!("\"quota\";r=0;t={wait}"));
    response
}

/// A rate as whole requests in whole seconds: in one, unless that is less than
/// a request, and then in as many as it takes.
fn policy(rate: f64) -> (u64, u64) {
    match rate >= 1.0 {
        true => (rate as u64, 1),
        false => (1, (1.0 / rate).ceil() as u64),
    }
}

/// The answer to a request that failed; with the backend, and the decision it
/// was admitted under, if it got that far.
pub(crate) fn fault(fault: Fault, at: Option<(&str, Version)>, grpc: bool) -> Response<Body> {
    // What frees up again soon, and by itself.
    let wait = matches!(fault, Fault::Limit | Fault::Full | Fault::NoRegion)
        .then_some(Duration::from_secs(1));
    let (backend, version) = at.unzip();
    answer(
        &fault.face(),
        backend.map(Whose::Backend),
        version,
        wait,
        grpc,
    )
}

/// What an answer is about.
#[derive(Clone, Copy)]
enum Whose<'a> {
    Backend(&'a str),
    Service(&'a str),
}

impl<'a> Whose<'a> {
    const fn parts(self) -> (&'static str, &'a str) {
        match self {
            Self::Backend(name) => ("backend", name),
            Self::Service(name) => ("service", name),
        }
    }
}

fn answer(
    face: &Face,
    whose: Option<Whose<'_>>,
    version: Option<Version>,
    wait: Option<Duration>,
    grpc: bool,
) -> Response<Body> {
    let mut response = match grpc {
        true => status_only(face, wait),
        false => problem(face, whose, wait),
    };
    let headers = response.headers_mut();
    headers.insert(OURS, ours(face.reason, whose, version));
    if face.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn status_only(face: &Face, wait: Option<Duration>) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC);
    headers.insert(GRPC_STATUS, u16::from(face.grpc).into());
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(face.detail));
    if let Some(wait) = wait {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        headers.insert(GRPC_PUSHBACK, millis.into());
    }
    response
}

fn problem(face: &Face, whose: Option<Whose<'_>>, wait: Option<Duration>) -> Response<Body> {
    let Face {
        status,
        reason,
        detail,
        ..
    } = face;
    let mut text = String::with_capacity(256);
    let title = status.canonical_reason().unwrap_or("Error");
    text.push_str("{\"type\":\"about:blank\",\"title\":\"");
    text.push_str(title);
    // Writing to a String does not fail.
    let _ = write!(text, "\",\"status\":{},\"detail\":\"", status.as_u16());
    text.push_str(detail);
    text.push_str("\",\"reason\":\"");
    text.push_str(reason);
    if let Some((key, name)) = whose.map(Whose::parts) {
        text.push_str("\",\"");
        text.push_str(key);
        text.push_str("\":\"");
        text.push_str(name);
    }
    text.push_str("\"}\n");
    let mut response = Response::new(Body::Full(Bytes::from(text)));
    *response.status_mut() = *status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM);
    if let Some(wait) = wait {
        headers.insert(header::RETRY_AFTER, whole_seconds(wait).into());
    }
    response
}

/// Rounded up, and at least one: zero would invite a storm.
fn whole_seconds(wait: Duration) -> u64 {
    let partial = u64::from(wait.subsec_nanos() > 0);
    (wait.as_secs() + partial).max(1)
}

fn ours(reason: &str, whose: Option<Whose<'_>>, version: Option<Version>) -> HeaderValue {
    let mut text = String::with_capacity(96);
    text.push_str("reason=");
    text.push_str(reason);
    if let Some((key, name)) = whose.map(Whose::parts) {
        text.push_str("; ");
        text.push_str(key);
        text.push('=');
        text.push_str(name);
    }
    if let Some(Version { epoch, revision }) = version {
        let _ = write!(text, "; decision={epoch}.{revision}");
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("reason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Fault; 18] = [
        Fault::Unfit(Unfit::Ambiguous("why")),
        Fault::Unfit(Unfit::TargetTooLong),
        Fault::Unfit(Unfit::FieldsTooLarge),
        Fault::Unfit(Unfit::Connect),
        Fault::Loop,
        Fault::NoRoute,
        Fault::NoRegion,
        Fault::BodyTooLarge,
        Fault::BodyStalled,
        Fault::Limit,
        Fault::Connect,
        Fault::ConnectTimeout,
        Fault::Reset,
        Fault::Upgraded,
        Fault::Timeout,
        Fault::Drill(FailureKind::Http5xx),
        Fault::OnlyIfCached,
        Fault::Internal,
    ];

    #[test]
    fn every_fault_has_a_face_of_its_own_that_needs_no_escaping() {
        let mut reasons = std::collections::BTreeSet::new();
        for fault in ALL {
            let Face { reason, detail, .. } = fault.face();
            assert!(reasons.insert(reason), "{reason} twice");
            let plain = |b: u8| (b' '..=b'~').contains(&b) && !matches!(b, b'"' | b'\\' | b'%');
            assert!(detail.bytes().all(plain), "{detail}");
        }
    }

    #[test]
    fn a_quota_is_told_as_whole_requests_in_whole_seconds() {
        for (rate, expected) in [
            (500.0, (500, 1)),
            (1.5, (1, 1)),
            (0.5, (1, 2)),
            (0.3, (1, 4)),
        ] {
            assert_eq!(policy(rate), expected, "{rate}");
        }
    }

    #[test]
    fn retry_after_is_in_whole_seconds_and_never_zero() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (2999, 3)] {
            assert_eq!(
                whole_seconds(Duration::from_millis(millis)),
                seconds,
                "{millis}"
            );
        }
    }
}
