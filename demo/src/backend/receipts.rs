//! What reached a backend, and when.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Receipts kept, about 100 bytes each: a quarter of an hour at 1,000 requests
/// a second. Later requests are only counted.
const MAX_RECEIPTS: usize = 1_000_000;

/// One request that reached the backend.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// When its head had been read.
    pub at: Instant,
    /// Its method.
    pub method: http::Method,
    /// Its path, without the query.
    pub path: String,
    /// Its mark (see [`super::MARK`]), if it has one.
    pub mark: Option<String>,
    /// It got what the script has for the affected, not a plain 200.
    pub affected: bool,
    /// Requests outstanding at the backend when it came, itself included.
    pub outstanding: usize,
}

/// Every request that reached a backend, oldest first.
#[derive(Debug, Default)]
pub struct Receipts {
    inner: Mutex<Kept>,
    outstanding: AtomicUsize,
}

/// A request that has not been answered yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// How many there were when it came, itself included.
    pub(super) count: usize,
    receipts: Arc<Receipts>,
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.receipts.outstanding.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug, Default)]
struct Kept {
    receipts: Vec<Receipt>,
    beyond: u64,
}

impl Receipts {
    /// One more is outstanding until the returned guard is dropped.
    pub(super) fn arrive(self: &Arc<Self>) -> Outstanding {
        let count = 1 + self.outstanding.fetch_add(1, Relaxed);
        Outstanding {
            count,
            receipts: self.clone(),
        }
    }

    pub(super) fn keep(&self, receipt: Receipt) {
        let mut kept = self.lock();
        if kept.receipts.len() < MAX_RECEIPTS {
            kept.receipts.push(receipt);
        } else {
            kept.beyond += 1;
        }
    }

    /// Requests so far.
    pub fn count(&self) -> u64 {
        let kept = self.lock();
        kept.receipts.len() as u64 + kept.beyond
    }

    /// Receipts from `start` on.
    pub fn since(&self, start: Instant) -> Vec<Receipt> {
        let kept = self.lock();
        let first = kept.receipts.partition_point(|receipt| receipt.at < start);
        kept.receipts[first..].to_vec()
    }

    /// Requests from `start` on, before `end`.
    pub fn between(&self, start: Instant, end: Instant) -> usize {
        let kept = self.lock();
        let receipts = &kept.receipts;
        receipts
            .partition_point(|r| r.at < end)
            .saturating_sub(receipts.partition_point(|r| r.at < start))
    }

    /// Requests in each whole second from `start` on, up to `end`.
    pub fn per_second(&self, start: Instant, end: Instant) -> Vec<usize> {
        let seconds = end.saturating_duration_since(start).as_secs();
        let edge = |second| start + Duration::from_secs(second);
        (0..seconds)
            .map(|second| self.between(edge(second), edge(second + 1)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
