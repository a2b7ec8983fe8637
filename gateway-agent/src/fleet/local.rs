//! The agent's own breaker: the fleet's machine, fed with this agent's outcomes
//! only. It acts where the fleet cannot: alone, cut off, or when only this
//! agent's path is broken.

use std::{sync::Arc, time::Duration};

use crate::{admit::lease::Lease, dice::uniform};
use breaker_core::{
    AgentId, Breaker, BreakerPolicy, Circuit, Counts, FleetView, PopId, PopView, Timestamp,
    TrialLease, Window,
    breaker::{Happening, Input, StateName},
    evidence::Baseline,
    vantage::judge,
};

/// Whose breaker it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// This agent.
    pub agent: AgentId,
    /// Its POP.
    pub pop: PopId,
}

/// What one evaluation needs to know.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Whose breaker it is.
    pub identity: &'a Identity,
    /// The backend's own Retry-After.
    pub retry_after: Option<Duration>,
    /// Longest time a request takes.
    pub total: Duration,
    /// Idempotent requests come.
    pub idempotent: bool,
    /// The fleet is heard of: it meters overload short of an outage.
    pub metered: bool,
    /// Now.
    pub now: Timestamp,
}

/// The local breaker of one backend.
#[derive(Debug)]
pub struct Local {
    breaker: Breaker,
    window: Window,
    lease: Option<Arc<Lease>>,
    policy: BreakerPolicy,
    /// When to look again even without traffic.
    wake_at: Option<Timestamp>,
    /// Outcomes came in since the last evaluation.
    dirty: bool,
}

impl Local {
    /// Closed, having seen nothing.
    pub fn new(policy: &BreakerPolicy, now: Timestamp) -> Self {
        Self {
            breaker: Breaker::new(0, now),
            window: Window::default(),
            lease: None,
            policy: policy.clone(),
            wake_at: None,
            dirty: false,
        }
    }

    /// The state.
    pub fn circuit(&self) -> &Circuit {
        &self.breaker.fleet
    }

    /// The state's name.
    pub fn state(&self) -> StateName {
        self.circuit().state()
    }

    /// The lease that it granted itself.
    pub fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }

    /// Nothing is due.
    pub fn is_quiet(&self) -> bool {
        !self.dirty && self.wake_at.is_none() && self.lease.is_none()
    }

    /// Another policy from now on.
    pub fn set_policy(&mut self, policy: &BreakerPolicy) {
        self.policy = policy.clone();
        self.dirty = true;
    }

    /// Adds outcomes.
    pub fn record(&mut self, now: Timestamp, counts: Counts) {
        self.window.record(now, counts);
        self.dirty = true;
    }

    /// Forgets all: the fleet decides.
    pub fn reset(&mut self, now: Timestamp) {
        let untouched = self.window.is_empty() && self.breaker.version.revision == 0;
        if !untouched {
            self.give_back();
            let policy = self.policy.clone();
            *self = Self::new(&policy, now);
        }
    }

    /// Takes over an OPEN or HALF_OPEN circuit of the fleet, which no longer
    /// hears: it runs out as if it had been local.
    pub fn take_over(&mut self, fleet: &Circuit, now: Timestamp) {
        self.reset(now);
        let (until, trips) = match fleet {
            Circuit::Open { until, trips, .. } => (*until, *trips),
            Circuit::HalfOpen { trips, .. } => (now, *trips),
            Circuit::Closed { .. } => return,
        };
        self.breaker.version.revision += 1;
        self.breaker.fleet = Circuit::Open {
            since: now,
            until,
            trips,
        };
        self.dirty = true;
    }

    /// Moves on: evidence, deadlines, trials. Returns what happened.
    pub fn evaluate(&mut self, moment: &Moment<'_>) -> Vec<Happening> {
        let mut happenings = self.settle(moment);
        if self.dirty || self.wake_at.is_some_and(|at| at <= moment.now) {
            self.tick(moment, &mut happenings);
        }
        let wants = self.breaker.wants_trial(&self.policy, moment.now);
        if self.lease.is_none() && !wants.is_empty() {
            self.grant(moment, &mut happenings);
        }
        happenings
    }

    fn tick(&mut self, moment: &Moment<'_>, happenings: &mut Vec<Happening>) {
        self.dirty = false;
        self.window.compact(moment.now, self.policy.window);
        let since = self.breaker.evidence_since();
        // Alone, nobody meters anything.
        let policy = BreakerPolicy {
            overload_throttle: self.policy.overload_throttle && moment.metered,
            ..self.policy.clone()
        };
        let view = self.view(moment.identity, since);
        let verdict = judge(&view, &policy, since, moment.now);
        let input = Input::Tick {
            verdict: &verdict,
            retry_after: moment.retry_after,
            jitter: uniform(),
            may_open: true,
            load: None,
        };
        self.step(input, moment.now, happenings);
    }

    /// All that is known: one agent of one POP.
    fn view(&self, identity: &Identity, since: Timestamp) -> FleetView {
        let baseline = Baseline::default();
        let mine = std::iter::once((&identity.agent, &self.window));
        let pop = PopView::of_agents(identity.pop.clone(), mine, &self.policy, baseline, since);
        FleetView {
            pops: vec![pop],
            baseline,
            agents_known: 1,
            agents_reporting: 1,
        }
    }

    /// Hands the breaker a trial's outcome, and takes back a lease nobody used.
    fn settle(&mut self, moment: &Moment<'_>) -> Vec<Happening> {
        let now = moment.now;
        let mut happenings = Vec::new();
        let Some(lease) = self.lease.clone() else {
            return happenings;
        };
        if now >= lease.claim_until {
            lease.give_back();
        }
        if let Some(outcome) = lease.outcome() {
            self.lease = None;
            let input = Input::Trial {
                lease: &lease.id,
                outcome,
                retry_after: moment.retry_after,
                jitter: uniform(),
            };
            self.step(input, now, &mut happenings);
        }
        happenings
    }

    fn grant(&mut self, moment: &Moment<'_>, happenings: &mut Vec<Happening>) {
        let now = moment.now;
        let expires_in = self.policy.trial_timeout;
        let id = uuid::Uuid::now_v7().to_string();
        let lease = TrialLease {
            id: id.clone(),
            agent: moment.identity.agent.clone(),
            pop: moment.identity.pop.clone(),
            expires: now + expires_in,
        };
        self.step(Input::Grant { pop: None, lease }, now, happenings);
        if self.holds(&id) {
            let lease = Lease::new(id, now, expires_in, moment.total, moment.idempotent);
            self.lease = Some(Arc::new(lease));
        }
    }

    fn step(&mut self, input: Input<'_>, now: Timestamp, happenings: &mut Vec<Happening>) {
        let step = self.breaker.step(input, &self.policy, now);
        if let Some(next) = step.next {
            self.breaker = next;
        }
        self.wake_at = step.wake_at;
        // A lease that the breaker counts as lost can be granted again.
        if let Some(lease) = &self.lease
            && !self.holds(&lease.id)
        {
            self.give_back();
        }
        happenings.extend(step.happenings);
    }

    fn holds(&self, id: &str) -> bool {
        match self.circuit() {
            Circuit::HalfOpen { leases, .. } => leases.iter().any(|lease| lease.id == id),
            Circuit::Closed { .. } | Circuit::Open { .. } => false,
        }
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}
