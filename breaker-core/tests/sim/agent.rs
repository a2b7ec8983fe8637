//! The gateway's side: admission, outcomes, reports at the calm, hot and
//! expedited rates, trial leases.

use std::time::Duration;

use breaker_core::{
    Breaker, BreakerPolicy, Counts, PopId, Timestamp, TrialLease,
    breaker::{StateName, TrialOutcome, Version},
    window::SLOT,
};

use super::{
    Event, Micros, ToAgent, ToReplica, World, ms, pop_id,
    replica::{Report, Slot},
    secs,
};

/// The backend's own latency.
const SERVICE_TIME: Micros = ms(5);
/// A route's timeout: nothing takes longer.
const LONGEST_SERVICE: Duration = Duration::from_secs(2);
const CALM: Micros = secs(1);
const HOT: Micros = ms(100);
const CLOSEST: Micros = ms(20);
/// A failure keeps an agent hot for this long.
const HOT_FOR: Micros = secs(5);
/// Prompt for this long after it was asked.
const PROMPT_FOR: Micros = secs(1);
/// Expedited reports: 10 a second, bursts of 5.
const BUDGET: f64 = 5.0;
const REFILL_PER_MICRO: f64 = 10.0 / 1e6;

pub struct Agent {
    pub pop: PopId,
    pub up: bool,
    /// Rises with each crash, so that what belongs to an earlier life is dropped.
    pub life: u64,
    pub replica: usize,
    pub applied: Option<Breaker>,
    /// Versions applied in this life, oldest first.
    pub history: Vec<Version>,
    lease: Option<TrialLease>,
    /// Every lease of this life: a repeated message grants nothing.
    granted: Vec<String>,
    slots: Vec<(u64, Counts)>,
    demand: u64,
    /// Refused by the throttle or the ramp.
    refused: u64,
    sequence: u64,
    last_report: Micros,
    hot_until: Micros,
    prompt_until: Micros,
    urgent: bool,
    tokens: f64,
    tokens_at: Micros,
}

impl Agent {
    pub fn new(_index: usize, pop: usize, replica: usize) -> Self {
        Self {
            pop: pop_id(pop),
            up: true,
            life: 0,
            replica,
            applied: None,
            history: Vec::new(),
            lease: None,
            granted: Vec::new(),
            slots: Vec::new(),
            demand: 0,
            refused: 0,
            sequence: 0,
            last_report: 0,
            hot_until: 0,
            prompt_until: 0,
            urgent: false,
            tokens: BUDGET,
            tokens_at: 0,
        }
    }

    pub fn restarted(&self) -> Self {
        Self {
            pop: self.pop.clone(),
            life: self.life + 1,
            ..Self::new(0, 0, self.replica)
        }
    }

    pub fn admission(&self, policy: &BreakerPolicy, now: Timestamp) -> f64 {
        self.applied.as_ref().map_or(1.0, |breaker| {
            breaker.admission(policy, Some(&self.pop), now)
        })
    }

    /// A lease is worth something only while its circuit is HALF_OPEN, and while
    /// a request can still end before the lease does.
    fn take_lease(&mut self, policy: &BreakerPolicy, now: Timestamp) -> Option<TrialLease> {
        let half_open = self
            .applied
            .as_ref()
            .is_some_and(|b| b.state(policy, Some(&self.pop)) == StateName::HalfOpen);
        self.lease
            .take_if(|lease| half_open && lease.expires >= now + LONGEST_SERVICE)
    }

    fn spend_token(&mut self, now: Micros) -> bool {
        let refill = (now - self.tokens_at) as f64 * REFILL_PER_MICRO;
        self.tokens = (self.tokens + refill).min(BUDGET);
        self.tokens_at = now;
        let spent = self.tokens >= 1.0;
        if spent {
            self.tokens -= 1.0;
        }
        spent
    }
}

impl World {
    pub(super) fn request(&mut self, index: usize) {
        let (now, policy) = (self.time(), &self.setup.policy);
        let agent = &mut self.agents[index];
        if !agent.up {
            return;
        }
        agent.demand += 1;
        let admission = agent.admission(policy, now);
        let lease = agent.take_lease(policy, now);
        let (life, trial) = (agent.life, lease.map(|lease| lease.id));
        if trial.is_none() && !self.rng.chance(admission) {
            agent.refused += u64::from(admission > 0.0);
            return;
        }
        self.reached.push((self.now, index));
        if let Some(id) = &trial {
            self.trials_in_flight.push(id.clone());
            self.most_trials_in_flight =
                self.most_trials_in_flight.max(self.trials_in_flight.len());
        }
        let failed = self.rng.chance((self.fault)(index, self.now));
        let outcome = Event::Outcome {
            agent: index,
            life,
            failed,
            trial,
        };
        let slow = self.setup.slow.filter(|(share, _)| self.rng.chance(*share));
        self.after(slow.map_or(SERVICE_TIME, |(_, took)| ms(took)), outcome);
    }

