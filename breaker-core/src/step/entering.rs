//! Entering a state, and saying so.

use std::time::Duration;

use super::{Opening, RAMP_FLOOR, Stepping};
use crate::{
    breaker::{Circuit, Happening, Ramp, StateName, TrialLease},
    evidence::{Evidence, TripReason},
    ids::PopId,
    policy::Mode,
    time::Timestamp,
};

impl Stepping<'_> {
    pub(super) fn reopen(
        &mut self,
        pop: Option<&PopId>,
        reason: TripReason,
        evidence: Option<&Evidence>,
        opening: Opening,
    ) {
        let trips = self.next.circuit(pop).map_or(0, Circuit::trips);
        let mut until = self.now + opening.duration(self.policy, trips);
        // Trials that are still out must have ended before the next round.
        let out = self
            .next
            .circuits()
            .flat_map(|(_, circuit)| circuit.leases());
        until = out.map(|lease| lease.expires).fold(until, Timestamp::max);
        if pop.is_none() {
            self.next.pops.clear();
        }
        let open = Circuit::Open {
            since: self.now,
            until,
            trips: trips.saturating_add(1),
        };
        self.enter(pop, open, Some(reason), evidence);
    }

    pub(super) fn close(&mut self, pop: Option<&PopId>) {
        let (trips, last_open) = match self.next.circuit(pop) {
            Some(Circuit::HalfOpen {
                trips, last_open, ..
            }) => (*trips, *last_open),
            Some(Circuit::Open { since, trips, .. }) => (*trips, self.now.since(*since)),
            Some(Circuit::Closed { .. }) | None => return,
        };
        let duration = self.policy.ramp_duration;
        let closed = Circuit::Closed {
            since: self.now,
            // At the floor until the line through zero has risen to it.
            ramp: (!duration.is_zero()).then(|| Ramp {
                from: RAMP_FLOOR,
                from_at: self.now + duration.mul_f64(RAMP_FLOOR),
                duration,
            }),
            trips,
            last_open,
            served: Duration::ZERO,
            served_at: self.now,
        };
        self.enter(pop, closed, None, None);
    }

    pub(super) fn enter(
        &mut self,
        pop: Option<&PopId>,
        circuit: Circuit,
        reason: Option<TripReason>,
        evidence: Option<&Evidence>,
    ) {
        let from = self
            .next
            .circuit(pop)
            .map_or(StateName::Closed, Circuit::state);
        let to = circuit.state();
        match pop {
            None => self.next.fleet = circuit,
            Some(pop) => {
                self.next.pops.insert(pop.clone(), circuit);
            }
        }
        let shadow = self.next.mode(self.policy) == Mode::Shadow;
        match (reason, evidence) {
            (Some(reason), Some(evidence)) if shadow => self.happened(Happening::ShadowTrip {
                pop: pop.cloned(),
                reason,
                evidence: evidence.clone(),
                limited: false,
            }),
            _ => self.transition(pop, from, to, reason, evidence),
        }
    }

    pub(super) fn transition(
        &mut self,
        pop: Option<&PopId>,
        from: StateName,
        to: StateName,
        reason: Option<TripReason>,
        evidence: Option<&Evidence>,
    ) {
        let next = match (&self.next.over, reason) {
            (Some(over), Some(TripReason::Override)) => Some(over.expires),
            _ => self.next.circuit(pop).and_then(|c| c.changes_at()),
        };
        self.happened(Happening::Transition {
            pop: pop.cloned(),
            from,
            to,
            reason,
            evidence: evidence.cloned(),
            next,
        });
    }
}

pub(super) fn half_open(
    now: Timestamp,
    trips: u32,
    last_open: Duration,
    leases: Vec<TrialLease>,
) -> Circuit {
    Circuit::HalfOpen {
        since: now,
        trips,
        last_open,
        successes: 0,
        tried: leases.iter().map(|lease| lease.agent.clone()).collect(),
        leases,
    }
}
