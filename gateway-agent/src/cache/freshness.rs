//! How long an answer may be used, and for whom: RFC 9111 §4.2 and §5.2, RFC 5861.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::cache::directives::{Directives, number};

/// Said to caches like us only (RFC 9213); where it is, it is all that counts.
pub(crate) const TARGETED: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Of the time since a response last changed, the part for which it is taken to
/// stay as it is: one tenth, as RFC 9111 §4.2.2 suggests.
const HEURISTIC_PART: u32 = 10;

/// The longest that is guessed.
const HEURISTIC_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A response's terms of use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Fresh until it is this old.
    pub(crate) lifetime: Duration,
    /// The response itself says so, or that it is public.
    pub(crate) explicit: bool,
    /// How stale it may be when nothing newer can be had; `None`: it does not say.
    pub(crate) stale_if_error: Option<Duration>,
    /// How stale it may be while a newer one is being fetched.
    pub(crate) stale_while_revalidate: Duration,
    /// Never stale, whatever happens.
    pub(crate) revalidate: bool,
    /// Never without asking.
    pub(crate) validate: bool,
    /// Marked as everybody's, so that it may be kept though its request had
    /// credentials.
    pub(crate) everybodys: bool,
}

/// The directives that count for us.
pub(crate) fn directives(headers: &HeaderMap) -> Directives {
    let targeted = Directives::of(headers, &TARGETED);
    let targeted = targeted.filter(|targeted| *targeted != Directives::default());
    targeted
        .or_else(|| Directives::of(headers, &header::CACHE_CONTROL))
        .unwrap_or_default()
}

/// The terms of a response that came at `now`.
pub(crate) fn terms(
    status: StatusCode,
    headers: &HeaderMap,
    said: &Directives,
    now: SystemTime,
) -> Terms {
    let expires = || match headers.contains_key(TARGETED) && *said != Directives::default() {
        true => None,
        false => expires(headers, now),
    };
    let stated = said.s_maxage.or(said.max_age).or_else(expires);
    let guessed = || match understood_as_lasting(status) || said.public {
        true => heuristic(headers, now),
        false => Duration::ZERO,
    };
    let aged = age_is_clear(headers);
    Terms {
        lifetime: match aged {
            true => stated.unwrap_or_else(guessed),
            false => Duration::ZERO,
        },
        explicit: stated.is_some() || said.public,
        stale_if_error: said.stale_if_error,
        stale_while_revalidate: said.stale_while_revalidate.unwrap_or_default(),
        revalidate: said.must_revalidate || said.proxy_revalidate || said.s_maxage.is_some(),
        validate: said.no_cache,
        everybodys: said.public || said.s_maxage.is_some() || said.must_revalidate,
    }
}

/// Statuses that may be kept without a word about it (RFC 9110 §15.1), without
/// 206, which is only a part.
pub(crate) fn understood_as_lasting(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

/// Nonsense, and more than one line of it, means stale.
fn expires(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let mut values = headers.get_all(header::EXPIRES).iter();
    let first = values.next()?;
    let only = values.next().is_none();
    let at = date_in(first.as_bytes()).filter(|_| only);
    let sent = date(headers, &header::DATE).unwrap_or(now);
    let left = at.and_then(|at| at.duration_since(sent).ok());
    Some(left.unwrap_or_default())
}

fn heuristic(headers: &HeaderMap, now: SystemTime) -> Duration {
    let changed = date(headers, &header::LAST_MODIFIED);
    let sent = date(headers, &header::DATE).unwrap_or(now);
    let unchanged = changed.and_then(|changed| sent.duration_since(changed).ok());
    (unchanged.unwrap_or_default() / HEURISTIC_PART).min(HEURISTIC_LIMIT)
}

/// A date field.
pub(crate) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    date_in(headers.get(name)?.as_bytes())
}

fn date_in(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()
}

