//! What the coordinator remembers of a backend between two looks.

use std::collections::BTreeMap;

use breaker_core::{
    AgentId, Breaker, Circuit, Counts, Evidence, Timestamp,
    evidence::{Baseline, LEAN_SCORE},
};

use super::endpoints::Health;
use crate::store::ReplicaView;

/// A suspect is told again when it was unsuspected for this long.
const SUSPECT_AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

/// A trip that is held back is told this often.
const SHADOW_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);

/// Seconds are learned from when they are this old: trouble that has begun but
/// is not proven yet must not become normal.
const LEARN_AFTER_S: u64 = 5;

/// One backend between two looks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// This replica's register, as last sent.
    pub(super) view: Option<ReplicaView>,
    /// Endpoints that take no requests, as last told to agents; `None` before
    /// anything was found.
    pub(super) health: Option<Health>,
    /// What this replica learned in calm times.
    pub(super) baseline: Baseline,
    /// The last second learned from.
    learned: u64,
    suspects: BTreeMap<AgentId, Timestamp>,
    shadowed: Option<Timestamp>,
}

impl Memory {
    /// Learns the rates of calm times from this replica's own agents.
    pub(super) fn learn(&mut self, breaker: &Breaker, evidence: &Evidence, now: Timestamp) {
        let second = (now.as_millis() / 1000).saturating_sub(LEARN_AFTER_S);
        let new = std::mem::replace(&mut self.learned, second);
        let calm = matches!(breaker.fleet, Circuit::Closed { ramp: None, .. })
            && breaker.pops.is_empty()
            && breaker.throttle.is_none()
            && evidence.overall.nats < LEAN_SCORE;
        // After a gap or trouble only from here on.
        if !calm || second != new + 1 {
            return;
        }
        let Some(view) = &self.view else { return };
        let mut counts = Counts::default();
        for pop in &view.fleet.pops {
            let from = pop.total.total_since(Timestamp::from_millis(second * 1000));
            let to = pop
                .total
                .total_since(Timestamp::from_millis((second + 1) * 1000));
            counts += from.saturating_sub(to);
        }
        self.baseline.learn(counts);
    }

    /// Suspects that were not told yet.
    pub(super) fn new_suspects<'a>(
        &mut self,
        evidence: &'a Evidence,
        now: Timestamp,
    ) -> Vec<&'a breaker_core::evidence::Suspect> {
        self.suspects
            .retain(|_, seen| now.since(*seen) < SUSPECT_AGAIN);
        let suspects = evidence.suspects.iter();
        suspects
            .filter(|s| self.suspects.insert(s.agent.clone(), now).is_none())
            .collect()
    }

    /// A trip is held back: `true` if it is time to tell.
    pub(super) fn shadowed(&mut self, now: Timestamp) -> bool {
        let again = self
            .shadowed
            .is_none_or(|told| now.since(told) >= SHADOW_AGAIN);
        if again {
            self.shadowed = Some(now);
        }
        again
    }
}
