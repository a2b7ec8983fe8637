//! How a breaker moves: one pure step for each input.

use std::time::Duration;

use crate::{
    breaker::{
        Breaker, Circuit, Happening, Input, Override, Ramp, StateName, Step, TrialLease,
        TrialOutcome,
    },
    evidence::{Baseline, CONVICT_SCORE, Evidence, LEAN_SCORE, Rule, TripReason},
    ids::PopId,
    policy::{BreakerPolicy, Mode},
    time::Timestamp,
    vantage::Verdict,
};

/// A backend's own Retry-After counts up to this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Least admission of a ramp.
pub const RAMP_FLOOR: f64 = 0.1;

/// A circuit that closed stays so for at least one exchange between replicas at
/// the hot rate: until then another replica may still be judging older figures.
pub const MIN_DWELL: Duration = Duration::from_millis(100);

/// A cut of a ramp holds for a tenth of it, and no shorter than this: a window
/// of fresh evidence is needed before the next cut says anything new.
const MIN_HOLD: Duration = Duration::from_secs(1);

/// Agents remembered as having tried; the longest ago is forgotten first. A
/// round that waits for demand would grow without it.
const MAX_TRIED: usize = 64;

/// Time served is committed in this many parts of the last open period, since
/// each is a commit that every agent hears of.
const SERVED_PARTS: u32 = 8;

/// Least such part.
const MIN_SERVED_PART: Duration = Duration::from_secs(1);

impl Breaker {
    /// Takes one step. Pure: the caller commits `next`, or drops it.
    pub fn step(&self, input: Input<'_>, policy: &BreakerPolicy, now: Timestamp) -> Step {
        let mut stepping = Stepping {
            next: self.clone(),
            policy,
            now,
            changed: false,
            happenings: Vec::new(),
        };
        stepping.expire_override();
        stepping.lose_leases();
        match input {
            Input::Tick {
                verdict,
                retry_after,
                jitter,
                may_open,
            } => stepping.tick(
                verdict,
                Opening {
                    retry_after,
                    jitter,
                },
                may_open,
            ),
            Input::Grant { pop, lease } => stepping.grant(pop, lease),
            Input::Trial {
                lease,
                outcome,
                retry_after,
                jitter,
            } => stepping.end_trial(
                lease,
                outcome,
                Opening {
                    retry_after,
                    jitter,
                },
            ),
            Input::Override(over) => stepping.set_override(over),
        }
        stepping.finish()
    }
}

/// What the length of an open period depends on, besides policy and trips.
#[derive(Clone, Copy)]
struct Opening {
    retry_after: Option<Duration>,
    jitter: f64,
}

impl Opening {
    fn duration(self, policy: &BreakerPolicy, trips_before: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(trips_before);
        let base = policy
            .open_duration
            .saturating_mul(doubled)
            .min(policy.max_open_duration);
        let spread = 0.8 + 0.4 * self.jitter.clamp(0.0, 1.0);
        let asked = self.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        base.mul_f64(spread).max(asked)
    }
}

/// A step in the making.
struct Stepping<'a> {
    next: Breaker,
    policy: &'a BreakerPolicy,
    now: Timestamp,
    changed: bool,
    happenings: Vec<Happening>,
}

impl Stepping<'_> {
    fn finish(mut self) -> Step {
        let wake_at = self.next.wake_at(self.policy, self.now);
        self.next.version.revision += 1;
        Step {
            next: self.changed.then_some(self.next),
            happenings: self.happenings,
            wake_at,
        }
    }

    fn happened(&mut self, happening: Happening) {
        self.changed = true;
        self.happenings.push(happening);
    }

    // Overrides.

    fn expire_override(&mut self) {
        if self
            .next
            .over
            .as_ref()
            .is_some_and(|o| o.expires <= self.now)
        {
            self.replace_override(None, true);
        }
    }

    fn set_override(&mut self, over: Option<Override>) {
        let useless = match &over {
            Some(over) => over.expires <= self.now,
            None => self.next.over.is_none(),
        };
        if !useless {
            self.replace_override(over, false);
        }
    }

    fn replace_override(&mut self, over: Option<Override>, expired: bool) {
        let before = self.next.state(self.policy, None);
        let reason = over.as_ref().map(|_| TripReason::Override);
        let old = std::mem::replace(&mut self.next.over, over.clone());
        match (&old, over) {
            (_, Some(over)) => self.happened(Happening::OverrideSet(over)),
            (Some(old), None) => self.happened(Happening::OverrideEnded(old.clone(), expired)),
            (None, None) => return,
        }
        // Nobody knows how the backend is after it was held open: ask it.
        let forced_open = |over: &Override| over.mode == Mode::ForcedOpen;
        if let Some(old) = old.filter(forced_open)
            && !self.next.over.as_ref().is_some_and(forced_open)
        {
            self.half_open_after_forced(old.created);
        }
        let after = self.next.state(self.policy, None);
        if before != after {
            self.transition(None, before, after, reason, None);
        }
    }

    /// Trials of POPs that are still out become the fleet's.
    fn half_open_after_forced(&mut self, created: Timestamp) {
        if let Circuit::Closed { trips, .. } = self.next.fleet {
            let out = self
                .next
                .circuits()
                .flat_map(|(_, circuit)| circuit.leases());
            let out = out.cloned().collect();
            self.next.pops.clear();
            self.next.fleet = half_open(self.now, trips, self.now.since(created), out);
        }
    }

    // Trials.

    fn lose_leases(&mut self) {
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

    fn grant(&mut self, pop: Option<PopId>, lease: TrialLease) {
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

    fn end_trial(&mut self, id: &str, outcome: TrialOutcome, opening: Opening) {
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

    // Time and evidence.

    fn tick(&mut self, verdict: &Verdict, opening: Opening, may_open: bool) {
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
            self.advance(
                None,
                verdict,
                &verdict.evidence,
                verdict.evidence.score.nats,
                opening,
            );
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
            self.advance(Some(&pop), verdict, &verdict.evidence, nats, opening);
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

    fn advance(
        &mut self,
        pop: Option<&PopId>,
        verdict: &Verdict,
        evidence: &Evidence,
        nats: f64,
        opening: Opening,
    ) {
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
        let cut = bad_recently && nats >= CONVICT_SCORE / 2.0;
        let Some(Circuit::Closed { ramp, .. }) = self.next.circuit_mut(pop) else {
            return;
        };
        let Some(current) = *ramp else { return };
        let admission = current.admission(now);
        if admission >= 1.0 {
            *ramp = None;
            self.happened(Happening::RampFinished);
        } else if cut && current.from_at <= now {
            let from = (admission / 2.0).max(RAMP_FLOOR);
            *ramp = Some(Ramp {
                from,
                from_at: now + hold,
                duration: current.duration,
            });
            self.happened(Happening::RampCut(from));
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

    // Entering a state.

    fn reopen(
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

    fn close(&mut self, pop: Option<&PopId>) {
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

    fn enter(
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

    fn transition(
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

fn half_open(now: Timestamp, trips: u32, last_open: Duration, leases: Vec<TrialLease>) -> Circuit {
    Circuit::HalfOpen {
        since: now,
        trips,
        last_open,
        successes: 0,
        tried: leases.iter().map(|lease| lease.agent.clone()).collect(),
        leases,
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
