//! Trial leases: granted by compare-and-swap inside the breaker's record, so that
//! no more are out than the policy allows, whatever crashes; and ended by whoever
//! hears of their outcome.

use super::Coordinator;
use crate::{
    agents::Grant,
    clock::jitter,
    commit::{ATTEMPTS, Attempt, Known},
    store::{ReplicaView, StoreError},
};
use breaker_core::{
    BreakerPolicy, TrialLease,
    breaker::{Input, choose_trial},
};

impl Coordinator {
    /// Takes in trials that ended. One whose lease is gone changes nothing.
    pub(super) async fn end_trials(
        &mut self,
        known: &mut Known,
        policy: &BreakerPolicy,
        figures: &ReplicaView,
    ) -> Result<(), StoreError> {
        while let Some(answer) = self.trials.get_mut(&known.name).and_then(Vec::pop) {
            for attempt in 1..=ATTEMPTS {
                let input = Input::Trial {
                    lease: &answer.lease,
                    outcome: answer.outcome,
                    retry_after: figures.max_retry_after,
                    jitter: jitter(),
                };
                let now = self.plane.clock.now();
                match known.attempt(&self.plane, policy, input, now).await {
                    Ok(Attempt::Unchanged(_) | Attempt::Done(_)) => break,
                    Ok(Attempt::Lost) if attempt < ATTEMPTS => {}
                    lost_or_failed => {
                        // Kept for the next look.
                        let trials = self.trials.entry(known.name.clone()).or_default();
                        trials.push(answer);
                        return lost_or_failed.map(drop);
                    }
                }
            }
        }
        Ok(())
    }

    /// Grants what there is room for, to agents of this replica: only it can
    /// tell them. Another replica does the same for its own; one commit wins.
    pub(super) async fn grant_trials(
        &mut self,
        known: &mut Known,
        policy: &BreakerPolicy,
    ) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            let now = self.plane.clock.now();
            let wanting = known.breaker.wants_trial(policy, now);
            if wanting.is_empty() {
                return Ok(());
            }
            let mut candidates = self.plane.figures.candidates(&known.name, now);
            candidates.retain(|c| self.plane.agents.get(&c.agent).is_some());
            let chosen = wanting.into_iter().find_map(|pop| {
                let spared = self.spare(known, pop.as_ref(), &candidates, policy, now);
                let chosen = choose_trial(&known.breaker, pop.as_ref(), &spared)?;
                Some((pop, chosen.clone()))
            });
            let Some((pop, chosen)) = chosen else {
                return Ok(());
            };
            let lease = TrialLease {
                id: uuid::Uuid::new_v4().to_string(),
                agent: chosen.agent,
                pop: chosen.pop,
                expires: now + policy.trial_timeout,
            };
            let input = Input::Grant {
                pop,
                lease: lease.clone(),
            };
            match known.attempt(&self.plane, policy, input, now).await? {
                Attempt::Done(_) => self.send(known, &lease),
                Attempt::Unchanged(_) => return Ok(()),
                Attempt::Lost => {}
            }
        }
        Ok(())
    }

    fn send(&self, known: &Known, lease: &TrialLease) {
        self.plane.metrics.trials.add(1);
        let grant = Grant {
            backend: known.name.clone(),
            lease: lease.id.clone(),
            expires: lease.expires,
        };
        let session = self.plane.agents.get(&lease.agent);
        let sent = session.is_some_and(|s| s.grants.try_send(grant).is_ok());
        if !sent {
            // Its lease runs out, then another agent gets one.
            tracing::warn!(agent = %lease.agent, backend = %known.name, "a trial lease found no agent");
        }
    }
}
