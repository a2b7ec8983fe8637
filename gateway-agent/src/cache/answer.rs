//! Responses made of kept answers, and what they say about it: `Age`, and
//! `Cache-Status` (RFC 9211).

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::time::Instant;

use crate::{
    cache::{
        conditional::{self, Part},
        question::Get,
        stored::Stored,
    },
    request::{answer::OURS, body::Body},
};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What a 304 repeats of the answer that it stands for (RFC 9110 §15.4.5).
const IN_304: [HeaderName; 9] = [
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::VARY,
    header::VIA,
];

/// Why a kept answer is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It may be: it is fresh, or its client takes it stale.
    Hit,
    /// It is stale, and a newer one is on its way.
    Asking,
    /// Another request brought it just now.
    Collapsed,
    /// Its backend said just now that it still holds.
    Validated,
    /// Nothing newer can be had; with the status if a backend gave one.
    Emergency(Option<StatusCode>),
}

/// Answers a request with a kept answer.
pub(crate) fn reply(stored: &Stored, get: &Get, why: Why) -> Response<Body> {
    let head = &stored.head;
    let age = head.age(Instant::now());
    let mut response = match head.status {
        StatusCode::OK if conditional::is_known(&get.headers, &head.headers) => unchanged(stored),
        StatusCode::OK if !get.head => part(stored, get),
        _ => whole(stored),
    };
    if get.head {
        *response.body_mut() = Body::Empty;
    }
    let headers = response.headers_mut();
    headers.insert(header::AGE, age.as_secs().into());
    append(headers, &status(why, head.terms.lifetime, age));
    response
}

fn whole(stored: &Stored) -> Response<Body> {
    let mut headers = stored.head.headers.clone();
    let status = stored.head.status;
    match status == StatusCode::NO_CONTENT {
        true => drop(headers.remove(header::CONTENT_LENGTH)),
        false => drop(headers.insert(header::CONTENT_LENGTH, stored.body.len().into())),
    }
    with(status, headers, stored.body.clone())
}

fn part(stored: &Stored, get: &Get) -> Response<Body> {
    let (kept, length) = (&stored.head.headers, stored.body.len());
    let (status, bytes, range) = match conditional::part(&get.headers, kept, length) {
        Part::Whole => return whole(stored),
        Part::Beyond => (
            StatusCode::RANGE_NOT_SATISFIABLE,
            Bytes::new(),
            format!("bytes */{length}"),
        ),
        Part::Bytes(bytes) => (
            StatusCode::PARTIAL_CONTENT,
            stored.body.slice(bytes.clone()),
            format!("bytes {}-{}/{length}", bytes.start, bytes.end - 1),
        ),
    };
    let mut headers = kept.clone();
    headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    // Digits and punctuation always make a value.
    if let Ok(range) = HeaderValue::try_from(range) {
        headers.insert(header::CONTENT_RANGE, range);
    }
    with(status, headers, bytes)
}

fn unchanged(stored: &Stored) -> Response<Body> {
    let kept = &stored.head.headers;
    let mut headers = HeaderMap::new();
    for name in &IN_304 {
        for value in kept.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    with(StatusCode::NOT_MODIFIED, headers, Bytes::new())
}

fn with(status: StatusCode, headers: HeaderMap, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(match bytes.is_empty() {
        true => Body::Empty,
        false => Body::Full(bytes),
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn status(why: Why, lifetime: Duration, age: Duration) -> String {
    let ttl = lifetime.as_secs() as i64 - age.as_secs() as i64;
    let mut text = String::with_capacity(64);
    text.push_str(match why {
        Why::Hit | Why::Asking => "rampmeter; hit",
        Why::Collapsed => "rampmeter; fwd=miss; collapsed",
        Why::Validated => "rampmeter; fwd=stale; fwd-status=304; stored",
        Why::Emergency(_) if age < lifetime => "rampmeter; hit",
        Why::Emergency(_) => "rampmeter; fwd=stale",
    });
    if let Why::Emergency(Some(status)) = why {
        // Writing to a String does not fail.
        let _ = write!(text, "; fwd-status={}", status.as_u16());
    }
    let _ = write!(text, "; ttl={ttl}");
    text.push_str(match why {
        Why::Asking => "; detail=stale-while-revalidate",
        Why::Emergency(_) if age < lifetime => "; detail=fallback",
        Why::Emergency(_) => "; detail=stale-if-error",
        Why::Hit | Why::Collapsed | Why::Validated => "",
    });
    text
}

/// Says why a request went to its backend, and what became of the answer.
pub(crate) fn forwarded(headers: &mut HeaderMap, why: &str, stored: bool) {
    let stored = if stored { "; stored" } else { "" };
    append(headers, &format!("rampmeter; fwd={why}{stored}"));
}

fn append(headers: &mut HeaderMap, text: &str) {
    // Tokens and digits always make a value.
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.append(CACHE_STATUS, value);
    }
}

/// Marks an emergency's answer as ours, with the mark that the refusal would have
/// had, so that a person can tell.
pub(crate) fn mark(response: &mut Response<Body>, reason: &str, stale: bool) {
    let how = if stale { "stale" } else { "kept" };
    if let Ok(value) = HeaderValue::try_from(format!("{reason}; {how}")) {
        response.headers_mut().insert(OURS, value);
    }
}
