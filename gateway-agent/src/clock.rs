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
        let elapsed = instant.saturating_duration_since(self.start);
        Timestamp::from_millis((START + elapsed).as_millis() as u64)
    }
}

/// Unix time in milliseconds, for people and for what outlives the process;
/// never compared with another host's.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
