//! The store's clock, read without asking the store: its last answer plus the
//! time that has passed here since. Never goes back, but once: when the store
//! answers for the first time, and this host's own time was ahead.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use breaker_core::Timestamp;
use tokio::time::Instant;

/// This replica's estimate of the store's clock.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    reading: Mutex<Reading>,
}

#[derive(Debug)]
struct Reading {
    /// Store time minus time since `start`, in milliseconds.
    offset: i64,
    /// The latest time given out.
    latest: u64,
    /// The store has answered; until then it is this host's time.
    anchored: bool,
}

impl Clock {
    /// Starts on this host's time, until the store has answered.
    pub fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix = unix.unwrap_or_default().as_millis();
        Self {
            start: Instant::now(),
            reading: Mutex::new(Reading {
                offset: unix as i64,
                latest: 0,
                anchored: false,
            }),
        }
    }

    /// The store said `now`, in an answer that took `took`.
    pub fn set(&self, now: Timestamp, took: Duration) {
        let store = now.as_millis() as i64 + took.as_millis() as i64 / 2;
        let offset = store - self.start.elapsed().as_millis() as i64;
        let mut reading = self.reading();
        reading.offset = offset;
        if !std::mem::replace(&mut reading.anchored, true) {
            // A host that is ahead would stand still for as long as it is.
            reading.latest = 0;
        }
    }

    /// The store's time, as far as is known here.
    pub fn now(&self) -> Timestamp {
        let elapsed = self.start.elapsed().as_millis() as i64;
        let mut reading = self.reading();
        let now = (reading.offset + elapsed).max(0) as u64;
        reading.latest = reading.latest.max(now);
        Timestamp::from_millis(reading.latest)
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Uniform in [0, 1): spreads what would otherwise happen at once.
pub fn jitter() -> f64 {
    // The first 48 bits of a version 4 UUID are random.
    let bits = uuid::Uuid::new_v4().as_u128() >> 80;
    bits as f64 / (1_u64 << 48) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_the_store_but_never_goes_back() {
        let clock = Clock::new();
        let store = clock.now() + Duration::from_secs(60);
        clock.set(store, Duration::from_millis(10));
        assert_eq!(clock.now(), store + Duration::from_millis(5));
        clock.set(store - Duration::from_secs(30), Duration::ZERO);
        assert_eq!(clock.now(), store + Duration::from_millis(5));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clock.now(), store + Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_ahead_of_the_store_does_not_stand_still() {
        let clock = Clock::new();
        let store = clock.now() - Duration::from_secs(3600);
        clock.set(store, Duration::ZERO);
        assert_eq!(clock.now(), store);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now(), store + Duration::from_secs(1));
    }

    #[test]
    fn jitter_stays_in_its_range_and_differs() {
        let drawn: Vec<f64> = (0..100).map(|_| jitter()).collect();
        assert!(drawn.iter().all(|j| (0.0..1.0).contains(j)), "{drawn:?}");
        assert!(drawn.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
