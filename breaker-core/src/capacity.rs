//! Capacity learned from what a backend has served: what it has often borne while
//! healthy, and a little more.

use std::{collections::BTreeMap, time::Duration};

use crate::{histogram, time::Timestamp};

/// Seconds to have seen before anything is known.
const KNOWN_FROM: u64 = 60;

/// By this factor a backend takes more than the load that it has often borne.
const MORE: f64 = 1.3;

/// A load is often borne when it was exceeded in one second of twenty.
const OFTEN: f64 = 0.95;

/// Seconds at which all counts are halved: three and a half to seven days count,
/// so that working days are still known on a Monday.
const FADING: u64 = 7 * 24 * 3600;

/// Seconds that a capacity counts for which an earlier replica had learned: it
/// holds through about a day of lower loads.
const RESUMED: u64 = 3600;

/// Loads are counted in thousandths of a request a second.
const MILLI: f64 = 1000.0;

/// How long the load of one second stands for.
const SECOND: Duration = Duration::from_secs(1);

/// Loads that one backend bore, as a log-linear histogram of at most
/// [`histogram::BUCKETS`] buckets, which errs by at most 1.6 %.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LearnedCapacity {
    /// Seconds by bucket of the load.
    seconds: BTreeMap<usize, u64>,
    /// All of them.
    total: u64,
    /// When a load was last counted.
    counted: Option<Timestamp>,
}

impl LearnedCapacity {
    /// Goes on from a capacity, in requests a second, that was known before.
    pub fn resume(capacity: f64) -> Self {
        let mut learned = Self::default();
        learned.count(capacity / MORE, RESUMED);
        learned
    }

    /// Counts a load in requests a second, at most once a second. To be called
    /// only while the backend is healthy: closed, no ramp, no throttle, calm.
    pub fn observe(&mut self, served: f64, now: Timestamp) {
        if self.counted.is_some_and(|last| now.since(last) < SECOND) {
            return;
        }
        self.counted = Some(now);
        self.count(served, 1);
        if self.total > FADING {
            self.fade();
        }
    }

    /// Requests a second it takes; `None` until a minute was seen, or as long as
    /// it served nothing.
    pub fn capacity(&self) -> Option<f64> {
        if self.total < KNOWN_FROM {
            return None;
        }
        let counts = self.seconds.iter().map(|(bucket, n)| (*bucket, *n));
        let borne = histogram::quantile(counts, OFTEN)?;
        (borne > 0).then(|| borne as f64 / MILLI * MORE)
    }

    fn count(&mut self, load: f64, seconds: u64) {
        if load.is_finite() && load >= 0.0 {
            let bucket = histogram::bucket((load * MILLI).round() as u64);
            *self.seconds.entry(bucket).or_default() += seconds;
            self.total += seconds;
        }
    }

    /// Rare loads are rounded away, so that buckets are given up.
    fn fade(&mut self) {
        self.seconds.values_mut().for_each(|n| *n /= 2);
        self.seconds.retain(|_, n| *n > 0);
        self.total = self.seconds.values().sum();
    }
}
