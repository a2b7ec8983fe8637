//! What became of a request, as its client saw it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// One request.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whom it was sent to.
    pub target: Arc<str>,
    /// Who sent it; empty for nobody in particular.
    pub caller: Arc<str>,
    /// When it was sent.
    pub at: Instant,
    /// From sending to the head of the answer, or to giving up.
    pub latency: Duration,
    /// How it ended.
    pub answered: Answered,
    /// The answer's Retry-After, in seconds.
    pub retry_after: Option<u64>,
    /// The answer's `x-rampmeter`: present if the gateway made the answer.
    pub rampmeter: Option<String>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// With this status.
    Status(u16),
    /// No connection could be made.
    Refused,
    /// The connection ended before an answer.
    Broken,
    /// No answer in time.
    TimedOut,
    /// Never sent: too many were outstanding.
    Overrun,
}

impl Record {
    /// It was served: any status below 500 that the gateway did not make up.
    pub fn is_served(&self) -> bool {
        matches!(self.answered, Answered::Status(code) if code < 500) && self.rampmeter.is_none()
    }

    /// The gateway refused it without asking a backend.
    pub fn is_refused(&self) -> bool {
        self.answered == Answered::Status(503) && self.rampmeter.is_some()
    }

    /// It reached out to a backend, or to none at all, and failed.
    pub fn is_failed(&self) -> bool {
        !self.is_served() && !self.is_refused()
    }

    /// A field of `x-rampmeter`: `reason`, `backend` or `decision`.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.rampmeter.as_deref()?.split(';');
        fields
            .filter_map(|field| field.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

/// Counts of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// See [`Record::is_served`].
    pub served: u64,
    /// See [`Record::is_refused`].
    pub refused: u64,
    /// See [`Record::is_failed`].
    pub failed: u64,
}

impl Tally {
    /// Counts `records`.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut tally = Self::default();
        for record in records {
            match (record.is_served(), record.is_refused()) {
                (true, _) => tally.served += 1,
                (_, true) => tally.refused += 1,
                _ => tally.failed += 1,
            }
        }
        tally
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.served + self.refused + self.failed
    }
}
