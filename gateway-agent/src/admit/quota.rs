//! The fleet's quota of a service, as far as this agent has it: a bucket for all
//! callers, or one for each.
//!
//! The control plane lends this agent a rate and lends it again before it runs
//! out. An agent that hears nothing falls back to a rate that all of them can
//! have at once.
//!
//! A bucket is a GCRA (ITU-T I.371): one number, the time at which it would be
//! full again. How far ahead that may lie is burst / rate of the whole quota, so
//! each agent's burst is its share of the burst, and a rate that changes changes
//! nothing that was counted. The crate `governor` has the same algorithm but one
//! rate for all keys, fixed when it is built (its issues 193 and 273), and no
//! bound on the number of keys.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use breaker_core::shed::ShedKey;
use fleet_config::Throttle;
use rampmeter_api::v1;

/// Callers with a bucket of their own, per service: about 1 MiB. The others
/// share one.
pub const MAX_KEYS: usize = 10_000;

/// Callers that a report names, those that wanted most.
pub const MAX_REPORTED: usize = 256;

/// A caller that wants nothing for so long, and whose bucket is full again, is
/// forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// Parts of the table of callers, each with a lock of its own: held for some tens
/// of nanoseconds, it is rarely waited for.
const SHARDS: usize = 16;

/// The number of the bucket that is nobody's own. No caller has it.
const COMMON: u64 = 0;

/// What is told to a caller whose quota is nothing.
const NEVER: Duration = Duration::from_secs(60);

/// Nanoseconds on the agent's clock.
type Nanos = u64;

/// One service's quota.
#[derive(Debug)]
pub struct Quota {
    settings: Throttle,
    /// How far ahead of its rate a bucket may be, in nanoseconds.
    ahead: u64,
    /// For all callers; where each has a bucket, for those without.
    common: Bucket,
    shards: Box<[Mutex<HashMap<u64, Bucket>>]>,
    /// Without a grant, requests a second: as the control plane said last, at
    /// first as configured.
    alone: Number,
}

/// One bucket.
#[derive(Debug, Default)]
struct Bucket {
    /// When it would be full again.
    full_at: AtomicU64,
    /// What is lent to it, requests a second, and until when.
    lent: Number,
    lent_until: AtomicU64,
    /// Since the last report.
    wanted: AtomicU64,
    admitted: AtomicU64,
}

/// A number that one side writes and the other reads.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Number {
    fn of(value: f64) -> Self {
        Self(AtomicU64::new(value.to_bits()))
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }
}

/// What the control plane lends.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// To which caller, as reported; 0 for all.
    pub key_hash: u64,
    /// Requests a second.
    pub rate: f64,
    /// When it ends.
    pub until: Nanos,
    /// Requests a second after that.
    pub alone: f64,
}

/// A quota for people.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Requests a second that this agent lets through now; where callers have
    /// buckets, those of callers without.
    pub rate: f64,
    /// It is lent, not what remains alone.
    pub lent: bool,
    /// Callers with a bucket.
    pub keys: usize,
}

impl Quota {
    /// As configured; `before` is the same service's until now.
    pub(crate) fn new(settings: &Throttle, before: Option<&Self>) -> Self {
        let share = before.map_or(1.0, |before| before.alone.get() / before.settings.rate);
        let ahead = f64::from(settings.burst) / settings.rate;
        Self {
            ahead: nanos(ahead),
            common: Bucket::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            alone: Number::of(share * settings.rate),
            settings: settings.clone(),
        }
    }

    /// As configured.
    pub fn settings(&self) -> &Throttle {
        &self.settings
    }

    /// Takes one request out of a caller's bucket, or says when there may be one.
    pub(crate) fn take(&self, caller: Option<ShedKey>, now: Nanos) -> Result<(), Duration> {
        match &self.settings.key {
            None => self.take_from(&self.common, now),
            Some(_) => {
                let caller = caller.unwrap_or_else(|| ShedKey::of(b""));
                self.take_own(caller.bits(), now)
            }
        }
    }

    fn take_own(&self, key: u64, now: Nanos) -> Result<(), Duration> {
        let mut shard = self.shard(key);
        let full = shard.len() >= MAX_KEYS / SHARDS;
        match shard.entry(key) {
            Entry::Occupied(bucket) => self.take_from(bucket.get(), now),
            Entry::Vacant(_) if full || key == COMMON => self.take_from(&self.common, now),
            Entry::Vacant(place) => self.take_from(place.insert(Bucket::default()), now),
        }
    }

