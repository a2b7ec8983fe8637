//! Requests that may not pass, and why.

use std::time::Duration;

use breaker_core::{
    breaker::Version,
    ids::{BackendName, ServiceName},
};

/// Why a backend's gate refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The fleet's or the POP's breaker is OPEN.
    Open,
    /// It is HALF_OPEN and this request holds no trial lease.
    HalfOpen,
    /// Over the ramp's admission.
    Ramp,
    /// This agent's own breaker.
    Local,
    /// `limits.max_concurrency` requests are in flight.
    Limit,
    /// It waited for `limits.queue_timeout`, and still so many were.
    QueueTimeout,
    /// An operator's override.
    Override,
    /// The fleet's throttle: over what the backend takes.
    Throttle,
}

impl RefusalReason {
    /// For metrics, headers and problem bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Ramp => "ramp",
            Self::Local => "local",
            Self::Limit => "limit",
            Self::QueueTimeout => "queue_timeout",
            Self::Override => "override",
            Self::Throttle => "throttle",
        }
    }
}

/// A request that a backend's gate refuses.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// When to come back, jittered, at least 1 s.
    pub retry_after: Duration,
    /// The decision behind it; zero if it is ours alone.
    pub version: Version,
    /// Which backend refuses.
    pub backend: BackendName,
}

/// A request for which no region has room by the plan.
#[derive(Debug, Clone)]
pub struct Shed {
    /// When to come back, jittered, at least 1 s.
    pub retry_after: Duration,
    /// The plan's version.
    pub version: Version,
    /// Whose plan.
    pub service: ServiceName,
}

/// A request over its caller's, or its service's, quota.
#[derive(Debug, Clone)]
pub struct OverQuota {
    /// When to come back, jittered, at least 1 s.
    pub retry_after: Duration,
    /// The fleet's whole quota, requests a second.
    pub rate: f64,
    /// Whose quota.
    pub service: ServiceName,
}

/// A request that no region takes.
#[derive(Debug, Clone)]
pub enum Denied {
    /// It is not asked for any.
    OverQuota(OverQuota),
    /// The region that it should go to refuses it, and no other has room.
    Refused(Refusal),
    /// The same, but only because so many are in flight: it may wait for its turn.
    Full(Refusal),
    /// The plan has no region for it.
    Shed(Shed),
    /// The service is in none of the regions that this POP knows.
    NoRegion,
}
