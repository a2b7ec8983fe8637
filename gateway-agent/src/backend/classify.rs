//! What a response says about its backend.
//!
//! Failures and overloads by status are known at the header and settled there,
//! so that the fleet hears of them at once. Everything else is settled when the
//! body ends, because until then the backend can still fail it: a response that
//! breaks off is a `Reset` and never was a success. gRPC says how it went in
//! `grpc-status`, in the header or, mostly, in the trailers.

use std::time::{Duration, SystemTime};

use breaker_core::outcome::{FailureKind, OutcomeClass};
use http::{HeaderMap, StatusCode, header};

use crate::limits::MAX_RETRY_AFTER;

/// An outcome, and when the backend wants to be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Its class.
    pub(crate) class: OutcomeClass,
    /// The backend's own word.
    pub(crate) retry_after: Option<Duration>,
}

impl Verdict {
    /// A verdict of ours, without a word of the backend.
    pub(crate) const fn of(class: OutcomeClass) -> Self {
        Self {
            class,
            retry_after: None,
        }
    }

    /// A failure that is no answer.
    pub(crate) const fn failure(kind: FailureKind) -> Self {
        Self::of(OutcomeClass::Failure(kind))
    }
}

/// Whether a content type is gRPC's; gRPC-Web has its status in the body and is
/// plain HTTP here.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(|v| v.as_bytes());
    let rest = value.and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The verdict that a response's header allows; `None` if its body decides.
pub(crate) fn at_header(grpc: bool, status: StatusCode, headers: &HeaderMap) -> Option<Verdict> {
    if grpc && headers.contains_key("grpc-status") {
        return Some(of_grpc(headers));
    }
    match OutcomeClass::of_http_status(status.as_u16()) {
        OutcomeClass::Success => None,
        class => Some(Verdict {
            class,
            retry_after: retry_after(headers, SystemTime::now),
        }),
    }
}

/// The verdict when a body ended as it should. gRPC owes a status: without one,
/// clients see `UNKNOWN`.
pub(crate) fn at_end(grpc: bool, status: StatusCode, trailers: Option<&HeaderMap>) -> Verdict {
    match trailers {
        _ if !grpc || status != StatusCode::OK => Verdict::of(OutcomeClass::Success),
        Some(trailers) if trailers.contains_key("grpc-status") => of_grpc(trailers),
        _ => Verdict::failure(FailureKind::Grpc),
    }
}

/// The verdict of a header or trailer with `grpc-status`; a status that is no
/// number is `UNKNOWN`, as the specification has it.
fn of_grpc(headers: &HeaderMap) -> Verdict {
    const UNKNOWN: u32 = 2;
    let status = headers.get("grpc-status").and_then(|v| v.to_str().ok());
    let status = status.and_then(|s| s.parse().ok()).unwrap_or(UNKNOWN);
    let pushback = headers.get("grpc-retry-pushback-ms");
    let wait = pushback.and_then(|v| v.to_str().ok()?.parse().ok());
    Verdict {
        class: OutcomeClass::of_grpc_status(status, pushback.is_some()),
        // Negative means "do not retry" and gives no time.
        retry_after: wait.map(|ms| Duration::from_millis(ms).min(MAX_RETRY_AFTER)),
    }
}

/// `Retry-After` in either of its forms; nonsense counts as absent.
fn retry_after(headers: &HeaderMap, now: impl Fn() -> SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(value).ok()?;
            date.duration_since(now()).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let value = value.parse().expect("a header value");
            (http::HeaderName::from_static(name), value)
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn statuses_are_settled_at_the_header_unless_good() {
        use {FailureKind::*, OutcomeClass::*};
        for (status, expected) in [
            (200, None),
            (404, None),
            (500, Some(Failure(Http5xx))),
            (502, Some(Failure(Http5xx))),
            (503, Some(Overload)),
            (429, Some(Overload)),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let verdict = at_header(false, status, &HeaderMap::new());
            assert_eq!(verdict.map(|v| v.class), expected, "{status}");
        }
    }

    #[test]
    fn grpc_is_judged_by_its_status() {
        use {FailureKind::*, OutcomeClass::*};
        for (status, expected) in [
            ("0", Success),
            ("5", Success),
            ("14", Failure(Grpc)),
            ("8", Overload),
            ("what", Failure(Grpc)),
        ] {
            let fields = headers(&[("grpc-status", status)]);
            let verdict = at_header(true, StatusCode::OK, &fields).expect("decided");
            assert_eq!(verdict.class, expected, "{status}");
            let verdict = at_end(true, StatusCode::OK, Some(&fields));
            assert_eq!(verdict.class, expected, "{status}");
            assert_eq!(at_header(false, StatusCode::OK, &fields), None);
        }
        let missing = at_end(true, StatusCode::OK, None);
        assert_eq!(missing, Verdict::failure(Grpc));
    }

    #[test]
    fn pushback_makes_unavailable_an_overload() {
        for (pushback, wait) in [("250", Some(Duration::from_millis(250))), ("-1", None)] {
            let fields = headers(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", pushback)]);
            let verdict = at_end(true, StatusCode::OK, Some(&fields));
            assert_eq!(verdict.class, OutcomeClass::Overload);
            assert_eq!(verdict.retry_after, wait);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_capped() {
        let now = || httpdate::parse_http_date("Mon, 23 Nov 2026 10:00:00 GMT").expect("a date");
        for (value, expected) in [
            ("7", Some(7)),
            ("Mon, 23 Nov 2026 10:00:12 GMT", Some(12)),
            ("Mon, 23 Nov 2026 09:00:00 GMT", Some(0)),
            ("86400", Some(300)),
            ("soon", None),
            ("-3", None),
        ] {
            let found = retry_after(&headers(&[("retry-after", value)]), now);
            assert_eq!(found, expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&headers(&[("content-type", value)])), expected);
        }
    }
}