    fn take_from(&self, bucket: &Bucket, now: Nanos) -> Result<(), Duration> {
        bucket.wanted.fetch_add(1, Relaxed);
        bucket.take(
            bucket.rate(now).unwrap_or(self.alone.get()),
            self.ahead,
            now,
        )?;
        bucket.admitted.fetch_add(1, Relaxed);
        Ok(())
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, HashMap<u64, Bucket>> {
        lock(&self.shards[key as usize % SHARDS])
    }

    /// Takes what the control plane lends.
    pub(crate) fn lend(&self, grant: &Grant) {
        self.alone.set(grant.alone);
        match grant.key_hash {
            COMMON => self.common.lend(grant),
            key => {
                if let Some(bucket) = self.shard(key).get(&key) {
                    bucket.lend(grant);
                }
            }
        }
    }

    /// What callers wanted and got since the last time: those that wanted most.
    pub(crate) fn report(&self) -> Vec<v1::QuotaReport> {
        let mut reports = Vec::new();
        reports.extend(self.common.report(COMMON));
        for shard in &self.shards {
            let shard = lock(shard);
            reports.extend(shard.iter().filter_map(|(key, bucket)| bucket.report(*key)));
        }
        if reports.len() > MAX_REPORTED {
            reports.select_nth_unstable_by_key(MAX_REPORTED, |report| {
                std::cmp::Reverse(report.wanted)
            });
            reports.truncate(MAX_REPORTED);
        }
        reports
    }

    /// Forgets callers that want nothing any more.
    pub(crate) fn tidy(&self, now: Nanos) {
        let idle = nanos(IDLE.as_secs_f64());
        for shard in &self.shards {
            lock(shard).retain(|_, bucket| bucket.full_at.load(Relaxed) + idle > now);
        }
    }

    /// For people.
    pub fn standing(&self, now: Nanos) -> Standing {
        let lent = self.common.rate(now);
        Standing {
            rate: lent.unwrap_or(self.alone.get()),
            lent: lent.is_some(),
            keys: self.shards.iter().map(|shard| lock(shard).len()).sum(),
        }
    }
}

impl Bucket {
    fn rate(&self, now: Nanos) -> Option<f64> {
        (now < self.lent_until.load(Relaxed)).then(|| self.lent.get())
    }

    fn lend(&self, grant: &Grant) {
        self.lent.set(grant.rate);
        self.lent_until.store(grant.until, Relaxed);
    }

    /// Takes one request at `rate` a second, up to `ahead` of it.
    fn take(&self, rate: f64, ahead: u64, now: Nanos) -> Result<(), Duration> {
        if rate <= 0.0 {
            return Err(NEVER);
        }
        let one = nanos(1.0 / rate);
        // However low the rate, a bucket holds one request.
        let latest = now + ahead.max(one);
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let next = full_at.max(now).saturating_add(one);
            (next <= latest).then_some(next)
        });
        taken.map(|_| ()).map_err(|full_at| {
            let next = full_at.max(now).saturating_add(one);
            Duration::from_nanos(next - latest).min(NEVER)
        })
    }

    fn report(&self, key_hash: u64) -> Option<v1::QuotaReport> {
        let wanted = self.wanted.swap(0, Relaxed);
        let admitted = self.admitted.swap(0, Relaxed);
        (wanted > 0).then_some(v1::QuotaReport {
            key_hash,
            wanted,
            admitted,
        })
    }
}

/// A panic while it was held cannot have broken a table of atomic numbers.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// At most some years, so that sums do not overflow.
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9).min(1e17) as u64
}

#[cfg(test)]
mod tests {
    use fleet_config::RequestKey;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn quota(rate: f64, burst: u32, keyed: bool) -> Quota {
        let key = keyed.then(|| RequestKey::Header("x-api-key".to_owned()));
        Quota::new(&Throttle { rate, burst, key }, None)
    }

    fn caller(n: usize) -> Option<ShedKey> {
        Some(ShedKey::of(&n.to_le_bytes()))
    }

    /// How many of `per_second` requests a second pass in a while.
    fn passed(quota: &Quota, from: Nanos, seconds: u64, per_second: u64) -> usize {
        let times = (0..seconds * per_second).map(|n| from + n * SECOND / per_second);
        times.filter(|now| quota.take(None, *now).is_ok()).count()
    }

    fn grant(rate: f64, until: Nanos, alone: f64) -> Grant {
        Grant {
            key_hash: 0,
            rate,
            until,
            alone,
        }
    }

    #[test]
    fn before_any_grant_the_configured_rate_and_burst_hold() {
        let quota = quota(100.0, 50, false);
        assert_eq!(
            (0..80).filter(|_| quota.take(None, SECOND).is_ok()).count(),
            50
        );
        let wait = quota.take(None, SECOND).expect_err("empty");
        assert_eq!(wait, Duration::from_millis(10));
        assert_eq!(
            passed(&quota, SECOND, 10, 1000),
            999,
            "the last is due at 11 s"
        );
    }