/// How old a response was when it came, `delay` after it was asked for. An `Age`
/// that is not clear counts as none here; [`terms`] makes such an answer stale.
pub(crate) fn initial_age(headers: &HeaderMap, delay: Duration, now: SystemTime) -> Duration {
    let sent = date(headers, &header::DATE);
    let apparent = sent.and_then(|sent| now.duration_since(sent).ok());
    let told = headers
        .get(header::AGE)
        .and_then(|age| number(age.as_bytes()));
    let told = Duration::from_secs(told.unwrap_or(0).into()) + delay;
    apparent.unwrap_or_default().max(told)
}

/// There is no `Age`, or exactly one number. A list says that something on the
/// way is confused, and nobody knows which of its members is the age.
fn age_is_clear(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::AGE).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(age), None) => number(age.as_bytes()).is_some(),
        (Some(_), Some(_)) => false,
    }
}

/// What may be done with a kept answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Use it.
    Fresh,
    /// Use it, though it is stale.
    Stale,
    /// Use it, and ask for a newer one.
    StaleAndAsk,
    /// Ask first.
    Ask,
}

impl Terms {
    /// What to do with an answer of this `age` for a request that says `asked`.
    pub(crate) fn use_for(&self, asked: &Directives, age: Duration) -> Use {
        let too_old = asked.max_age.is_some_and(|most| age > most);
        if self.validate || asked.no_cache || too_old {
            return Use::Ask;
        }
        if age < self.lifetime {
            let left = self.lifetime - age;
            return match left >= asked.min_fresh.unwrap_or_default() {
                true => Use::Fresh,
                false => Use::Ask,
            };
        }
        let stale_for = age - self.lifetime;
        let taken = asked.max_stale.is_some_and(|most| stale_for <= most);
        let being_asked = asked.min_fresh.is_none() && stale_for < self.stale_while_revalidate;
        match self.revalidate {
            true => Use::Ask,
            false if taken => Use::Stale,
            false if being_asked => Use::StaleAndAsk,
            false => Use::Ask,
        }
    }

