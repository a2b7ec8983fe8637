//! Wire ⇄ domain, in one place. Towards the wire conversions cannot fail; from
//! the wire every range is checked here, so that nothing behind it checks again.

pub mod backend;
pub mod decision;
pub mod event;
pub mod explain;
pub mod histogram;
pub mod steering;
pub mod words;

use std::time::Duration;

use breaker_core::{Timestamp, ids::NameError};

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A required field is not set.
    #[error("{field} must be set")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A name that cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A value outside its range.
    #[error("{field} is {value}: allowed is {allowed}")]
    Range {
        /// The field.
        field: &'static str,
        /// As given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

impl WireError {
    fn range(field: &'static str, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self::Range {
            field,
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }
}

/// To the wire.
pub fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: value.subsec_nanos() as i32,
    }
}

/// From the wire: set, not negative, and at most `max`.
pub fn duration_up_to(
    field: &'static str,
    value: Option<&prost_types::Duration>,
    max: Duration,
) -> Result<Duration, WireError> {
    let value = value.ok_or(WireError::Missing { field })?;
    let parsed = Duration::try_from(*value).ok().filter(|d| *d <= max);
    parsed.ok_or_else(|| WireError::range(field, value, format!("0 s to {} s", max.as_secs_f64())))
}

/// To the wire: store-clock milliseconds are Unix time.
pub fn timestamp(value: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: (value.as_millis() / 1000) as i64,
        nanos: (value.as_millis() % 1000) as i32 * 1_000_000,
    }
}

/// From the wire; `None` before 1970.
pub fn from_timestamp(value: &prost_types::Timestamp) -> Option<Timestamp> {
    let seconds = u64::try_from(value.seconds).ok()?;
    let millis = u64::try_from(value.nanos).ok()? / 1_000_000;
    let millis = seconds.checked_mul(1000)?.checked_add(millis)?;
    Some(Timestamp::from_millis(millis))
}

#[cfg(test)]
mod tests;
