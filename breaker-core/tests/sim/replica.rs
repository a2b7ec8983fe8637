//! The control plane's side: windows per agent, registers, decide, commit,
//! publish.

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    Baseline, Breaker, ByPriority, Circuit, Counts, FleetView, Load, PopView, Timestamp,
    TrialLease, Window,
    breaker::{Happening, Input, TrialCandidate, TrialOutcome, Version, choose_trial},
    evidence::LEAN_SCORE,
    vantage::judge,
};

use super::{Event, Micros, ToAgent, ToReplica, World, agent_id, ms, secs};

const CALM: Micros = secs(1);
const HOT: Micros = ms(100);
/// Urgent reports start no more syncs than one in this time.
/// Agents that were asked are not asked again sooner.
const ASK_AGAIN: Micros = secs(5);
const CLOSEST: Micros = ms(5);
/// A round trip to the store.
const STORE: Micros = ms(1);
pub const REGISTER_LIFE: Duration = Duration::from_secs(3);
const AGENT_LIFE: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct Slot {
    pub age_ms: u64,
    pub counts: Counts,
}

#[derive(Clone)]
pub struct Report {
    pub life: u64,
    pub sequence: u64,
    pub slots: Vec<Slot>,
    pub demand: u64,
    pub refused: u64,
    pub urgent: bool,
}

struct Known {
    window: Window,
    newest: Option<(u64, u64)>,
    heard: Timestamp,
    demand: f64,
}

pub struct Proposal {
    expected: Version,
    next: Breaker,
    happenings: Vec<Happening>,
    /// Trial results it used up, to be used again if it loses.
    results: Vec<(String, TrialOutcome)>,
}

pub struct Replica {
    pub up: bool,
    pub life: u64,
    index: usize,
    known: BTreeMap<usize, Known>,
    baseline: Baseline,
    metered: Window,
    calm_counts: Counts,
    results: Vec<(String, TrialOutcome)>,
    last_sync: Micros,
    sync_planned: bool,
    committing: bool,
    /// The store's breaker as last seen.
    adopted: Option<Breaker>,
    published: Option<Version>,
    published_at: Micros,
    leases: u64,
    ask_again: Micros,
}

impl Replica {
    pub fn new(index: usize) -> Self {
        Self {
            up: true,
            life: 0,
            index,
            known: BTreeMap::new(),
            baseline: Baseline::default(),
            metered: Window::default(),
            calm_counts: Counts::default(),
            results: Vec::new(),
            last_sync: 0,
            sync_planned: false,
            committing: false,
            adopted: None,
            published: None,
            published_at: 0,
            leases: 0,
            ask_again: 0,
        }
    }

    pub fn restarted(&self) -> Self {
        Self {
            life: self.life + 1,
            leases: self.leases,
            ..Self::new(self.index)
        }
    }
}

impl World {
    pub(super) fn at_replica(&mut self, replica: usize, agent: usize, message: ToReplica) {
        let now = self.time();
        let it = &mut self.replicas[replica];
        if !it.up {
            return;
        }
        match message {
            ToReplica::Report(report) => {
                let known = it.known.entry(agent).or_insert_with(|| Known {
                    window: Window::default(),
                    newest: None,
                    heard: now,
                    demand: 0.0,
                });
                let order = (report.life, report.sequence);
                if known.newest.is_some_and(|newest| newest >= order) {
                    return;
                }
                known.newest = Some(order);
                known.heard = now;
                known.demand = report.demand as f64;
                let overloaded = report.slots.iter().any(|slot| slot.counts.overloads > 0);
                let refused = Counts {
                    requests: report.refused,
                    ..Counts::default()
                };
                it.metered.record(now, refused);
                for Slot { age_ms, counts } in report.slots {
                    known
                        .window
                        .record(now - Duration::from_millis(age_ms), counts);
                    it.calm_counts += counts;
                }
                if overloaded && self.setup.policy.overload_throttle {
                    self.ask_agents(replica);
                }
                if report.urgent {
                    self.sync_soon(replica);
                }
            }
            ToReplica::Trial(lease, outcome) => {
                it.results.push((lease, outcome));
                self.sync_soon(replica);
            }
        }
    }

