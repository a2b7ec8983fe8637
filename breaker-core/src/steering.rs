//! What is committed about one service as a whole: where its traffic goes, what
//! operators took out of it, and the drill that runs; and how that moves.
//!
//! In failover mode `manual`, an operator decides which regions an origin's
//! traffic may use: those that the plan in force uses. How much each of them gets
//! is worked out as always, so that a move back that was approved goes on as fast
//! as ramp and failback let it, and a region that is overfilled sheds. Anything
//! that needs another region, also to go back, is proposed and waits. A drain is
//! an operator's decision already: what it leaves without a region may go
//! anywhere.

mod drill;
mod manual;
mod planning;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    breaker::Version,
    ids::{BackendName, PopId, RegionName},
    plan::{Plan, RegionInput, RegionOrder},
    shed::{ByPriority, Mix},
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
    /// The whole demand's mix of priorities: for agents whose origin has no plan.
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

/// Settings of one service's steering, already validated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SteeringSettings {
    /// Who puts plans in force.
    pub mode: FailoverMode,
    /// Share of a region's capacity to fill with what others bring, (0, 1].
    pub target_utilization: f64,
    /// Share of an origin's demand that moves back home each second, (0, 1].
    pub failback_per_second: f64,
}

impl Default for SteeringSettings {
    /// The documented defaults.
    fn default() -> Self {
        Self {
            mode: FailoverMode::Automatic,
            target_utilization: 0.8,
            failback_per_second: 0.1,
        }
    }
}

/// Who puts plans in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailoverMode {
    /// The control plane.
    #[default]
    Automatic,
    /// An operator.
    Manual,
}

/// What may change a service's record.
#[derive(Debug, Clone, PartialEq)]
pub enum SteeringInput<'a> {
    /// Time passed, or figures changed.
    Tick(&'a Observed),
    /// An operator drains a region, or ends that.
    Drain(RegionName, Option<Drain>),
    /// An operator puts the proposed plan in force.
    Approve,
    /// An operator starts a drill, whose report is empty; nothing happens while
    /// another runs.
    StartDrill(Box<Drill>),
    /// Somebody ends the drill that runs, and this was seen last.
    EndDrill(DrillState, &'a DrillObservation),
}

/// A service as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Every region of the service. Capacities are configured ones only, and
    /// drains are left out: the record has both.
    pub regions: BTreeMap<RegionName, RegionInput>,
    /// Demand in requests a second, of every region order that agents have, also
    /// of those without demand: they need a plan for their first request.
    pub demand: BTreeMap<RegionOrder, ByPriority>,
    /// Learned capacities, requests a second, where known.
    pub learned: BTreeMap<RegionName, f64>,
    /// What the drill does that runs.
    pub drill: Option<DrillObservation>,
}

/// What is seen of a service while a drill runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrillObservation {
    /// The breaker of its backend lets nobody through where the drill is.
    pub open: bool,
    /// What callers got within the last second.
    pub recent: Callers,
    /// What they got since the start.
    pub total: Callers,
    /// p99 of the last second; `None`: too few requests to tell.
    pub latency_p99: Option<Duration>,
    /// Requests a second that regions got within a second.
    pub rates: BTreeMap<RegionName, f64>,
    /// When that second began; `None`: just now.
    pub rates_since: Option<Timestamp>,
}

/// What callers of a service got, in requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Callers {
    /// Served.
    pub succeeded: f64,
    /// Failed at a backend, or on the way.
    pub failed: f64,
    /// Refused by us, for whatever reason.
    pub refused: f64,
}

impl Callers {
    /// All of them.
    pub fn requests(&self) -> f64 {
        self.succeeded + self.failed + self.refused
    }

    /// Share that was served; `None` without requests.
    pub fn success_rate(&self) -> Option<f64> {
        let requests = self.requests();
        (requests > 0.0).then(|| self.succeeded / requests)
    }
}

/// What happened in a step, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Steered {
    /// A plan came into force that moves traffic.
    PlanChanged {
        /// The plan in force now.
        plan: Plan,
        /// Requests a second that it sends elsewhere than the one before.
        moved: f64,
    },
    /// A plan waits for an operator.
    PlanProposed(Plan),
    /// An operator put it in force.
    PlanApproved(Plan),
    /// Something fits nowhere now.
    ShedStarted {
        /// Requests a second that are shed.
        shed: f64,
        /// Requests a second that are wanted.
        demand: f64,
    },
    /// Everything fits again.
    ShedEnded,
    /// A region was drained.
    DrainSet(RegionName, Drain),
    /// A drain was ended (`false`) or ran out (`true`).
    DrainEnded(RegionName, Drain, bool),
    /// A drill started.
    DrillStarted(Box<Drill>),
    /// A drill ended: how is in its state.
    DrillEnded(Box<Drill>),
}

/// What a step leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringStep {
    /// The record to commit, its revision one higher; `None` if nothing changed
    /// that agents or replicas must know.
    pub next: Option<Steering>,
    /// What happened, for events; empty if `next` is `None`.
    pub happenings: Vec<Steered>,
    /// When to look again at the latest.
    pub wake_at: Option<Timestamp>,
}
