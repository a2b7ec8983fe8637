//! Who may convict a backend: evidence must survive the loss of its worst
//! witness, in each POP and over the fleet.

use crate::{
    evidence::{Baseline, Evidence},
    ids::{AgentId, PopId},
    policy::BreakerPolicy,
    time::Timestamp,
    window::Window,
};

/// One agent's own window, kept apart so that it can be left out of a sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Witness {
    /// The agent.
    pub agent: AgentId,
    /// What it saw.
    pub window: Window,
}

/// What one replica knows of one backend from one POP. Views of replicas add up.
#[derive(Debug, Clone, PartialEq)]
pub struct PopView {
    /// The POP.
    pub pop: PopId,
    /// Agents with traffic in the window.
    pub agents: u32,
    /// Sum over all its agents.
    pub total: Window,
    /// The worst agents by each rule, at most one for each rule and replica.
    pub worst: Vec<Witness>,
}

impl PopView {
    /// From every agent's window.
    pub fn of_agents<'a>(
        _pop: PopId,
        _agents: impl Iterator<Item = (&'a AgentId, &'a Window)>,
        _policy: &BreakerPolicy,
        _baseline: Baseline,
    ) -> Self {
        todo!()
    }
}

/// What is known of one backend.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetView {
    /// One entry for each POP.
    pub pops: Vec<PopView>,
    /// Failure rate of calm times.
    pub baseline: Baseline,
    /// Agents known in the last minute.
    pub agents_known: u32,
    /// Of those, reporting.
    pub agents_reporting: u32,
}

impl FleetView {
    /// Adds another replica's view.
    pub fn merge(&mut self, _other: &Self) {
        todo!()
    }
}

/// What the evidence says.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The evidence, convicted or not.
    pub evidence: Evidence,
    /// The backend fails for the fleet.
    pub fleet: bool,
    /// POPs it fails for, when not for the fleet.
    pub pops: Vec<PopId>,
    /// Coverage was too thin to act for the fleet.
    pub thin: bool,
    /// Requests completed fleet-wide in the last second, without suspects, and
    /// how many of them were bad: what a closing or ramping breaker lives on.
    pub recent: crate::window::Counts,
}

/// Judges one backend by what was seen since `since` (see
/// `Breaker::evidence_since`), at most `policy.window` ago.
pub fn judge(
    _view: &FleetView,
    _policy: &BreakerPolicy,
    _since: Timestamp,
    _now: Timestamp,
) -> Verdict {
    todo!()
}
