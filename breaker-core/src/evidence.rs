//! Windowed quickest detection: Page's CUSUM written as a scan over every
//! possible onset, so that it is a pure function of the window.

use crate::{
    ids::{AgentId, PopId},
    policy::BreakerPolicy,
    time::Timestamp,
    window::Window,
};

/// Score at which evidence convicts, in nats.
pub const CONVICT_SCORE: f64 = 16.0;

/// Which rule convicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TripReason {
    /// Failures reached their threshold.
    FailureRate,
    /// Failures and overloads together reached theirs.
    OverloadRate,
    /// Slow calls reached theirs.
    SlowCallRate,
    /// A trial failed.
    TrialFailed,
    /// An operator's override.
    Override,
}

/// Learned failure rate of calm times, as decayed counts that add up over
/// replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Requests learned from.
    pub requests: u64,
    /// Of those, failures.
    pub failures: u64,
}

/// Strength of one rule's evidence in one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Log-likelihood ratio at the best onset, in nats; 0 without evidence.
    pub nats: f64,
    /// The best onset.
    pub onset: Timestamp,
    /// Requests since then.
    pub requests: u64,
    /// Bad ones by the rule since then.
    pub bad: u64,
    /// Score, rate and volume all reached their thresholds.
    pub failing: bool,
}

/// Scores `window` by one rule. `TripReason` must be one of the three rates.
pub fn score(
    _window: &Window,
    _rule: TripReason,
    _policy: &BreakerPolicy,
    _baseline: Baseline,
) -> Score {
    todo!()
}

/// Why a backend was, or was not, convicted.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// The rule with the strongest evidence.
    pub rule: TripReason,
    /// Strength after leaving out the worst witness.
    pub score: Score,
    /// Score over everything, with nobody left out.
    pub overall: Score,
    /// Tolerated rate, p0.
    pub tolerated: f64,
    /// Intolerable rate, p1.
    pub intolerable: f64,
    /// POPs with traffic in the window.
    pub pops_active: u32,
    /// POPs that vote failing.
    pub pops_failing: u32,
    /// Votes needed for the fleet.
    pub pops_needed: u32,
    /// Per POP, most suspicious first.
    pub pops: Vec<PopEvidence>,
    /// Lone failing agents.
    pub suspects: Vec<Suspect>,
    /// Share of known agents that report, 0 to 1.
    pub coverage: f64,
}

/// One POP's share of the evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct PopEvidence {
    /// The POP.
    pub pop: PopId,
    /// After leaving out its worst agent.
    pub score: Score,
    /// Agents with traffic.
    pub agents: u32,
    /// Leans towards failing.
    pub votes_failing: bool,
    /// Convicted by itself.
    pub failing: bool,
    /// Who was left out.
    pub left_out: Option<AgentId>,
}

/// An agent whose evidence nobody confirms.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    /// The agent.
    pub agent: AgentId,
    /// Its POP.
    pub pop: PopId,
    /// Its own evidence.
    pub score: Score,
}
