//! How important a request is, and who is admitted together with it.

use breaker_core::{Priority, shed::ShedKey};
use fleet_config::{RequestKey, Route, Service};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::admit::service::Wish;

/// A route's way to rank its requests.
#[derive(Debug)]
pub(crate) struct Ranking {
    route: Option<Priority>,
    header: Option<HeaderName>,
    default: Priority,
    shed_key: Option<HeaderName>,
    /// Names the caller, where each has a quota.
    caller: Option<HeaderName>,
}

impl Ranking {
    pub(crate) fn new(route: &Route, service: &Service) -> Self {
        let rule = &service.priority;
        let throttle = service.throttle.as_ref();
        let caller = throttle.and_then(|throttle| throttle.key.as_ref());
        Self {
            route: route.priority,
            header: rule.header.as_deref().and_then(field),
            default: rule.default,
            shed_key: rule.shed_key.as_ref().and_then(key_field),
            caller: caller.and_then(key_field),
        }
    }

    /// What admission needs to know.
    pub(crate) fn wish(&self, headers: &HeaderMap, idempotent: bool) -> Wish {
        Wish {
            priority: self.priority(headers),
            key: hashed(self.shed_key.as_ref(), headers),
            caller: hashed(self.caller.as_ref(), headers),
            idempotent,
        }
    }

    /// The priority of a request. Anybody can write a header, so it lowers what
    /// the route says and never raises it.
    fn priority(&self, headers: &HeaderMap) -> Priority {
        let named = self.header.as_ref().and_then(|name| headers.get(name));
        let named = named.map(|value| word(value).unwrap_or(self.default));
        match (self.route, named) {
            (Some(route), Some(named)) => route.max(named),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => self.default,
        }
    }
}

/// The hash of a field's value; `None` for a request without one.
fn hashed(name: Option<&HeaderName>, headers: &HeaderMap) -> Option<ShedKey> {
    let value = headers.get(name?)?;
    Some(ShedKey::of(value.as_bytes()))
}

/// The field that a key is in.
fn key_field(key: &RequestKey) -> Option<HeaderName> {
    let RequestKey::Header(name) = key;
    field(name)
}

/// Names are valid since the configuration was read.
fn field(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok()
}

fn word(value: &HeaderValue) -> Option<Priority> {
    let words: [(&str, Priority); 4] = [
        ("CRITICAL", Priority::Critical),
        ("HIGH", Priority::High),
        ("NORMAL", Priority::Normal),
        ("LOW", Priority::Low),
    ];
    let given = value.as_bytes().trim_ascii();
    let mut words = words.into_iter();
    let found = words.find(|(word, _)| word.as_bytes().eq_ignore_ascii_case(given));
    found.map(|(_, priority)| priority)
}

#[cfg(test)]
mod tests {
    use Priority::{Critical, High, Low, Normal};

    use super::*;

    fn ranking(route: Option<Priority>, default: Priority) -> Ranking {
        Ranking {
            route,
            header: field("x-priority"),
            default,
            shed_key: field("x-user-id"),
            caller: None,
        }
    }

    fn headers(name: &'static str, value: Option<&'static str>) -> HeaderMap {
        let field = |value| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        value.map(field).into_iter().collect()
    }

    #[test]
    fn of_route_and_header_the_lower_wins_and_unknown_words_are_the_default() {
        for (route, header, default, expected) in [
            (None, None, Normal, Normal),
            (None, None, Low, Low),
            (None, Some("CRITICAL"), Normal, Critical),
            (None, Some(" low "), Normal, Low),
            (None, Some("urgent"), High, High),
            (Some(Critical), None, Normal, Critical),
            (Some(Critical), Some("LOW"), Normal, Low),
            (Some(Low), Some("CRITICAL"), Normal, Low),
            (Some(High), Some("high"), Normal, High),
            (Some(Critical), Some("urgent"), Normal, Normal),
            (Some(Low), Some("urgent"), Normal, Low),
        ] {
            let found = ranking(route, default).priority(&headers("x-priority", header));
            assert_eq!(found, expected, "{route:?} {header:?} {default:?}");
        }
    }

    #[test]
    fn requests_of_one_key_are_kept_together_and_those_without_are_not() {
        let ranking = ranking(None, Normal);
        let key = |value| ranking.wish(&headers("x-user-id", value), true).key;
        assert_eq!(key(Some("ann")), key(Some("ann")));
        assert_ne!(key(Some("ann")), key(Some("bob")));
        assert_eq!(key(None), None);
    }
}
