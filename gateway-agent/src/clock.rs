//! The agent's monotonic clock, as plain milliseconds.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use breaker_core::time::Timestamp;

/// What the clock shows at the agent's start: two days, so that what an earlier
/// run heard has a time, too.
const START: Duration = Duration::from_secs(2 * 24 * 3600);

/// Milliseconds, from [`START`] on.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts now.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    /// At `instant`; one before the start counts as the start.
    pub fn at(&self, instant: Instant) -> Timestamp {
        Timestamp::from_millis(self.nanos_at(instant) / 1_000_000)
    }

    /// The same in nanoseconds.
    pub fn nanos_at(&self, instant: Instant) -> u64 {
        let elapsed = instant.saturating_duration_since(self.start);
        (START + elapsed).as_nanos() as u64
    }
}

/// Unix time in milliseconds, for people and for what outlives the process;
/// never compared with another host's.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// A point in time on the agent's clock, in nanoseconds.
pub fn nanos(at: Timestamp) -> u64 {
    at.as_millis().saturating_mul(1_000_000)
}
