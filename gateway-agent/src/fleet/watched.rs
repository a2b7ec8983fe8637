//! One backend on the control side: its counts, its local breaker, its leases,
//! what is not yet reported, and the stance they lead to.

use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use breaker_core::{
    BreakerPolicy, ByPriority, Circuit, Mix, Mode, PopId, Timestamp,
    breaker::{Happening, StateName, TrialOutcome},
    explain,
    histogram::BUCKETS,
};
use fleet_config::Service;
use rampmeter_api::{convert::decision::Decision, v1};

use crate::{
    admit::{
        backend::Backend,
        lease::Lease,
        recorder::{Counters, Tally},
        stance::{Inputs, Rule, Stance, ruling},
    },
    clock::unix_ms,
    fleet::{
        apply::Held,
        local::{Identity, Local, Moment},
        report::{Gauges, Latencies, Pending, outcomes},
    },
};

/// Changes of state kept for people: a round or two of a breaker.
const MAX_CHANGES: usize = 16;

/// Idempotent requests "come" if one did this lately.
const IDEMPOTENT_LATELY: Duration = Duration::from_secs(2);

/// How long this agent's own mix of priorities remembers: as long as the fleet's.
const MIX_LASTS: Duration = Duration::from_secs(10);

/// What a refresh needs to know.
#[derive(Debug)]
pub struct Context<'a> {
    /// Who we are.
    pub identity: &'a Identity,
    /// The fleet's decision.
    pub held: Option<&'a Held<Decision>>,
    /// When a decision is stale.
    pub valid_for: Duration,
    /// Now.
    pub now: Timestamp,
}

/// A change of the effective state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When, in Unix milliseconds.
    pub unix_ms: u64,
    /// Before.
    pub from: StateName,
    /// After.
    pub to: StateName,
    /// The fleet or POP decided, not the local breaker.
    pub by_fleet: bool,
}

/// One backend of the configuration in force.
#[derive(Debug)]
pub struct Watched {
    /// Its request side.
    pub backend: Arc<Backend>,
    /// This agent's own breaker.
    pub local: Local,
    /// What is not yet reported.
    pub pending: Pending,
    /// Leases of the fleet.
    pub leases: Vec<Arc<Lease>>,
    /// The effective state.
    pub state: StateName,
    /// Its latest changes, oldest first.
    pub changes: VecDeque<Change>,
    policy: BreakerPolicy,
    /// Longest time a request takes.
    total: Duration,
    read: Counters,
    retry_after: Duration,
    idempotent_at: Option<Timestamp>,
    /// What was directed here lately, by priority, fading.
    wanted: ByPriority,
    wanted_at: Timestamp,
    /// The local breaker took a stale decision over.
    taken_over: bool,
    /// An override is in force, and will end whether or not anyone says so.
    overridden: bool,
}

impl Watched {
    /// A backend that was just configured.
    pub fn new(backend: Arc<Backend>, service: &Service, now: Timestamp) -> Self {
        Self {
            local: Local::new(&service.breaker, now),
            pending: Pending::default(),
            leases: Vec::new(),
            state: StateName::Closed,
            changes: VecDeque::new(),
            policy: service.breaker.clone(),
            total: service.timeouts.total,
            read: total(&backend),
            retry_after: Duration::ZERO,
            idempotent_at: None,
            wanted: ByPriority::default(),
            wanted_at: now,
            taken_over: false,
            overridden: false,
            backend,
        }
    }

    /// The configuration changed.
    pub fn set_policy(&mut self, service: &Service) {
        self.total = service.timeouts.total;
        if self.policy != service.breaker {
            self.policy = service.breaker.clone();
            self.local.set_policy(&self.policy);
        }
    }

    /// It left the configuration: requests that still hold it pass.
    pub fn retire(&mut self) {
        self.give_back(|_| true);
        self.backend.live.stance.store(Arc::new(Stance::pass()));
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.read
    }

    /// The stance in force.
    pub fn stance(&self) -> Arc<Stance> {
        self.backend.live.stance.load_full()
    }