    #[test]
    fn a_grant_sets_the_rate_and_its_share_of_the_burst_until_it_runs_out() {
        let quota = quota(100.0, 50, false);
        quota.lend(&grant(20.0, 10 * SECOND, 30.0));
        assert_eq!(
            (0..80).filter(|_| quota.take(None, SECOND).is_ok()).count(),
            10
        );
        assert_eq!(passed(&quota, SECOND, 9, 1000), 179);
        let alone = passed(&quota, 10 * SECOND, 10, 1000);
        assert!((299..=301).contains(&alone), "{alone}");
        let standing = quota.standing(20 * SECOND);
        assert_eq!((standing.rate, standing.lent), (30.0, false));
    }

    #[test]
    fn a_rate_that_changes_forgets_nothing_that_was_taken() {
        let quota = quota(100.0, 100, false);
        assert_eq!(
            (0..200)
                .filter(|_| quota.take(None, SECOND).is_ok())
                .count(),
            100
        );
        for rate in [1.0, 1000.0, 50.0] {
            quota.lend(&grant(rate, 100 * SECOND, 1.0));
            assert!(quota.take(None, SECOND).is_err(), "{rate}: no second burst");
        }
        quota.lend(&grant(0.0, 100 * SECOND, 1.0));
        assert!(quota.take(None, 99 * SECOND).is_err(), "nothing is nothing");
        assert!(quota.take(None, 101 * SECOND).is_ok());
    }

    #[test]
    fn each_caller_has_a_bucket_and_those_without_a_key_share_one() {
        let quota = quota(10.0, 5, true);
        for caller in [caller(1), caller(2), None] {
            let taken = (0..20).filter(|_| quota.take(caller, SECOND).is_ok());
            assert_eq!(taken.count(), 5, "{caller:?}");
        }
        let mut reports = quota.report();
        assert_eq!(reports.len(), 3);
        assert!(reports.iter().all(|r| (r.wanted, r.admitted) == (20, 5)));
        assert_eq!(quota.report(), [], "once");
        let named = reports.remove(0).key_hash;
        quota.lend(&Grant {
            key_hash: named,
            ..grant(100.0, 9 * SECOND, 2.0)
        });
        assert!(reports.iter().all(|other| other.key_hash != named));
        assert_eq!(quota.standing(SECOND).keys, 3);
    }

    #[test]
    fn callers_are_bounded_in_number_and_the_rest_share_a_bucket() {
        let quota = quota(1.0, 1, true);
        let taken = (0..2 * MAX_KEYS).filter(|n| quota.take(caller(*n), SECOND).is_ok());
        let taken = taken.count();
        let keys = quota.standing(SECOND).keys;
        assert!(keys <= MAX_KEYS && keys > MAX_KEYS * 9 / 10, "{keys}");
        assert_eq!(taken, keys + 1);
        let reports = quota.report();
        assert_eq!(reports.len(), MAX_REPORTED);
        let common = reports.iter().find(|report| report.key_hash == COMMON);
        assert!(common.is_some_and(|common| common.wanted >= MAX_KEYS as u64));
        quota.tidy(30 * SECOND);
        assert_eq!(quota.standing(SECOND).keys, keys);
        quota.tidy(63 * SECOND);
        assert_eq!(quota.standing(SECOND).keys, 0);
    }

    #[test]
    fn a_changed_configuration_keeps_what_an_agent_has_alone() {
        let before = quota(100.0, 50, false);
        before.lend(&grant(40.0, SECOND, 25.0));
        let settings = Throttle {
            rate: 200.0,
            ..before.settings().clone()
        };
        let after = Quota::new(&settings, Some(&before));
        assert_eq!(after.standing(SECOND).rate, 50.0);
    }

    proptest! {
        #[test]
        fn no_second_admits_more_than_rate_and_burst(
            rate in 0.5..2000.0f64,
            burst in 1..500u32,
            gaps in prop::collection::vec(0..20_000_000u64, 1..3000),
        ) {
            let quota = quota(rate, burst, false);
            let mut now = SECOND;
            let mut taken = Vec::new();
            for gap in gaps {
                now += gap;
                if quota.take(None, now).is_ok() {
                    taken.push(now);
                }
            }
            for (at, from) in taken.iter().enumerate() {
                let within = taken[at..].iter().take_while(|t| **t < from + SECOND).count();
                prop_assert!(within as f64 <= rate + f64::from(burst) + 1.0, "{within}");
            }
        }
    }
}
