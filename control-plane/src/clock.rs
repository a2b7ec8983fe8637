//! The store's clock, read without asking the store: its last answer plus the
//! time that has passed here since. Never goes back.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use breaker_core::Timestamp;
use tokio::time::Instant;

/// This replica's estimate of the store's clock.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// Store time minus time since `start`, in milliseconds.
    offset: AtomicI64,
    /// The latest time given out.
    latest: AtomicU64,
}

impl Clock {
    /// Starts on this host's time, until the store has answered.
    pub fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix = unix.unwrap_or_default().as_millis();
        Self {
            start: Instant::now(),
            offset: AtomicI64::new(unix as i64),
            latest: AtomicU64::new(0),
        }
    }

    /// The store said `now`, in an answer that took `took`.
    pub fn set(&self, now: Timestamp, took: Duration) {
        let store = now.as_millis() as i64 + took.as_millis() as i64 / 2;
        let offset = store - self.start.elapsed().as_millis() as i64;
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// The store's time, as far as is known here.
    pub fn now(&self) -> Timestamp {
        let elapsed = self.start.elapsed().as_millis() as i64;
        let now = (self.offset.load(Ordering::Relaxed) + elapsed).max(0) as u64;
        let before = self.latest.fetch_max(now, Ordering::Relaxed);
        Timestamp::from_millis(now.max(before))
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

    #[test]
    fn jitter_stays_in_its_range_and_differs() {
        let drawn: Vec<f64> = (0..100).map(|_| jitter()).collect();
        assert!(drawn.iter().all(|j| (0.0..1.0).contains(j)), "{drawn:?}");
        assert!(drawn.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
