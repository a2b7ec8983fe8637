//! Pages of events, and places in their list.

use std::fmt;

use breaker_core::{BackendName, ids::ServiceName};
use bytes::Bytes;

use super::{About, EVENTS_PAGE};

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Of this backend; `None` for all, the fleet's included.
    pub backend: Option<BackendName>,
    /// Of this service as a whole, where no backend is named; `None` for all.
    pub service: Option<ServiceName>,
    /// At most this many, up to [`EVENTS_PAGE`].
    pub limit: usize,
    /// Only those older than this: [`EventPage::next`].
    pub before: Option<EventCursor>,
}

impl EventQuery {
    pub(super) fn page_size(&self) -> usize {
        self.limit.clamp(1, EVENTS_PAGE)
    }

    /// Only those about this; `None` for all.
    pub(super) fn about(&self) -> Option<About> {
        let service = || self.service.clone().map(About::Service);
        self.backend.clone().map(About::Backend).or_else(service)
    }
}

/// Some events, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events' bytes.
    pub events: Vec<Bytes>,
    /// Where older ones start; `None` at the end.
    pub next: Option<EventCursor>,
}

/// A place in the list of events, as `MILLIS-SEQUENCE-GROUP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    /// When it was appended.
    pub(crate) millis: u64,
    /// Its place within the millisecond.
    pub(crate) sequence: u64,
    /// Its group.
    pub(crate) group: u16,
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.millis, self.sequence, self.group)
    }
}

/// A page token that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a page token of this list")]
pub struct BadCursor(String);

impl std::str::FromStr for EventCursor {
    type Err = BadCursor;

    fn from_str(token: &str) -> Result<Self, BadCursor> {
        let parse = || {
            let mut parts = token.split('-');
            let cursor = Self {
                millis: parts.next()?.parse().ok()?,
                sequence: parts.next()?.parse().ok()?,
                group: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(cursor)
        };
        parse().ok_or_else(|| BadCursor(token.chars().take(80).collect()))
    }
}
