//! What one core saw of one backend. Written by that core only, so the cache
//! line never moves; read by the reporter, which takes differences. Counts only
//! rise (and wrap), so a reader needs no lock and misses nothing.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use breaker_core::{
    histogram,
    outcome::{FailureKind, OutcomeClass},
    shed::{ByPriority, Priority},
};

use crate::admit::refusal::RefusalReason;

/// What is counted, each in a place of its own: for a backend, and, where it says
/// so, for a service as its callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Tally {
    /// Requests that wanted the backend, also those refused.
    Demand,
    /// Of those, idempotent ones.
    IdempotentDemand,
    /// Of a backend's demand, without those that the plan sent elsewhere; of a
    /// service, all its demand: CRITICAL.
    WantedCritical,
    /// The same, HIGH.
    WantedHigh,
    /// The same, NORMAL.
    WantedNormal,
    /// The same, LOW.
    WantedLow,
    /// Served.
    Success,
    /// Refused by the backend.
    Overload,
    /// No connection.
    Connect,
    /// Timed out.
    Timeout,
    /// Broken off, or nonsense.
    Reset,
    /// 5xx other than 503.
    Http5xx,
    /// A failing gRPC status.
    Grpc,
    /// The client went away first.
    ClientGone,
    /// Sent before the breaker last opened: it says nothing about the backend now.
    Straggler,
    /// Slow, whatever the class.
    Slow,
    /// Refused by us: the fleet's or POP's breaker is open.
    RefusedOpen,
    /// Refused by us: it is half-open.
    RefusedHalfOpen,
    /// Refused by us: over the ramp's admission.
    RefusedRamp,
    /// Refused by us: the local breaker.
    RefusedLocal,
    /// Refused by us: too many in flight.
    RefusedLimit,
    /// Refused by us: waited too long for its turn.
    RefusedQueueTimeout,
    /// Refused by us: an operator's override.
    RefusedOverride,
    /// Refused by us: over what the backend takes.
    RefusedThrottle,
    /// Let through, but would have been refused without SHADOW.
    Shadowed,
    /// Of a service: answered with 5xx or 429, by a backend or by us because
    /// forwarding failed.
    Failed,
    /// Of a service: refused by us, whatever the reason, quotas aside.
    Refused,
    /// Of those, because no region had room by the plan.
    Shed,
    /// Of a service: failed or delayed by a drill.
    Drilled,
    /// Requests that failed before and were sent there again.
    Retry,
    /// Not sent again after they had failed there, as the retry budget was used up.
    RetryBudget,
    /// Not sent again after they had failed there, as no gate let them.
    RetryRefused,
    /// Of a service: refused by its quota, and not demand.
    OverQuota,
}

/// Places in a [`Counters`].
pub const TALLIES: usize = Tally::OverQuota as usize + 1;

/// Demand by priority, in the order of [`Priority::ALL`].
const WANTED: [Tally; 4] = [
    Tally::WantedCritical,
    Tally::WantedHigh,
    Tally::WantedNormal,
    Tally::WantedLow,
];

/// Outcomes with their names in metrics and in `/state`.
pub const OUTCOMES: [(&str, Tally); 9] = [
    ("success", Tally::Success),
    ("overload", Tally::Overload),
    ("connect", Tally::Connect),
    ("timeout", Tally::Timeout),
    ("reset", Tally::Reset),
    ("http_5xx", Tally::Http5xx),
    ("grpc", Tally::Grpc),
    ("client_gone", Tally::ClientGone),
    ("straggler", Tally::Straggler),
];

/// What becomes of retries, with names in metrics and in `/state`.
pub const RETRIES: [(&str, Tally); 3] = [
    ("sent", Tally::Retry),
    ("budget_exhausted", Tally::RetryBudget),
    ("refused", Tally::RetryRefused),
];

/// Reasons of refusals with their names.
pub const REFUSALS: [(&str, Tally); 8] = [
    (RefusalReason::Open.as_str(), Tally::RefusedOpen),
    (RefusalReason::HalfOpen.as_str(), Tally::RefusedHalfOpen),
    (RefusalReason::Ramp.as_str(), Tally::RefusedRamp),
    (RefusalReason::Local.as_str(), Tally::RefusedLocal),
    (RefusalReason::Limit.as_str(), Tally::RefusedLimit),
    (
        RefusalReason::QueueTimeout.as_str(),
        Tally::RefusedQueueTimeout,
    ),
    (RefusalReason::Override.as_str(), Tally::RefusedOverride),
    (RefusalReason::Throttle.as_str(), Tally::RefusedThrottle),
];

/// What becomes of a service's requests, with names in metrics and in `/state`.
pub const SERVED: [(&str, Tally); 7] = [
    ("succeeded", Tally::Success),
    ("failed", Tally::Failed),
    ("refused", Tally::Refused),
    ("shed", Tally::Shed),
    ("shadowed", Tally::Shadowed),
    ("drilled", Tally::Drilled),
    ("over_quota", Tally::OverQuota),
];