    /// Reads what the cores counted since the last time, if anything.
    pub fn drain(&mut self, now: Timestamp) -> bool {
        let read = total(&self.backend);
        let delta = read.since(&self.read);
        if delta.is_zero() {
            return false;
        }
        self.read = read;
        let cells = self.backend.cells.iter();
        let wanted = cells.map(|cell| cell.recorder.take_retry_after()).max();
        let wanted = wanted.unwrap_or_default();
        self.retry_after = wanted;
        if delta.get(Tally::IdempotentDemand) > 0 {
            self.idempotent_at = Some(now);
        }
        self.want(&delta, now);
        self.pending.add(now, &delta, wanted);
        let counts = outcomes(&delta);
        if counts.requests > 0 {
            self.local.record(now, counts);
        }
        true
    }

    fn want(&mut self, delta: &Counters, now: Timestamp) {
        let fades = now.since(self.wanted_at).as_secs_f64() / MIX_LASTS.as_secs_f64();
        let left = ByPriority(self.wanted.0.map(|rate| rate * (-fades).exp()));
        self.wanted = left + delta.wanted();
        self.wanted_at = now;
    }

    /// Nothing changes here unless requests or decisions come.
    pub fn is_quiet(&self) -> bool {
        let passes = self.backend.live.stance.load().rule == Rule::Pass;
        passes && !self.overridden && self.leases.is_empty() && self.local.is_quiet()
    }

    /// Takes a lease of the fleet, if the decision has a use for it.
    pub fn grant(
        &mut self,
        id: &str,
        expires_in: Duration,
        decision: &Decision,
        pop: &PopId,
        now: Timestamp,
    ) -> bool {
        let waiting = match ruling(decision, pop, now) {
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => {
                decision.mode(self.policy.mode, now) == Mode::Enforce
            }
            Circuit::Closed { .. } => false,
        };
        let known = self.leases.iter().any(|lease| lease.id == id);
        if waiting && !known {
            let idempotent = self.idempotent(now);
            let lease = Lease::new(id.to_owned(), now, expires_in, self.total, idempotent);
            self.leases.push(Arc::new(lease));
        }
        waiting
    }

    fn idempotent(&self, now: Timestamp) -> bool {
        let at = self.idempotent_at;
        at.is_some_and(|at| now.since(at) < IDEMPOTENT_LATELY)
    }

    /// A newer decision came: if the round of trials is over, so are its leases.
    pub fn decided(&mut self, decision: &Decision, pop: &PopId, now: Timestamp) {
        match ruling(decision, pop, now) {
            Circuit::HalfOpen { .. } => {}
            Circuit::Open { .. } | Circuit::Closed { .. } => {
                self.give_back(|_| true);
            }
        }
    }

    /// Moves the local breaker and works out the stance. Returns the fleet's
    /// leases that ended.
    pub fn refresh(&mut self, context: &Context<'_>) -> Vec<(Arc<Lease>, TrialOutcome)> {
        let now = context.now;
        let fresh = context
            .held
            .is_some_and(|held| held.is_fresh(now, context.valid_for));
        let until = context.held.and_then(|held| held.decision.override_until);
        self.overridden = until.is_some_and(|until| now < until);
        self.move_local(context, fresh);
        let ended = self.ended_leases(now);
        let stance = Stance::of(&Inputs {
            decision: context.held.map(|held| &held.decision),
            fresh,
            pop: &context.identity.pop,
            policy: &self.policy,
            local: self.local.circuit(),
            leases: &self.leases,
            local_lease: self.local.lease(),
            mix: Mix::of(self.wanted),
            now,
        });
        self.take(stance);
        ended
    }