    /// Whether it may be used at this `age` because nothing newer can be had. Its
    /// own word counts, else the operator's, whose `limit` bounds both.
    pub(crate) fn helps(&self, asked: &Directives, age: Duration, limit: Duration) -> bool {
        if self.validate || asked.no_cache || asked.no_store {
            return false;
        }
        let stale_for = age.saturating_sub(self.lifetime);
        let allowed = self.stale_if_error.unwrap_or(limit).min(limit);
        age < self.lifetime || (!self.revalidate && stale_for < allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Mon, 23 Nov 2026 10:00:00 GMT";

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    fn now() -> SystemTime {
        httpdate::parse_http_date(NOW).expect("a date")
    }

    fn of(status: u16, fields: &[(&'static str, &'static str)]) -> Terms {
        let headers = headers(fields);
        let status = StatusCode::from_u16(status).expect("a status");
        terms(status, &headers, &directives(&headers), now())
    }

    fn asked(line: &str) -> Directives {
        Directives::parse([line.as_bytes()])
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_most_specific_word_about_freshness_counts() {
        const CC: &str = "cache-control";
        for (status, fields, expected) in [
            (200, &[(CC, "max-age=10, s-maxage=20")][..], 20),
            (
                200,
                &[
                    (CC, "max-age=10"),
                    ("expires", "Mon, 23 Nov 2026 11:00:00 GMT"),
                ],
                10,
            ),
            (200, &[("expires", "Mon, 23 Nov 2026 11:00:00 GMT")], 3600),
            (
                200,
                &[
                    ("date", "Mon, 23 Nov 2026 10:30:00 GMT"),
                    ("expires", "Mon, 23 Nov 2026 11:00:00 GMT"),
                ],
                1800,
            ),
            (200, &[("expires", "0")], 0),
            (
                200,
                &[
                    ("expires", NOW),
                    ("last-modified", "Mon, 23 Nov 2026 09:00:00 GMT"),
                ],
                0,
            ),
            (
                200,
                &[("last-modified", "Mon, 23 Nov 2026 09:00:00 GMT")],
                360,
            ),
            (
                200,
                &[("last-modified", "Wed, 23 Nov 2016 09:00:00 GMT")],
                86_400,
            ),
            (
                201,
                &[("last-modified", "Mon, 23 Nov 2026 09:00:00 GMT")],
                0,
            ),
            (
                201,
                &[
                    (CC, "public"),
                    ("last-modified", "Mon, 23 Nov 2026 09:00:00 GMT"),
                ],
                360,
            ),
            (
                200,
                &[(CC, "max-age=10"), ("cdn-cache-control", "max-age=30")],
                30,
            ),
            (200, &[(CC, "max-age=10"), ("cdn-cache-control", "")], 10),
            (200, &[(CC, "max-age=10"), ("age", "x")], 0),
            (200, &[(CC, "max-age=10"), ("age", "0, 0")], 0),
            (200, &[(CC, "max-age=10"), ("age", "0"), ("age", "0")], 0),
        ] {
            assert_eq!(
                of(status, fields).lifetime,
                secs(expected),
                "{status} {fields:?}"
            );
        }
    }

    #[test]
    fn an_answer_is_as_old_as_the_worst_clock_on_its_way_says() {
        for (fields, delay, expected) in [
            (&[("age", "30")][..], 2, 32),
            (&[("date", "Mon, 23 Nov 2026 09:59:00 GMT")], 2, 60),
            (&[("date", "Mon, 23 Nov 2026 10:59:00 GMT")], 2, 2),
            (
                &[("date", "Mon, 23 Nov 2026 09:59:00 GMT"), ("age", "100")],
                0,
                100,
            ),
        ] {
            let age = initial_age(&headers(fields), secs(delay), now());
            assert_eq!(age, secs(expected), "{fields:?}");
        }
    }

    #[test]
    fn a_request_can_want_it_fresher_or_take_it_staler() {
        for (response, request, age, expected) in [
            ("max-age=10", "", 9, Use::Fresh),
            ("max-age=10", "", 10, Use::Ask),
            ("max-age=10", "no-cache", 0, Use::Ask),
            ("max-age=10", "max-age=5", 6, Use::Ask),
            ("max-age=10", "min-fresh=5", 5, Use::Fresh),
            ("max-age=10", "min-fresh=5", 6, Use::Ask),
            ("max-age=10", "max-stale=5", 15, Use::Stale),
            ("max-age=10", "max-stale=5", 16, Use::Ask),
            ("max-age=10", "max-stale", 9999, Use::Stale),
            ("max-age=10, must-revalidate", "max-stale", 11, Use::Ask),
            ("s-maxage=10", "max-stale", 11, Use::Ask),
            ("max-age=10, no-cache", "", 0, Use::Ask),
            (
                "max-age=10, stale-while-revalidate=5",
                "",
                14,
                Use::StaleAndAsk,
            ),
            ("max-age=10, stale-while-revalidate=5", "", 15, Use::Ask),
            (
                "max-age=10, stale-while-revalidate=5, proxy-revalidate",
                "",
                11,
                Use::Ask,
            ),
        ] {
            let terms = of(200, &[("cache-control", response)]);
            let found = terms.use_for(&asked(request), secs(age));
            assert_eq!(found, expected, "{response:?} {request:?} {age}");
        }
    }

    #[test]
    fn in_an_emergency_the_answer_s_own_word_counts_and_the_operator_s_bounds_it() {
        let limit = secs(300);
        for (response, request, age, expected) in [
            ("max-age=10", "", 309, true),
            ("max-age=10", "", 310, false),
            ("max-age=10, stale-if-error=60", "", 69, true),
            ("max-age=10, stale-if-error=60", "", 70, false),
            ("max-age=10, stale-if-error=9999", "", 310, false),
            ("max-age=10, stale-if-error=0", "", 10, false),
            ("max-age=10, must-revalidate", "", 9, true),
            (
                "max-age=10, must-revalidate, stale-if-error=60",
                "",
                10,
                false,
            ),
            ("max-age=10, proxy-revalidate", "", 10, false),
            ("s-maxage=10", "", 10, false),
            ("max-age=10, no-cache", "", 0, false),
            ("max-age=10", "no-cache", 0, false),
            ("max-age=10", "max-age=0", 20, true),
        ] {
            let terms = of(200, &[("cache-control", response)]);
            let found = terms.helps(&asked(request), secs(age), limit);
            assert_eq!(found, expected, "{response:?} {request:?} {age}");
        }
    }
}
