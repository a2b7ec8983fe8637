//! The breaker of one backend: what is committed, and how it moves.

use std::{collections::BTreeMap, time::Duration};

pub use crate::trial::{TrialCandidate, choose_trial};
use crate::{
    evidence::{Evidence, TripReason},
    ids::{AgentId, PopId},
    policy::{BreakerPolicy, Mode},
    shed::Mix,
    throttle::{self, Load, Throttle},
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
    /// Overload is metered.
    pub throttle: Option<Throttle>,
    /// The demand's mix of priorities: where an admission below 1 cuts.
    pub mix: Mix,
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
        if self.duration.is_zero() {
            return 1.0;
        }
        let rise = now.since(self.from_at).as_secs_f64() / self.duration.as_secs_f64();
        (self.from + rise).clamp(0.0, 1.0)
    }

    /// When admission reaches 1.
    pub fn ends(&self) -> Timestamp {
        let left = (1.0 - self.from).clamp(0.0, 1.0);
        // Rounded up: at the end, admission is 1 and not a hair below.
        self.from_at + self.duration.mul_f64(left) + Duration::from_millis(1)
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
        /// What was asked for and taken; `None`: not known, nothing is metered
        /// anew.
        load: Option<&'a Load>,
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
        /// The backend's own Retry-After, if it failed with one.
        retry_after: Option<Duration>,
        /// Uniform in [0, 1).
        jitter: f64,
    },
    /// A health check succeeded while nobody wants to send a request: it stands in
    /// for a trial, once for each `interval` since HALF_OPEN began.
    Probe {
        /// The circuit: `None` for the fleet's.
        pop: Option<PopId>,
        /// When it succeeded.
        succeeded: Timestamp,
        /// How often the backend's endpoints are probed.
        interval: Duration,
    },
    /// An operator sets or clears the override.
    Override(Option<Override>),
    /// A drill ended: close every circuit, since the failure was ours.
    Reset,
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
    /// A health check stood in for a trial.
    ProbeSucceeded {
        /// `None` for the fleet.
        pop: Option<PopId>,
    },
    /// Admission was cut during a ramp.
    RampCut {
        /// `None` for the fleet.
        pop: Option<PopId>,
        /// To this share.
        admission: f64,
    },
    /// Full admission.
    RampFinished {
        /// `None` for the fleet.
        pop: Option<PopId>,
    },
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
    /// Overload is metered from now on, or by notably more or less than before.
    ThrottleSet {
        /// Share of the demand let through, 0 to 1.
        admission: f64,
        /// Requests a second that it took,
        accepted: f64,
        /// of so many that wanted it.
        wanted: f64,
    },
    /// Overload is no longer metered; for how long it was.
    ThrottleEnded(Duration),
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
        Self {
            version: Version { epoch, revision: 0 },
            fleet: Circuit::Closed {
                since: now,
                ramp: None,
                trips: 0,
                last_open: Duration::ZERO,
                served: Duration::ZERO,
                served_at: now,
            },
            pops: BTreeMap::new(),
            over: None,
            throttle: None,
            mix: Mix::default(),
        }
    }

    /// The mode in force: the override's, else the policy's.
    pub fn mode(&self, policy: &BreakerPolicy) -> Mode {
        self.over.as_ref().map_or(policy.mode, |over| over.mode)
    }

    /// From when on evidence counts: what was seen before a circuit last closed
    /// says nothing about it now.
    pub fn evidence_since(&self) -> Timestamp {
        self.circuits()
            .filter_map(|(_, circuit)| match circuit {
                Circuit::Closed { since, .. } => Some(*since),
                Circuit::Open { .. } | Circuit::HalfOpen { .. } => None,
            })
            .max()
            .unwrap_or_default()
    }

    /// What clients meet at `pop` (`None`: where no POP has its own circuit),
    /// the mode considered; SHADOW shows what would be.
    pub fn state(&self, policy: &BreakerPolicy, pop: Option<&PopId>) -> StateName {
        match self.mode(policy) {
            Mode::ForcedOpen => StateName::Open,
            Mode::ForcedClosed | Mode::Disabled => StateName::Closed,
            Mode::Enforce | Mode::Shadow => match self.fleet.state() {
                StateName::Closed => self.circuit(pop).map_or(StateName::Closed, Circuit::state),
                state => state,
            },
        }
    }

    /// Share of requests let through at `pop` (`None`: where no POP has its own
    /// circuit): the strictest of the fleet's, the POP's and the throttle's, as the
    /// mode has it.
    pub fn admission(&self, policy: &BreakerPolicy, pop: Option<&PopId>, now: Timestamp) -> f64 {
        match self.mode(policy) {
            Mode::ForcedOpen => 0.0,
            Mode::Shadow | Mode::ForcedClosed | Mode::Disabled => 1.0,
            Mode::Enforce => {
                let own = self.circuit(pop).map_or(1.0, |c| c.admission(now));
                let throttle = self.throttle.map_or(1.0, |throttle| throttle.admission);
                own.min(self.fleet.admission(now)).min(throttle)
            }
        }
    }

    /// The circuit of a scope; `None` is the fleet's.
    pub fn circuit(&self, pop: Option<&PopId>) -> Option<&Circuit> {
        match pop {
            None => Some(&self.fleet),
            Some(pop) => self.pops.get(pop),
        }
    }

    /// Every circuit, the fleet's first.
    pub fn circuits(&self) -> impl Iterator<Item = (Option<&PopId>, &Circuit)> {
        let pops = self.pops.iter().map(|(pop, circuit)| (Some(pop), circuit));
        std::iter::once((None, &self.fleet)).chain(pops)
    }

    pub(crate) fn circuit_mut(&mut self, pop: Option<&PopId>) -> Option<&mut Circuit> {
        match pop {
            None => Some(&mut self.fleet),
            Some(pop) => self.pops.get_mut(pop),
        }
    }

    pub(crate) fn circuits_mut(&mut self) -> impl Iterator<Item = &mut Circuit> {
        std::iter::once(&mut self.fleet).chain(self.pops.values_mut())
    }

    /// The next deadline after `now`.
    pub(crate) fn wake_at(&self, policy: &BreakerPolicy, now: Timestamp) -> Option<Timestamp> {
        let over = self.over.as_ref().map(|over| over.expires);
        let throttle = self.throttle.map(|held| held.changed + throttle::SPACING);
        self.circuits()
            .flat_map(|(pop, circuit)| {
                let removal = match circuit {
                    Circuit::Closed { since, .. } if pop.is_some() => Some(*since + policy.window),
                    _ => None,
                };
                [circuit.changes_at(), circuit.counts_at(), removal]
            })
            .chain([over, throttle])
            .flatten()
            .filter(|at| *at > now)
            .min()
    }
}

