//! Asking agents for what they saw. Failures are told at once and successes once a
//! second: where the throttle meters, a decision needs both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use breaker_core::BackendName;
use rampmeter_api::v1;
use tokio::{sync::Notify, time::Instant};

/// Agents that were asked about a backend report on it promptly for longer than
/// this, so they need not be asked again sooner.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// When this replica last asked about each backend.
#[derive(Debug, Default)]
pub struct Asked(Mutex<BTreeMap<BackendName, Instant>>);

impl Asked {
    /// Those of `backends` that are to be asked about now.
    pub fn due(&self, backends: &[BackendName]) -> Vec<BackendName> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        asked.retain(|_, at| now.duration_since(*at) < AGAIN_AFTER);
        let fresh = backends.iter().filter(|name| !asked.contains_key(*name));
        let due: Vec<_> = fresh.cloned().collect();
        asked.extend(due.iter().map(|name| (name.clone(), now)));
        due
    }
}

/// What one agent is to be asked about, until its stream has room.
#[derive(Debug, Default)]
pub struct Slot {
    waiting: Mutex<BTreeSet<BackendName>>,
    filled: Notify,
}

impl Slot {
    /// Asks about these backends, too.
    pub fn put(&self, backends: &[BackendName]) {
        self.lock().extend(backends.iter().cloned());
        self.filled.notify_one();
    }

    /// Waits until there is something to ask. Cancel safe.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes what is to be asked; `None` if nothing is.
    pub fn take(&self) -> Option<v1::ReportNow> {
        let waiting = std::mem::take(&mut *self.lock());
        let names = waiting.iter().map(|name| name.as_str().to_owned());
        let backends: Vec<_> = names.collect();
        (!backends.is_empty()).then_some(v1::ReportNow { backends })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<BackendName>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
