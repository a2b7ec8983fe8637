//! What time and evidence change.

use std::time::Duration;

use super::{MIN_DWELL, Opening, RAMP_FLOOR, Stepping, entering::half_open};
use crate::{
    breaker::{Circuit, Happening, Ramp, StateName},
    evidence::{Baseline, CONVICT_SCORE, LEAN_SCORE, Rule, TripReason},
    ids::PopId,
    policy::{BreakerPolicy, Mode},
    vantage::Verdict,
};

/// A cut of a ramp holds for a tenth of it, and no shorter than this: a window
/// of fresh evidence is needed before the next cut says anything new.
const MIN_HOLD: Duration = Duration::from_secs(1);

/// Time served is committed in this many parts of the last open period, since
/// each is a commit that every agent hears of.
const SERVED_PARTS: u32 = 8;

/// Least such part.
const MIN_SERVED_PART: Duration = Duration::from_secs(1);

impl Stepping<'_> {
    pub(super) fn tick(&mut self, verdict: &Verdict, opening: Opening, may_open: bool) {
        let acts = match self.next.mode(self.policy) {
            Mode::Enforce | Mode::Shadow => true,
            Mode::ForcedOpen | Mode::ForcedClosed | Mode::Disabled => false,
        };
        if !acts {
            return;
        }
        if verdict.fleet && self.may_trip(None) {
            self.trip_fleet(verdict, opening, may_open);
        } else {
            self.advance(None, verdict, verdict.evidence.score.nats, opening);
        }
        if self.next.fleet.state() == StateName::Closed {
            self.tick_pops(verdict, opening);
        }
    }

    fn tick_pops(&mut self, verdict: &Verdict, opening: Opening) {
        for pop in &verdict.pops {
            if self.may_trip(Some(pop)) {
                let evidence = Some(&verdict.evidence);
                self.reopen(Some(pop), verdict.evidence.rule, evidence, opening);
            }
        }
        let pops: Vec<PopId> = self.next.pops.keys().cloned().collect();
        for pop in pops {
            let nats = verdict
                .evidence
                .pops
                .iter()
                .find(|p| p.pop == pop)
                .map_or(0.0, |p| p.score.nats);
            self.advance(Some(&pop), verdict, nats, opening);
            if self.healthy(&pop) {
                self.next.pops.remove(&pop);
                self.changed = true;
            }
        }
    }

    /// Closed, and for long enough that its neighbours cannot tell it was not.
    fn may_trip(&self, pop: Option<&PopId>) -> bool {
        match self.next.circuit(pop) {
            None => true,
            Some(Circuit::Closed { since, trips, .. }) => {
                *trips == 0 || self.now.since(*since) >= MIN_DWELL
            }
            Some(Circuit::Open { .. } | Circuit::HalfOpen { .. }) => false,
        }
    }

    fn trip_fleet(&mut self, verdict: &Verdict, opening: Opening, may_open: bool) {
        let reason = verdict.evidence.rule;
        if may_open {
            self.reopen(None, reason, Some(&verdict.evidence), opening);
        } else {
            self.happenings.push(Happening::ShadowTrip {
                pop: None,
                reason,
                evidence: verdict.evidence.clone(),
                limited: true,
            });
        }
    }

    /// A POP's circuit that says no more than the fleet's. It is kept for a
    /// window after closing, because its `since` keeps older evidence out.
    fn healthy(&self, pop: &PopId) -> bool {
        match self.next.pops.get(pop) {
            Some(Circuit::Closed {
                since, ramp, trips, ..
            }) => ramp.is_none() && *trips == 0 && self.now.since(*since) >= self.policy.window,
            _ => false,
        }
    }

    fn advance(&mut self, pop: Option<&PopId>, verdict: &Verdict, nats: f64, opening: Opening) {
        let now = self.now;
        let shadow = self.next.mode(self.policy) == Mode::Shadow;
        match self.next.circuit(pop) {
            None => {}
            Some(Circuit::Closed { .. }) => {
                self.advance_ramp(pop, verdict, nats);
                self.count_served(pop, verdict);
            }
            Some(Circuit::Open { until, .. }) if now < *until => {}
            Some(Circuit::HalfOpen { leases, .. }) if !leases.is_empty() => {}
            Some(Circuit::Open { .. } | Circuit::HalfOpen { .. }) if shadow => {
                // All traffic flows in SHADOW, so that it answers for the trials.
                if bad_lately(verdict, self.policy) {
                    let evidence = &verdict.evidence;
                    self.reopen(pop, evidence.rule, Some(evidence), opening);
                } else {
                    self.close(pop);
                }
            }
            Some(Circuit::Open { since, trips, .. }) => {
                let half_open = half_open(now, *trips, now.since(*since), Vec::new());
                self.enter(pop, half_open, None, None);
            }
            Some(Circuit::HalfOpen { .. }) => {}
        }
    }

    fn advance_ramp(&mut self, pop: Option<&PopId>, verdict: &Verdict, nats: f64) {
        let now = self.now;
        let hold = (self.policy.ramp_duration / 10).max(MIN_HOLD);
        let bad_recently = Rule::new(verdict.evidence.rule, self.policy, Baseline::default())
            .is_some_and(|rule| rule.bad_of(verdict.recent) > 0);
        // What is metered needs no second brake.
        let metered =
            self.policy.overload_throttle && verdict.evidence.rule == TripReason::OverloadRate;
        let cut = bad_recently && !metered && nats >= CONVICT_SCORE / 2.0;
        let Some(Circuit::Closed { ramp, .. }) = self.next.circuit_mut(pop) else {
            return;
        };
        let Some(current) = *ramp else { return };
        let admission = current.admission(now);
        if admission >= 1.0 {
            *ramp = None;
            self.happened(Happening::RampFinished { pop: pop.cloned() });
        } else if cut && current.from_at <= now {
            let from = (admission / 2.0).max(RAMP_FLOOR);
            *ramp = Some(Ramp {
                from,
                from_at: now + hold,
                duration: current.duration,
            });
            self.happened(Happening::RampCut {
                pop: pop.cloned(),
                admission: from,
            });
        }
    }

    /// Counts the time for which real traffic succeeded, in a few parts, each
    /// only once its end has seen traffic and no suspicion.
    fn count_served(&mut self, pop: Option<&PopId>, verdict: &Verdict) {
        let now = self.now;
        let good = verdict.seen.requests > 0 && verdict.evidence.overall.nats < LEAN_SCORE;
        let Some(Circuit::Closed {
            trips,
            last_open,
            served,
            served_at,
            ..
        }) = self.next.circuit_mut(pop)
        else {
            return;
        };
        let part = served_part(*last_open);
        if *trips == 0 || !good || now.since(*served_at) < part {
            return;
        }
        *served += part;
        *served_at = now;
        if *served >= *last_open {
            *trips = 0;
        }
        self.changed = true;
    }
}

/// How much served time one commit adds.
pub(crate) fn served_part(last_open: Duration) -> Duration {
    (last_open / SERVED_PARTS).max(MIN_SERVED_PART)
}

/// The last second still shows the intolerable rate.
fn bad_lately(verdict: &Verdict, policy: &BreakerPolicy) -> bool {
    Rule::new(verdict.evidence.rule, policy, Baseline::default()).is_some_and(|rule| {
        let (requests, bad) = (verdict.recent.requests, rule.bad_of(verdict.recent));
        requests > 0 && bad as f64 >= rule.intolerable * requests as f64
    })
}
