//! Who sends the next trial.

use std::cmp::Reverse;

use crate::{
    breaker::{Breaker, Circuit, StateName},
    ids::{AgentId, PopId},
    policy::{BreakerPolicy, Mode},
    time::Timestamp,
};

impl Breaker {
    /// Circuits that are HALF_OPEN and may grant another lease now; `None` is
    /// the fleet's. An agent is chosen with [`choose_trial`]. Each grant is a
    /// step of its own, after which to ask again.
    pub fn wants_trial(&self, policy: &BreakerPolicy, now: Timestamp) -> Vec<Option<PopId>> {
        let acting = self.mode(policy) == Mode::Enforce;
        let room = self.outstanding(now) < policy.half_open_max_trials as usize;
        if !acting || !room {
            return Vec::new();
        }
        self.circuits()
            .filter(|(pop, circuit)| {
                // One at a time in a POP: a failure forgets the others that are
                // out, and other POPs' circuits would not wait for them.
                let alone = pop.is_none() || circuit.outstanding(now) == 0;
                alone && circuit.has_room(policy, now)
            })
            .map(|(pop, _)| pop.cloned())
            .collect()
    }

    /// Leases that have not run out, of every circuit.
    pub fn outstanding(&self, now: Timestamp) -> usize {
        self.circuits().map(|(_, c)| c.outstanding(now)).sum()
    }
}

impl Circuit {
    fn outstanding(&self, now: Timestamp) -> usize {
        self.leases().iter().filter(|l| l.expires > now).count()
    }

    /// Another trial would help: never more are out than successes are missing,
    /// so that none is left when the last one closes the circuit.
    fn has_room(&self, policy: &BreakerPolicy, now: Timestamp) -> bool {
        match self {
            Self::HalfOpen { successes, .. } => {
                let missing = policy.half_open_successes.saturating_sub(*successes).max(1);
                self.outstanding(now) < missing as usize
            }
            Self::Closed { .. } | Self::Open { .. } => false,
        }
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
    breaker: &Breaker,
    pop: Option<&PopId>,
    candidates: &'a [TrialCandidate],
) -> Option<&'a TrialCandidate> {
    let circuit = match pop {
        None => &breaker.fleet,
        Some(pop) => breaker.pops.get(pop)?,
    };
    let Circuit::HalfOpen { leases, tried, .. } = circuit else {
        return None;
    };
    let pop_tries = |pop: &PopId| {
        let same_pop = |agent: &&AgentId| {
            candidates
                .iter()
                .any(|c| c.pop == *pop && c.agent == **agent)
        };
        tried.iter().filter(same_pop).count()
    };
    let last_try = |agent: &AgentId| tried.iter().rposition(|a| a == agent).map(|at| at + 1);
    // Rates as whole millirequests, so that they have an order.
    let rate = |per_second: f64| (per_second * 1000.0) as u64;
    candidates
        .iter()
        .filter(|c| c.demand > 0.0 && pop.is_none_or(|pop| c.pop == *pop))
        .filter(|c| leases.iter().all(|lease| lease.agent != c.agent))
        .min_by_key(|c| {
            (
                pop_tries(&c.pop),
                last_try(&c.agent),
                Reverse(rate(c.idempotent)),
                Reverse(rate(c.demand)),
                &c.agent,
            )
        })
}

impl Circuit {
    /// Its state, without the data.
    pub const fn state(&self) -> StateName {
        match self {
            Self::Closed { .. } => StateName::Closed,
            Self::Open { .. } => StateName::Open,
            Self::HalfOpen { .. } => StateName::HalfOpen,
        }
    }

    /// Share of requests it lets through, leased trials aside.
    pub fn admission(&self, now: Timestamp) -> f64 {
        match self {
            Self::Closed { ramp, .. } => ramp.map_or(1.0, |ramp| ramp.admission(now)),
            Self::Open { .. } | Self::HalfOpen { .. } => 0.0,
        }
    }
}