    /// Asks the replica's agents what they saw, now and then.
    fn ask_agents(&mut self, replica: usize) {
        let it = &mut self.replicas[replica];
        if self.now < it.ask_again {
            return;
        }
        it.ask_again = self.now + ASK_AGAIN;
        for agent in 0..self.agents.len() {
            if self.agents[agent].up && self.agents[agent].replica == replica {
                self.send(|| Event::AtAgent {
                    agent,
                    message: ToAgent::ReportNow,
                });
            }
        }
    }

    pub(super) fn sync_soon(&mut self, replica: usize) {
        let it = &mut self.replicas[replica];
        if !it.up || it.sync_planned {
            return;
        }
        it.sync_planned = true;
        let life = it.life;
        let wait = (it.last_sync + CLOSEST).saturating_sub(self.now);
        // A planned sync is a tick that does not plan the next one.
        self.after(
            wait,
            Event::ReplicaTick {
                replica,
                life: life | PLANNED,
            },
        );
    }

    pub(super) fn replica_tick(&mut self, replica: usize, life: u64) {
        let planned = life & PLANNED != 0;
        let it = &mut self.replicas[replica];
        if !it.up || it.life != life & !PLANNED {
            return;
        }
        if planned {
            it.sync_planned = false;
            self.sync(replica);
            return;
        }
        let since = self.now - it.last_sync;
        let hot = !matches!(self.store.breaker.fleet, Circuit::Closed { ramp: None, .. })
            || !self.store.breaker.pops.is_empty()
            || self.store.breaker.throttle.is_some();
        if hot || since >= CALM {
            self.sync(replica);
        }
        if self.now - self.replicas[replica].published_at >= CALM {
            self.publish(replica, true);
        }
        self.after(HOT, Event::ReplicaTick { replica, life });
    }

    fn sync(&mut self, replica: usize) {
        if !self.store.up {
            return;
        }
        let now = self.time();
        let view = self.exchange_registers(replica);
        self.replicas[replica].adopted = Some(self.store.breaker.clone());
        self.publish(replica, false);
        if self.replicas[replica].committing {
            return;
        }
        let policy = self.setup.policy.clone();
        let before = self.store.breaker.clone();
        let since = before.evidence_since();
        let verdict = judge(&view, &policy, since, now);
        let mut metered = Window::default();
        self.store.metered.values().for_each(|m| metered.merge(m));
        let suspects = &verdict.evidence.suspects;
        let nothing = ByPriority::default();
        let load = Load::of(&view, &metered, nothing, suspects, since, now);

        let mut breaker = before.clone();
        let mut happenings = Vec::new();
        let mut take = |breaker: &mut Breaker, input: Input<'_>| {
            let step = breaker.step(input, &policy, now);
            happenings.extend(step.happenings);
            if let Some(next) = step.next {
                *breaker = next;
            }
        };
        let results = std::mem::take(&mut self.replicas[replica].results);
        for (lease, outcome) in &results {
            take(
                &mut breaker,
                Input::Trial {
                    lease,
                    outcome: *outcome,
                    retry_after: None,
                    jitter: self.rng.unit(),
                },
            );
        }
        take(
            &mut breaker,
            Input::Tick {
                verdict: &verdict,
                retry_after: None,
                jitter: self.rng.unit(),
                may_open: true,
                load: Some(&load),
            },
        );
        for pop in breaker.wants_trial(&policy, now) {
            let candidates = self.candidates(replica);
            let Some(chosen) = choose_trial(&breaker, pop.as_ref(), &candidates) else {
                continue;
            };
            self.replicas[replica].leases += 1;
            let lease = TrialLease {
                id: format!("{replica}-{}", self.replicas[replica].leases),
                agent: chosen.agent.clone(),
                pop: chosen.pop.clone(),
                expires: now + policy.trial_timeout,
            };
            take(&mut breaker, Input::Grant { pop, lease });
        }

