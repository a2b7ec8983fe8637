//! The breaker of one backend: what is committed, and how it moves.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    evidence::{Evidence, TripReason},
    ids::{AgentId, PopId},
    policy::{BreakerPolicy, Mode},
    time::Timestamp,
    vantage::Verdict,
};

/// The order of decisions about one backend: epoch first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Rises when the store's history changes.
    pub epoch: u64,
    /// Rises with every committed change.
    pub revision: u64,
}

/// One backend's breaker, as committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    /// Its place in the order of decisions.
    pub version: Version,
    /// The decision of scope FLEET.
    pub fleet: Circuit,
    /// Decisions of scope POP; absent means the fleet's.
    pub pops: BTreeMap<PopId, Circuit>,
    /// An operator's decision.
    pub over: Option<Override>,
}

/// One state machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Circuit {
    /// Requests pass, as far as the ramp lets them.
    Closed {
        /// Since when.
        since: Timestamp,
        /// Admission below 1, after a recovery.
        ramp: Option<Ramp>,
        /// Trips not yet forgotten.
        trips: u32,
        /// How long it was last open: real traffic must succeed for as long
        /// before trips are forgotten.
        last_open: Duration,
        /// For how long real traffic has succeeded since closing.
        served: Duration,
        /// Up to when `served` was counted.
        served_at: Timestamp,
    },
    /// No request passes.
    Open {
        /// Since when.
        since: Timestamp,
        /// When the first trial may run.
        until: Timestamp,
        /// Trips in a row, this one included.
        trips: u32,
    },
    /// Leased trials pass.
    HalfOpen {
        /// Since when.
        since: Timestamp,
        /// Trips in a row.
        trips: u32,
        /// How long it was open before this.
        last_open: Duration,
        /// Trials that succeeded so far.
        successes: u32,
        /// Outstanding leases.
        leases: Vec<TrialLease>,
        /// Agents that had a lease in this round, oldest first.
        tried: Vec<AgentId>,
    },
}

/// Admission that rises linearly: `from` at `from_at`, then 1 / `duration` a
/// second. `from_at` in the future holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// Admission at `from_at`, 0 to 1.
    pub from: f64,
    /// When the rise starts.
    pub from_at: Timestamp,
    /// Time from 0 to 1.
    pub duration: Duration,
}

impl Ramp {
    /// Admission at `now`, 0 to 1.
    pub fn admission(&self, now: Timestamp) -> f64 {
        let rise = now.since(self.from_at).as_secs_f64() / self.duration.as_secs_f64();
        (self.from + rise).clamp(0.0, 1.0)
    }
}

/// The expiring permission to send one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialLease {
    /// Unique.
    pub id: String,
    /// Who may send it.
    pub agent: AgentId,
    /// Its POP.
    pub pop: PopId,
    /// When it is lost.
    pub expires: Timestamp,
}

/// An operator's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Not `Enforce`.
    pub mode: Mode,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends by itself.
    pub expires: Timestamp,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialOutcome {
    /// The backend served it.
    Succeeded,
    /// The backend failed it.
    Failed,
    /// It was never sent, or its client went away.
    Returned,
}

/// What may change a breaker.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    /// Time passed, or evidence changed.
    Tick {
        /// What the evidence says.
        verdict: &'a Verdict,
        /// The backend's own Retry-After, at most 300 s.
        retry_after: Option<Duration>,
        /// Uniform in [0, 1): spreads open periods.
        jitter: f64,
        /// The blast-radius limit allows another trip now.
        may_open: bool,
    },
    /// Grant this lease; the caller picked an agent with [`choose_trial`].
    Grant {
        /// The circuit: `None` for the fleet's.
        pop: Option<PopId>,
        /// The lease.
        lease: TrialLease,
    },
    /// A trial ended.
    Trial {
        /// The lease's id.
        lease: &'a str,
        /// How.
        outcome: TrialOutcome,
        /// Uniform in [0, 1).
        jitter: f64,
    },
    /// An operator sets or clears the override.
    Override(Option<Override>),
}

/// What happened in a step, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// A state changed.
    Transition {
        /// `None` for the fleet.
        pop: Option<PopId>,
        /// Before.
        from: StateName,
        /// After.
        to: StateName,
        /// Why it opened.
        reason: Option<TripReason>,
        /// What convicted it.
        evidence: Option<Evidence>,
        /// When it changes next by itself.
        next: Option<Timestamp>,
    },
    /// A lease was granted.
    TrialGranted(TrialLease),
    /// A lease ended.
    TrialEnded(TrialLease, TrialOutcome),
    /// A lease ran out.
    TrialLost(TrialLease),
    /// Admission was cut during a ramp, to this.
    RampCut(f64),
    /// Full admission.
    RampFinished,
    /// It would have opened, but for SHADOW mode or the blast-radius limit.
    ShadowTrip {
        /// `None` for the fleet.
        pop: Option<PopId>,
        /// Why.
        reason: TripReason,
        /// What would have convicted it.
        evidence: Evidence,
        /// The blast-radius limit held it back, not the mode.
        limited: bool,
    },
    /// The override was set.
    OverrideSet(Override),
    /// The override was cleared (`false`) or ran out (`true`).
    OverrideEnded(Override, bool),
}

/// A circuit's state without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateName {
    /// Requests pass.
    Closed,
    /// No request passes.
    Open,
    /// Leased trials pass.
    HalfOpen,
}

/// What a step leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The breaker to commit, its revision one higher; `None` if nothing that
    /// agents or replicas must know has changed.
    pub next: Option<Breaker>,
    /// What happened, for events; empty if `next` is `None`, except shadow trips.
    pub happenings: Vec<Happening>,
    /// When to look again at the latest, even if no evidence comes.
    pub wake_at: Option<Timestamp>,
}

impl Breaker {
    /// A closed breaker that never tripped.
    pub fn new(epoch: u64, now: Timestamp) -> Self {
        let _ = (epoch, now);
        todo!()
    }

    /// Takes one step. Pure: the caller commits `next`, or drops it.
    pub fn step(&self, _input: Input<'_>, _policy: &BreakerPolicy, _now: Timestamp) -> Step {
        todo!()
    }

    /// The mode in force: the override's, else the policy's.
    pub fn mode(&self, _policy: &BreakerPolicy) -> Mode {
        todo!()
    }

    /// Circuits that are HALF_OPEN and may grant another lease now; `None` is
    /// the fleet's. An agent is chosen with [`choose_trial`].
    pub fn wants_trial(&self, _policy: &BreakerPolicy, _now: Timestamp) -> Vec<Option<PopId>> {
        todo!()
    }

    /// From when on evidence about `pop` (`None`: the fleet) counts: what was
    /// seen before a circuit last closed says nothing about it now.
    pub fn evidence_since(&self) -> Timestamp {
        todo!()
    }
}

/// An agent that could run a trial.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialCandidate {
    /// The agent.
    pub agent: AgentId,
    /// Its POP.
    pub pop: PopId,
    /// Requests a second it wants to send.
    pub demand: f64,
    /// Of those, idempotent ones.
    pub idempotent: f64,
}

/// Picks who runs the next trial: with demand, preferring POPs and agents that
/// have not tried in this round, then idempotent demand. `None` without demand.
pub fn choose_trial<'a>(
    _breaker: &Breaker,
    _pop: Option<&PopId>,
    _candidates: &'a [TrialCandidate],
) -> Option<&'a TrialCandidate> {
    todo!()
}