    fn move_local(&mut self, context: &Context<'_>, fresh: bool) {
        let now = context.now;
        let decision = context.held.map(|held| &held.decision);
        let configured = self.policy.mode;
        let mode = decision.map_or(configured, |decision| decision.mode(configured, now));
        let ruling = decision.map(|decision| ruling(decision, &context.identity.pop, now));
        let fleet_holds = matches!(
            ruling,
            Some(Circuit::Open { .. } | Circuit::HalfOpen { .. })
        );
        let decides = matches!(mode, Mode::Enforce | Mode::Shadow);
        if !decides || (fleet_holds && fresh) {
            self.taken_over = false;
            self.local.reset(now);
            return;
        }
        match ruling {
            Some(circuit) if fleet_holds && !self.taken_over => {
                tracing::warn!(backend = %self.backend.name, "the fleet's decision is stale: the local breaker takes over");
                self.local.take_over(circuit, now);
                self.taken_over = true;
            }
            _ if self.taken_over && !fleet_holds => {
                self.taken_over = false;
                self.local.reset(now);
            }
            _ => {}
        }
        let moment = Moment {
            identity: context.identity,
            retry_after: (!self.retry_after.is_zero()).then_some(self.retry_after),
            total: self.total,
            idempotent: self.idempotent(now),
            metered: fresh,
            now,
        };
        for happening in self.local.evaluate(&moment) {
            self.tell(&happening);
        }
    }

    fn tell(&mut self, happening: &Happening) {
        let backend = &self.backend.name;
        if let Happening::Transition {
            from, to, evidence, ..
        } = happening
        {
            let why = evidence.as_ref().map(explain::evidence).unwrap_or_default();
            tracing::info!(%backend, ?from, ?to, why, "local breaker");
            self.pending.hurry();
        } else {
            tracing::debug!(%backend, ?happening, "local breaker");
        }
    }

    fn give_back(&self, which: impl Fn(&Lease) -> bool) {
        for lease in self.leases.iter().filter(|lease| which(lease)) {
            lease.give_back();
        }
    }

    fn ended_leases(&mut self, now: Timestamp) -> Vec<(Arc<Lease>, TrialOutcome)> {
        self.give_back(|lease| now >= lease.claim_until);
        let ended = self
            .leases
            .extract_if(.., |lease| lease.outcome().is_some());
        ended
            .filter_map(|lease| lease.outcome().map(|outcome| (lease, outcome)))
            .collect()
    }

    fn take(&mut self, stance: Stance) {
        let live = &self.backend.live;
        if **live.stance.load() == stance {
            return;
        }
        let state = stance.state(self.local.state());
        let by_fleet = stance.by_fleet();
        if stance.is_shut() && !live.stance.load().is_shut() {
            live.shuts.fetch_add(1, Relaxed);
        }
        live.stance.store(Arc::new(stance));
        if state == self.state {
            return;
        }
        let change = Change {
            unix_ms: unix_ms(),
            from: std::mem::replace(&mut self.state, state),
            to: state,
            by_fleet,
        };
        tracing::info!(backend = %self.backend.name, from = ?change.from, to = ?state, by_fleet, "state");
        if self.changes.len() == MAX_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Whether a report is due, urgency aside.
    pub fn is_due(&self, now: Timestamp, calm: Duration, hot: Duration) -> bool {
        let closed = self.stance().admission(now) >= 1.0;
        self.pending.is_due(now, closed, calm, hot)
    }

    /// Takes what is not yet reported.
    pub fn report(&mut self, now: Timestamp, calm: Duration) -> v1::BackendReport {
        let latencies = self
            .pending
            .wants_latencies(now, calm)
            .then(|| self.latencies().0);
        let gauges = Gauges {
            in_flight: self.backend.in_flight(),
            local_state: self.local.state().into(),
        };
        self.pending.take(
            self.backend.name.as_str(),
            gauges,
            latencies.as_deref(),
            now,
        )
    }

    /// Latencies since the start, and their sum in microseconds.
    pub fn latencies(&self) -> (Box<Latencies>, u64) {
        let mut sum = Box::new([0; BUCKETS]);
        let cells = self.backend.cells.iter();
        let micros = cells.map(|cell| cell.recorder.read_latency(&mut sum)).sum();
        (sum, micros)
    }

    /// The limit in force on requests in flight.
    pub fn max_concurrency(&self) -> u32 {
        self.backend.live.max_concurrency.load(Relaxed)
    }
}

fn total(backend: &Backend) -> Counters {
    let mut sum = Counters::default();
    for cell in &backend.cells {
        sum.add(&cell.recorder.read());
    }
    sum
}