        let it = &mut self.replicas[replica];
        it.last_sync = self.now;
        let calm = matches!(before.fleet, Circuit::Closed { ramp: None, .. })
            && before.pops.is_empty()
            && before.throttle.is_none()
            && verdict.evidence.overall.nats < LEAN_SCORE;
        let counts = std::mem::take(&mut it.calm_counts);
        if calm {
            it.baseline.learn(counts);
        }
        if breaker.version != before.version {
            it.committing = true;
            let life = it.life;
            let proposal = Box::new(Proposal {
                expected: before.version,
                next: breaker,
                happenings,
                results,
            });
            self.after(
                STORE,
                Event::Commit {
                    replica,
                    life,
                    proposal,
                },
            );
        }
    }

    fn exchange_registers(&mut self, replica: usize) -> FleetView {
        let (now, policy) = (self.time(), &self.setup.policy);
        let since = self.store.breaker.evidence_since();
        let it = &mut self.replicas[replica];
        it.known
            .retain(|_, known| now.since(known.heard) < policy.window);
        let mut own = FleetView {
            baseline: it.baseline,
            ..FleetView::default()
        };
        let mut by_pop: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (agent, known) in &mut it.known {
            known.window.compact(now, policy.window);
            own.agents_known += 1;
            own.agents_reporting += u32::from(now.since(known.heard) < AGENT_LIFE);
            by_pop
                .entry(self.agents[*agent].pop.clone())
                .or_default()
                .push(*agent);
        }
        for (pop, agents) in by_pop {
            let named: Vec<_> = agents
                .iter()
                .map(|a| (agent_id(*a), &it.known[a].window))
                .collect();
            let windows = named.iter().map(|(id, window)| (id, *window));
            let view = PopView::of_agents(pop, windows, policy, it.baseline, since);
            let active = agents.iter().map(|a| &it.known[a]);
            let active = active.filter(|known| !known.window.is_empty());
            own.pops
                .push(view.heard(active.map(|known| known.heard).collect()));
        }
        it.metered.compact(now, policy.window);
        self.store.metered.insert(replica, it.metered.clone());
        self.store.registers.insert(replica, (now, own));
        self.view()
    }

    fn candidates(&self, replica: usize) -> Vec<TrialCandidate> {
        let now = self.time();
        self.replicas[replica]
            .known
            .iter()
            .filter(|(_, known)| now.since(known.heard) < AGENT_LIFE)
            .map(|(agent, known)| TrialCandidate {
                agent: agent_id(*agent),
                pop: self.agents[*agent].pop.clone(),
                demand: known.demand,
                idempotent: known.demand,
            })
            .collect()
    }

    pub(super) fn commit(&mut self, replica: usize, life: u64, proposal: Proposal) {
        let won = self.store.up && self.store.breaker.version == proposal.expected;
        let now = self.time();
        let leases = proposal.happenings.iter().filter_map(|h| match h {
            Happening::TrialGranted(lease) => Some(lease.clone()),
            _ => None,
        });
        let leases: Vec<TrialLease> = leases.collect();
        if won {
            self.store.breaker = proposal.next.clone();
            self.store
                .history
                .push((now, proposal.next, proposal.happenings));
            for other in 0..self.replicas.len() {
                if other != replica {
                    self.after(STORE, Event::Hint { replica: other });
                }
            }
        }
        // What the store accepted stays so, even if its author died meanwhile.
        let it = &mut self.replicas[replica];
        if it.life != life || !it.up {
            return;
        }
        it.committing = false;
        if won {
            it.adopted = Some(self.store.breaker.clone());
        }
        if !won {
            it.results.extend(proposal.results);
            self.sync_soon(replica);
            return;
        }
        self.publish(replica, false);
        for lease in leases {
            let agent = (0..self.agents.len()).find(|a| agent_id(*a) == lease.agent);
            let agent = agent.expect("leases go to agents that exist");
            let known = self.replicas[replica].known.get(&agent);
            let Some((life, _)) = known.and_then(|known| known.newest) else {
                continue;
            };
            self.send(|| Event::AtAgent {
                agent,
                message: ToAgent::Grant(lease.clone(), life),
            });
        }
    }

    /// Tells this replica's agents, if they have not been told or `again`.
    fn publish(&mut self, replica: usize, again: bool) {
        let it = &mut self.replicas[replica];
        let Some(breaker) = it.adopted.clone() else {
            return;
        };
        if !again && it.published == Some(breaker.version) {
            return;
        }
        it.published = Some(breaker.version);
        it.published_at = self.now;
        for agent in 0..self.agents.len() {
            if self.agents[agent].replica == replica {
                self.send(|| Event::AtAgent {
                    agent,
                    message: ToAgent::Decision(Box::new(breaker.clone())),
                });
            }
        }
    }
}

/// Marks a tick that was asked for, in the unused top bit of the life.
const PLANNED: u64 = 1 << 63;
