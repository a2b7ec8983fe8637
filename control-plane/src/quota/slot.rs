//! Quota grants on their way to one agent: the newest of each quota and no more,
//! however slowly the agent reads.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use breaker_core::{Timestamp, ids::ServiceName};
use rampmeter_api::{convert::duration, v1};
use tokio::sync::Notify;

/// One quota of the fleet: a service's, for one hashed key; 0 where the quota has
/// no key.
pub(super) type QuotaName = (ServiceName, u64);

/// One agent's part of a quota.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lease {
    /// Requests a second.
    pub rate: f64,
    /// Requests a second once it has run out.
    pub alone: f64,
    /// When it runs out, by the store's clock.
    pub expires: Timestamp,
}

/// Where an agent's grants wait for its stream.
#[derive(Debug, Default)]
pub struct Slot {
    waiting: Mutex<BTreeMap<QuotaName, Lease>>,
    filled: Notify,
}

impl Slot {
    /// Leaves grants; each replaces an older one that still waits.
    pub fn put(&self, leases: impl IntoIterator<Item = (QuotaName, Lease)>) {
        self.lock().extend(leases);
        self.filled.notify_one();
    }

    /// Waits until there is something to take. Cancel safe.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes what waits, as it is sent at `now`; `None` if nothing does. A grant
    /// that ran out meanwhile goes along: it tells what may be sent without one.
    pub fn take(&self, now: Timestamp) -> Option<v1::QuotaGrant> {
        let waiting = std::mem::take(&mut *self.lock());
        let quota = |((service, key_hash), lease): (QuotaName, Lease)| v1::Quota {
            service: service.as_str().to_owned(),
            key_hash,
            rate: lease.rate,
            expires_in: Some(duration(now.until(lease.expires))),
            rate_alone: lease.alone,
        };
        let quotas: Vec<_> = waiting.into_iter().map(quota).collect();
        (!quotas.is_empty()).then_some(v1::QuotaGrant { quotas })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<QuotaName, Lease>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_slow_reader_finds_the_newest_grant_of_each_quota_only() {
        let pay = ServiceName::new("pay").expect("a valid name");
        let slot = Slot::default();
        for millis in 0..1_000 {
            let lease = Lease {
                rate: millis as f64,
                alone: 1.0,
                expires: Timestamp::from_millis(millis) + Duration::from_secs(2),
            };
            slot.put([0, 7].map(|key| ((pay.clone(), key), lease)));
        }
        let taken = slot.take(Timestamp::from_millis(1_999)).expect("something");
        let rates: Vec<_> = taken.quotas.iter().map(|q| (q.key_hash, q.rate)).collect();
        assert_eq!(rates, [(0, 999.0), (7, 999.0)]);
        let left = taken.quotas[0].expires_in.expect("set");
        assert_eq!(left, duration(Duration::from_secs(1)));
        assert_eq!(slot.take(Timestamp::from_millis(1_999)), None);
    }
}
