//! What is committed about one service as a whole: where its traffic goes, what
//! operators took out of it, and the drill that runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    breaker::Version,
    ids::{BackendName, PopId, RegionName},
    plan::Plan,
    shed::Mix,
    time::Timestamp,
};

/// One service's record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Steering {
    /// Its place in the order of decisions.
    pub version: Version,
    /// In force; `None` before the first: regions are tried in their order.
    pub plan: Option<Plan>,
    /// Waits for an operator (failover mode manual).
    pub proposed: Option<Plan>,
    /// Regions that operators took out of traffic.
    pub drains: BTreeMap<RegionName, Drain>,
    /// The drill that runs, or the last one.
    pub drill: Option<Drill>,
    /// The demand's mix of priorities.
    pub mix: Mix,
    /// Learned capacities, requests a second.
    pub learned: BTreeMap<RegionName, f64>,
}

/// An operator takes a region out of traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends by itself.
    pub expires: Timestamp,
    /// It took the last region, and the operator said so.
    pub break_glass: bool,
}

/// A rehearsed failure.
#[derive(Debug, Clone, PartialEq)]
pub struct Drill {
    /// Unique.
    pub id: String,
    /// What fails.
    pub backend: BackendName,
    /// How.
    pub fault: Fault,
    /// Share of the requests, (0, 1].
    pub share: f64,
    /// Only at these POPs; all when empty.
    pub pops: BTreeSet<PopId>,
    /// What ends it at once.
    pub guard: Guard,
    /// Share of the service's requests that must succeed at the end, (0, 1].
    pub success_rate: f64,
    /// Whether it runs, or how it ended.
    pub state: DrillState,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it started.
    pub started: Timestamp,
    /// When it ends at the latest; when it ended, once it has.
    pub ends: Timestamp,
    /// What it showed so far.
    pub report: DrillReport,
}

/// What a drill does to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered 503 without being sent.
    Error,
    /// Answered this much later.
    Delay(Duration),
    /// No connection.
    Dead,
}

/// What ends a drill at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guard {
    /// Least share of the service's requests that may succeed, [0, 1].
    pub min_success_rate: f64,
    /// Highest p99; `None`: no limit.
    pub max_latency_p99: Option<Duration>,
    /// Time from the start in which failures are expected.
    pub grace: Duration,
}

/// How a drill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrillState {
    /// It runs.
    Running,
    /// It met its success condition.
    Passed,
    /// Its time ran out before.
    Failed,
    /// Its guard ended it.
    GuardTripped,
    /// Somebody ended it.
    Stopped,
}

/// What a drill showed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrillReport {
    /// From the start until the breaker opened or the plan moved the traffic.
    pub detected_after: Option<Duration>,
    /// From the start until the other regions had the traffic.
    pub moved_after: Option<Duration>,
    /// Requests of the service since the start.
    pub requests: u64,
    /// Of those, served.
    pub succeeded: u64,
    /// Of those, failed.
    pub failed: u64,
    /// Of those, refused by us.
    pub shed: u64,
    /// Highest p99 seen.
    pub worst_latency_p99: Option<Duration>,
    /// Requests a second by region, before.
    pub before: BTreeMap<RegionName, f64>,
    /// Requests a second by region, now or at the end.
    pub at_end: BTreeMap<RegionName, f64>,
    /// One sentence for a person.
    pub summary: String,
}