    pub(super) fn outcome(&mut self, index: usize, life: u64, failed: bool, trial: Option<String>) {
        self.trials_in_flight
            .retain(|id| Some(id) != trial.as_ref());
        let (now, overloads) = (self.now, self.setup.overloads);
        let agent = &mut self.agents[index];
        if agent.life != life || !agent.up {
            return;
        }
        if let Some(id) = trial {
            let outcome = if failed {
                TrialOutcome::Failed
            } else {
                TrialOutcome::Succeeded
            };
            let replica = agent.replica;
            self.send(|| Event::AtReplica {
                replica,
                agent: index,
                message: ToReplica::Trial(id.clone(), outcome),
            });
            return;
        }
        let counts = Counts {
            requests: 1,
            failures: u64::from(failed && !overloads),
            overloads: u64::from(failed && overloads),
            slow: 0,
        };
        let slot = now / 1000 / SLOT.as_millis() as u64;
        match agent.slots.last_mut() {
            Some((at, sum)) if *at == slot => *sum += counts,
            _ => agent.slots.push((slot, counts)),
        }
        if failed {
            agent.urgent = true;
            agent.hot_until = now + HOT_FOR;
            self.report_if_due(index);
        }
    }

    pub(super) fn report_if_due(&mut self, index: usize) {
        let (now, policy) = (self.now, &self.setup.policy);
        let time = self.time();
        let agent = &mut self.agents[index];
        let since = now - agent.last_report;
        let hot = now < agent.hot_until || agent.admission(policy, time) < 1.0;
        let interval = match (now < agent.prompt_until, hot) {
            (true, _) => CLOSEST,
            (_, true) => HOT,
            _ => CALM,
        };
        let expedited = || agent.urgent && since >= CLOSEST;
        let due = since >= interval || (expedited() && agent.spend_token(now));
        if !agent.up || !due {
            return;
        }
        let slots = std::mem::take(&mut agent.slots);
        let age = |slot: u64| now / 1000 - slot * SLOT.as_millis() as u64;
        let report = Report {
            life: agent.life,
            sequence: agent.sequence,
            slots: slots
                .into_iter()
                .map(|(at, counts)| Slot {
                    age_ms: age(at),
                    counts,
                })
                .collect(),
            demand: std::mem::take(&mut agent.demand),
            refused: std::mem::take(&mut agent.refused),
            urgent: std::mem::take(&mut agent.urgent),
        };
        agent.sequence += 1;
        agent.last_report = now;
        let replica = agent.replica;
        self.send(|| Event::AtReplica {
            replica,
            agent: index,
            message: ToReplica::Report(report.clone()),
        });
    }

    /// What cannot be used any more is given back, so that another may try.
    pub(super) fn return_lease_if_late(&mut self, index: usize) {
        let now = self.time();
        let agent = &mut self.agents[index];
        let late = |lease: &mut TrialLease| lease.expires < now + LONGEST_SERVICE;
        let Some(lease) = agent.lease.take_if(late) else {
            return;
        };
        let (replica, up) = (agent.replica, agent.up);
        if up {
            self.send(|| Event::AtReplica {
                replica,
                agent: index,
                message: ToReplica::Trial(lease.id.clone(), TrialOutcome::Returned),
            });
        }
    }

    pub(super) fn at_agent(&mut self, index: usize, message: ToAgent) {
        let now = self.time();
        let agent = &mut self.agents[index];
        if !agent.up {
            return;
        }
        match message {
            ToAgent::Decision(breaker) => {
                let newer = agent
                    .applied
                    .as_ref()
                    .is_none_or(|held| held.version < breaker.version);
                if newer {
                    agent.history.push(breaker.version);
                    agent.applied = Some(*breaker);
                }
            }
            ToAgent::Grant(lease, life) => {
                let known = agent.granted.contains(&lease.id);
                if life == agent.life && lease.expires > now && !known {
                    agent.granted.push(lease.id.clone());
                    agent.lease = Some(lease);
                }
            }
            ToAgent::ReportNow => {
                agent.prompt_until = self.now + PROMPT_FOR;
                agent.hot_until = self.now + HOT_FOR;
                self.report_if_due(index);
            }
        }
    }
}