impl Circuit {
    /// Trips in a row, not yet forgotten.
    pub const fn trips(&self) -> u32 {
        match self {
            Self::Closed { trips, .. }
            | Self::Open { trips, .. }
            | Self::HalfOpen { trips, .. } => *trips,
        }
    }

    /// Leases that were granted and have not ended.
    pub fn leases(&self) -> &[TrialLease] {
        match self {
            Self::HalfOpen { leases, .. } => leases,
            Self::Closed { .. } | Self::Open { .. } => &[],
        }
    }

    /// When it changes next by time alone: the end of the ramp, of the open
    /// period, or of the first lease.
    pub fn changes_at(&self) -> Option<Timestamp> {
        match self {
            Self::Closed { ramp, .. } => ramp.map(|ramp| ramp.ends()),
            Self::Open { until, .. } => Some(*until),
            Self::HalfOpen { leases, .. } => leases.iter().map(|lease| lease.expires).min(),
        }
    }

    /// When served time may be counted next.
    fn counts_at(&self) -> Option<Timestamp> {
        match self {
            Self::Closed {
                trips,
                last_open,
                served_at,
                ..
            } if *trips > 0 => Some(*served_at + crate::step::served_part(*last_open)),
            Self::Closed { .. } | Self::Open { .. } | Self::HalfOpen { .. } => None,
        }
    }
}
