//! One kept answer.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::time::Instant;

use crate::cache::{
    directives::Directives,
    freshness::{self, Terms},
    keeping::{self, Asker},
    kept::Kept,
    key::Variant,
    store::Charge,
};

/// What an answer takes beside its text: its maps and its place in the store.
const OVERHEAD: usize = 512;

/// And each of its fields.
const FIELD_OVERHEAD: usize = 96;

/// Fields that describe the kept body, so that a later header does not change them,
/// whatever it says.
const OF_THE_BODY: [HeaderName; 5] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ETAG,
    HeaderName::from_static("content-md5"),
];

/// An answer but for its body.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) variant: Variant,
    pub(crate) terms: Terms,
    /// How old it was when it came.
    initial_age: Duration,
    pub(crate) came: Instant,
}

/// When a response was asked for and came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) asked: Instant,
    pub(crate) came: Instant,
    /// The same moment for comparing with dates.
    pub(crate) date: SystemTime,
}

impl Times {
    /// Of a response that came now.
    pub(crate) fn since(asked: Instant) -> Self {
        Self {
            asked,
            came: Instant::now(),
            date: SystemTime::now(),
        }
    }
}

impl Head {
    /// Of a response to a GET with these fields, if it is to be kept.
    pub(crate) fn of(
        kept: &Kept,
        request: &HeaderMap,
        (status, response): (StatusCode, &HeaderMap),
        times: Times,
    ) -> Option<Self> {
        let said = freshness::directives(response);
        let terms = freshness::terms(status, response, &said, times.date);
        let delay = times.came - times.asked;
        let initial_age = freshness::initial_age(response, delay, times.date);
        let asker = Asker {
            authorized: request.contains_key(header::AUTHORIZATION),
            cookies: request.contains_key(header::COOKIE),
        };
        let answer = (status, response);
        let keeps = keeping::keeps(asker, kept.purpose(), answer, &said, &terms, initial_age);
        keeps.then(|| Self {
            status,
            headers: lasting(response, &said, times.date),
            variant: Variant::of(response, request),
            terms,
            initial_age,
            came: times.came,
        })
    }

    /// The bytes that it takes.
    pub(crate) fn weight(&self) -> usize {
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            FIELD_OVERHEAD + name.as_str().len() + value.len()
        };
        OVERHEAD + self.headers.iter().map(field).sum::<usize>() + self.variant.len()
    }

    /// How old it is.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.initial_age + now.saturating_duration_since(self.came)
    }

    /// This one as a 304 with these fields renews it.
    pub(crate) fn renewed(&self, unchanged: &HeaderMap, times: Times) -> Self {
        let mut headers = self.headers.clone();
        let said = freshness::directives(unchanged);
        let newer = lasting(unchanged, &said, times.date);
        for name in newer.keys().filter(|name| !OF_THE_BODY.contains(name)) {
            headers.remove(name);
            for value in newer.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        if !unchanged.contains_key(header::AGE) {
            headers.remove(header::AGE);
        }
        let said = freshness::directives(&headers);
        let delay = times.came - times.asked;
        Self {
            terms: freshness::terms(self.status, &headers, &said, times.date),
            initial_age: freshness::initial_age(unchanged, delay, times.date),
            came: times.came,
            status: self.status,
            variant: self.variant.clone(),
            headers,
        }
    }
}

/// The fields that are kept. Their text is copied: it lies in the connection's read
/// buffer, all of which would be kept with it.
fn lasting(response: &HeaderMap, said: &Directives, now: SystemTime) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(response.len() + 1);
    for (name, value) in response {
        if said.unshared.contains(name) {
            continue;
        }
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name, copy);
        }
    }
    if !headers.contains_key(header::DATE) {
        let now = httpdate::fmt_http_date(now);
        headers.extend(HeaderValue::try_from(now).map(|now| (header::DATE, now)));
    }
    headers
}

/// An answer with its body, as the store has it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) head: Head,
    pub(crate) body: Bytes,
    /// Whose it is.
    pub(crate) kept: Arc<Kept>,
    /// What [`Head::weight`] takes; the body has its own.
    pub(crate) _charge: Charge,
}

/// A body that gives back what it takes when nobody has it any more: a slow client
/// may have it for longer than the store.
#[derive(Debug)]
pub(crate) struct Charged {
    pub(crate) bytes: Vec<u8>,
    pub(crate) charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
