//! A service's fallback: how it keeps answers, and what came of them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use fleet_config::Fallback;

use crate::cache::{keeping::Purpose, store::Store};

/// A service's fallback in one configuration.
#[derive(Debug)]
pub(crate) struct Kept {
    settings: Fallback,
    pub(crate) store: Arc<Store>,
    /// The same in every configuration that has the service.
    pub(crate) counts: Arc<Counts>,
}

/// What came of a service's kept answers since the start. Written on every core,
/// a few times for each request that asks for one.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
    stores: AtomicU64,
    evictions: AtomicU64,
}

/// What is counted, with its name in metrics and what it means.
pub(crate) const COUNTED: [(&str, &str); 5] = [
    (
        "hits",
        "Requests answered with a kept answer that was fresh.",
    ),
    (
        "misses",
        "Requests that wanted a kept answer and found none to use.",
    ),
    (
        "stale",
        "Requests answered with a kept answer that was stale.",
    ),
    ("stores", "Answers kept."),
    ("evictions", "Answers forgotten to make room."),
];

impl Counts {
    /// In the order of [`COUNTED`].
    pub(crate) fn read(&self) -> [u64; 5] {
        let counts = [
            &self.hits,
            &self.misses,
            &self.stale,
            &self.stores,
            &self.evictions,
        ];
        counts.map(|count| count.load(Relaxed))
    }

    pub(crate) fn hit(&self) {
        self.hits.fetch_add(1, Relaxed);
    }

    pub(crate) fn missed(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    pub(crate) fn stale(&self) {
        self.stale.fetch_add(1, Relaxed);
    }

    pub(crate) fn stored(&self) {
        self.stores.fetch_add(1, Relaxed);
    }

    pub(crate) fn evicted(&self) {
        self.evictions.fetch_add(1, Relaxed);
    }
}

impl Kept {
    /// By these settings; `before` is the same service's in the configuration before.
    pub(crate) fn new(settings: Fallback, store: &Arc<Store>, before: Option<&Self>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            store: store.clone(),
            counts: before.map_or_else(Arc::default, |before| before.counts.clone()),
        })
    }

    /// What answers are kept for.
    pub(crate) fn purpose(&self) -> Purpose {
        Purpose {
            serve_fresh: self.settings.serve_fresh,
            stale_if_error: self.settings.stale_if_error,
        }
    }

    /// The largest answer that is kept, with its header, in bytes.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.settings.max_entry_bytes
    }
}