impl Tally {
    /// Where an outcome is counted.
    pub const fn of_outcome(class: OutcomeClass) -> Self {
        match class {
            OutcomeClass::Success => Self::Success,
            OutcomeClass::Overload => Self::Overload,
            OutcomeClass::ClientGone => Self::ClientGone,
            OutcomeClass::Failure(FailureKind::Connect) => Self::Connect,
            OutcomeClass::Failure(FailureKind::Timeout) => Self::Timeout,
            OutcomeClass::Failure(FailureKind::Reset) => Self::Reset,
            OutcomeClass::Failure(FailureKind::Http5xx) => Self::Http5xx,
            OutcomeClass::Failure(FailureKind::Grpc) => Self::Grpc,
        }
    }

    /// Where a refusal is counted.
    pub const fn of_refusal(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::Open => Self::RefusedOpen,
            RefusalReason::HalfOpen => Self::RefusedHalfOpen,
            RefusalReason::Ramp => Self::RefusedRamp,
            RefusalReason::Local => Self::RefusedLocal,
            RefusalReason::Limit => Self::RefusedLimit,
            RefusalReason::QueueTimeout => Self::RefusedQueueTimeout,
            RefusalReason::Override => Self::RefusedOverride,
            RefusalReason::Throttle => Self::RefusedThrottle,
        }
    }

    /// Where demand of a priority is counted.
    pub const fn wanted(priority: Priority) -> Self {
        WANTED[priority as usize]
    }
}

/// A reading of the counts, or the difference of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters([u64; TALLIES]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; TALLIES])
    }
}

impl Counters {
    /// One count.
    pub const fn get(&self, tally: Tally) -> u64 {
        self.0[tally as usize]
    }

    /// Completed requests of every class but `ClientGone`.
    pub fn completed(&self) -> u64 {
        self.get(Tally::Success) + self.get(Tally::Overload) + self.failed()
    }

    /// Of those, failures.
    pub fn failed(&self) -> u64 {
        use Tally::{Connect, Grpc, Http5xx, Reset, Timeout};
        [Connect, Timeout, Reset, Http5xx, Grpc]
            .into_iter()
            .map(|tally| self.get(tally))
            .sum()
    }

    /// Demand by priority.
    pub fn wanted(&self) -> ByPriority {
        ByPriority(WANTED.map(|tally| self.get(tally) as f64))
    }

    /// Nothing was counted.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// Adds another reading, place by place.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.wrapping_add(theirs);
        }
    }

    /// What was counted since an `earlier` reading.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut delta = *self;
        for (now, before) in delta.0.iter_mut().zip(earlier.0) {
            *now = now.wrapping_sub(before);
        }
        delta
    }
}

/// One core's counts.
#[derive(Debug)]
pub struct Counts([AtomicU64; TALLIES]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; TALLIES])
    }
}

impl Counts {
    /// Counts one.
    pub(crate) fn count(&self, tally: Tally) {
        self.0[tally as usize].fetch_add(1, Relaxed);
    }

    /// The counts so far.
    pub fn read(&self) -> Counters {
        Counters(std::array::from_fn(|i| self.0[i].load(Relaxed)))
    }
}

/// One core's counts for one backend, and its latencies.
#[derive(Debug)]
pub struct Recorder {
    counts: Counts,
    latency: [AtomicU64; histogram::BUCKETS],
    latency_sum_us: AtomicU64,
    /// The largest Retry-After seen since the reporter last asked, in ms.
    max_retry_after_ms: AtomicU32,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            latency: [const { AtomicU64::new(0) }; histogram::BUCKETS],
            latency_sum_us: AtomicU64::new(0),
            max_retry_after_ms: AtomicU32::new(0),
        }
    }
}

impl Recorder {
    /// Counts one.
    pub(crate) fn count(&self, tally: Tally) {
        self.counts.count(tally);
    }

    /// Counts a completed request's latency.
    pub(crate) fn latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency[histogram::bucket(micros)].fetch_add(1, Relaxed);
        self.latency_sum_us.fetch_add(micros, Relaxed);
    }

    /// Remembers the backend's own Retry-After.
    pub(crate) fn retry_after(&self, wanted: Duration) {
        let millis = u32::try_from(wanted.as_millis()).unwrap_or(u32::MAX);
        self.max_retry_after_ms.fetch_max(millis, Relaxed);
    }

    /// The counts so far.
    pub fn read(&self) -> Counters {
        self.counts.read()
    }

    /// Adds the latency histogram so far to `into`, and the sum in
    /// microseconds to what is returned.
    pub fn read_latency(&self, into: &mut [u64; histogram::BUCKETS]) -> u64 {
        for (sum, bucket) in into.iter_mut().zip(&self.latency) {
            *sum += bucket.load(Relaxed);
        }
        self.latency_sum_us.load(Relaxed)
    }

    /// The largest Retry-After since the last call.
    pub fn take_retry_after(&self) -> Duration {
        Duration::from_millis(self.max_retry_after_ms.swap(0, Relaxed).into())
    }
}
