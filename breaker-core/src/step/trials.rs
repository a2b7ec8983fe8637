//! Leases granted, lost and answered.

use std::time::Duration;

use super::{Opening, Stepping};
use crate::{
    breaker::{Circuit, Happening, TrialLease, TrialOutcome},
    evidence::TripReason,
    ids::PopId,
    time::Timestamp,
};

/// Agents remembered as having tried; the longest ago is forgotten first. A
/// round that waits for demand would grow without it.
const MAX_TRIED: usize = 64;

impl Stepping<'_> {
    pub(super) fn lose_leases(&mut self) {
        let mut lost = Vec::new();
        for circuit in self.next.circuits_mut() {
            if let Circuit::HalfOpen { leases, .. } = circuit {
                lost.extend(leases.extract_if(.., |lease| lease.expires <= self.now));
            }
        }
        for lease in lost {
            self.happened(Happening::TrialLost(lease));
        }
    }

    pub(super) fn grant(&mut self, pop: Option<PopId>, lease: TrialLease) {
        let wanted = self.next.wants_trial(self.policy, self.now).contains(&pop);
        let fits = pop.as_ref().is_none_or(|pop| lease.pop == *pop) && lease.expires > self.now;
        let Some(Circuit::HalfOpen { leases, tried, .. }) = self.next.circuit_mut(pop.as_ref())
        else {
            return;
        };
        if !wanted || !fits {
            return;
        }
        tried.retain(|agent| *agent != lease.agent);
        if tried.len() == MAX_TRIED {
            tried.remove(0);
        }
        tried.push(lease.agent.clone());
        leases.push(lease.clone());
        self.happened(Happening::TrialGranted(lease));
    }

    pub(super) fn end_trial(&mut self, id: &str, outcome: TrialOutcome, opening: Opening) {
        let Some((pop, lease)) = self.take_lease(id) else {
            return;
        };
        self.happened(Happening::TrialEnded(lease, outcome));
        match outcome {
            TrialOutcome::Succeeded => self.trial_succeeded(pop.as_ref()),
            TrialOutcome::Failed => {
                self.reopen(pop.as_ref(), TripReason::TrialFailed, None, opening);
            }
            TrialOutcome::Returned => {}
        }
    }

    /// The n-th success must be found later than n - 1 intervals after HALF_OPEN
    /// began. So the record itself keeps one finding from counting twice, whoever
    /// brings it, and a hundred probers are no faster than one.
    pub(super) fn stand_in(
        &mut self,
        pop: Option<PopId>,
        succeeded: Timestamp,
        interval: Duration,
    ) {
        let wanted = self.next.wants_trial(self.policy, self.now).contains(&pop);
        let Some(Circuit::HalfOpen {
            since,
            successes,
            leases,
            ..
        }) = self.next.circuit(pop.as_ref())
        else {
            return;
        };
        let fresh = succeeded > *since + interval.saturating_mul(*successes);
        // A lease that is out: a request will tell more than any probe.
        if wanted && fresh && leases.is_empty() {
            self.happened(Happening::ProbeSucceeded { pop: pop.clone() });
            self.trial_succeeded(pop.as_ref());
        }
    }

    fn take_lease(&mut self, id: &str) -> Option<(Option<PopId>, TrialLease)> {
        let scopes: Vec<Option<PopId>> =
            self.next.circuits().map(|(pop, _)| pop.cloned()).collect();
        scopes.into_iter().find_map(|pop| {
            let Some(Circuit::HalfOpen { leases, .. }) = self.next.circuit_mut(pop.as_ref()) else {
                return None;
            };
            let at = leases.iter().position(|lease| lease.id == id)?;
            Some((pop, leases.remove(at)))
        })
    }

    fn trial_succeeded(&mut self, pop: Option<&PopId>) {
        let needed = self.policy.half_open_successes;
        if let Some(Circuit::HalfOpen { successes, .. }) = self.next.circuit_mut(pop) {
            *successes += 1;
            if *successes >= needed {
                self.close(pop);
            }
        }
    }
}
