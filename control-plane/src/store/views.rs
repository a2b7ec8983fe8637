//! What a replica tells the others of its own agents: absolute, so that writing it
//! twice counts once.

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    AgentId, ByPriority, FleetView, PopId, Window, breaker::TrialCandidate, plan::RegionOrder,
};

/// What one replica knows of one backend from its own agents. Views add up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplicaView {
    /// Evidence; its `agents_known` and `agents_reporting` are this replica's.
    pub fleet: FleetView,
    /// The largest Retry-After of the backend.
    pub max_retry_after: Option<Duration>,
    /// Requests that wanted it, per second, in thousandths.
    pub demand_milli: u64,
    /// Of those, refused by us.
    pub rejected_milli: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Latencies: (bucket of `breaker_core::histogram`, count), by bucket.
    pub latency: Vec<(u32, u32)>,
    /// A few agents that could run a trial.
    pub candidates: Vec<TrialCandidate>,
    /// Demand that was sent here by the plan, requests a second over the last ten.
    pub directed: ByPriority,
    /// Of that, completed without overload, requests a second over the last ten.
    pub accepted: f64,
    /// Requests refused by the throttle, the ramp or an agent's limit; the latter
    /// are its overloads. See `breaker_core::Load`.
    pub metered: Window,
    /// What probers found, by endpoint and POP.
    pub endpoints: Vec<EndpointView>,
}

/// What one replica's agents found of one endpoint at one POP.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// As in the fleet file.
    pub endpoint: String,
    /// Where from.
    pub pop: PopId,
    /// Probers that find it healthy.
    pub healthy: u32,
    /// Probers that do not.
    pub unhealthy: u32,
    /// Who they are.
    pub probers: Vec<AgentId>,
    /// Why a probe failed lately; empty if none did.
    pub error: String,
    /// Probes a second.
    pub probes: f64,
}

/// What one replica knows of one service from its own agents. Views add up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceView {
    /// Demand in requests a second, by the region order of its agents.
    pub origins: BTreeMap<RegionOrder, ByPriority>,
    /// What callers got, requests a second over the last ten seconds.
    pub rates: CallerView,
    /// The same over the last second, for a drill's guard.
    pub recent: CallerView,
    /// Since this replica heard of the drill of this id: counts of requests.
    pub drill: Option<(String, CallerView)>,
    /// While a drill runs: latency of its last second or two, sparse histogram.
    pub latency: Vec<(u32, u32)>,
    /// By the hash of the key, 0 where the throttle has none.
    pub quotas: BTreeMap<u64, QuotaView>,
}

/// What callers of a service got: requests, or requests a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CallerView {
    /// Served.
    pub succeeded: f64,
    /// Failed at a backend, or on the way.
    pub failed: f64,
    /// Refused by us.
    pub refused: f64,
    /// Of those, because nowhere was room by the plan.
    pub shed: f64,
    /// SHADOW: would have been refused.
    pub shadowed: f64,
}

/// One quota as one replica's agents see it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QuotaView {
    /// Requests a second.
    pub wanted: f64,
    /// Of those, let through.
    pub admitted: f64,
    /// Agents with demand.
    pub agents: u32,
}
