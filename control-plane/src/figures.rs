//! What this replica's agents saw, by backend and agent: the windows that the
//! evidence is judged by, and the figures that people read.

mod intake;
mod load;
pub mod probes;
pub mod quotas;
mod rates;
mod services;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use breaker_core::{
    AgentId, BackendName, BreakerPolicy, FleetView, PopId, PopView, Timestamp, Window,
    breaker::TrialCandidate, evidence::Baseline, ids::ServiceName,
};
use rampmeter_api::convert::histogram::Buckets;

pub use intake::{Intake, Noted};
use rates::{Demand, Rates};
pub use services::Services;

use crate::store::ReplicaView;

/// Figures for people, and demand, cover this much.
pub const SPAN: Duration = Duration::from_secs(10);

/// Demand this recent makes an agent a candidate for a trial: two calm reports.
const CANDIDATE_SPAN: Duration = Duration::from_secs(2);

/// Candidates told to other replicas; enough to prefer a fresh POP.
const CANDIDATES_TOLD: usize = 8;

/// A backend's Retry-After counts for this long after it was seen.
const RETRY_AFTER_SPAN: Duration = Duration::from_secs(10);

/// All figures of this replica.
#[derive(Debug, Default)]
pub struct Figures {
    /// Demand on quotas.
    pub quotas: quotas::Quotas,
    backends: Mutex<HashMap<BackendName, OfBackend>>,
    /// What health checks found.
    pub probes: probes::Probes,
    /// Of whole services.
    pub services: Services,
}

#[derive(Debug, Default)]
struct OfBackend {
    agents: BTreeMap<AgentId, OfAgent>,
    /// One histogram for each second, newest last.
    latency: VecDeque<(u64, Buckets)>,
    retry_after: Option<(Timestamp, Duration)>,
}

#[derive(Debug)]
struct OfAgent {
    pop: PopId,
    window: Window,
    /// What the throttle, the ramp and its limit refused; the latter are its
    /// overloads.
    metered: Window,
    rates: Rates,
    /// Requests it may still claim, and as of when.
    budget: (u64, Timestamp),
    in_flight: u64,
    heard: Timestamp,
}

impl Figures {
    /// This replica's view of a backend, for its register; `None` without
    /// activity. The worst agents are those by evidence since `since`. The caller
    /// knows who reports.
    pub fn view(
        &self,
        name: &BackendName,
        policy: &BreakerPolicy,
        baseline: Baseline,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<ReplicaView> {
        let mut backends = self.lock();
        let of_backend = backends.get_mut(name)?;
        of_backend.forget(policy.window.max(SPAN), now);
        if of_backend.agents.is_empty() {
            backends.remove(name);
            return None;
        }
        Some(of_backend.view(policy, baseline, since, now))
    }

    /// Agents of this replica that want the backend, by demand.
    pub fn candidates(&self, name: &BackendName, now: Timestamp) -> Vec<TrialCandidate> {
        let backends = self.lock();
        backends
            .get(name)
            .map_or_else(Vec::new, |b| b.candidates(now))
    }

    /// Latency of the last second or two, over a service's backends: a sparse
    /// histogram.
    pub fn recent_latency(&self, service: &ServiceName, now: Timestamp) -> Vec<(u32, u32)> {
        let backends = self.lock();
        let of_service = backends
            .iter()
            .filter(|(n, _)| n.service() == service.as_str());
        sparse(of_service.flat_map(|(_, backend)| {
            let recent = |(second, _): &&(u64, Buckets)| *second + 1 >= seconds(now);
            backend.latency.iter().rev().take_while(recent)
        }))
    }

    /// Drops backends that are no longer configured.
    pub fn retain(&self, keep: impl Fn(&BackendName) -> bool) {
        self.lock().retain(|name, _| keep(name));
        self.probes.retain(keep);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BackendName, OfBackend>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfBackend {
    fn forget(&mut self, window: Duration, now: Timestamp) {
        self.agents.retain(|_, a| now.since(a.heard) <= window);
        for agent in self.agents.values_mut() {
            agent.window.compact(now, window);
            agent.metered.compact(now, window);
            agent.rates.forget(now);
        }
        let oldest = seconds(now).saturating_sub(SPAN.as_secs());
        self.latency.retain(|(second, _)| *second > oldest);
        let fresh = |at: Timestamp| now.since(at) <= RETRY_AFTER_SPAN;
        self.retry_after = self.retry_after.filter(|(at, _)| fresh(*at));
    }

    fn view(
        &self,
        policy: &BreakerPolicy,
        baseline: Baseline,
        since: Timestamp,
        now: Timestamp,
    ) -> ReplicaView {
        let pops = self.by_pop().into_iter().map(|(pop, agents)| {
            let windows = agents.iter().map(|(id, agent)| (*id, &agent.window));
            let view = PopView::of_agents(pop.clone(), windows, policy, baseline, since);
            let active = agents.iter().filter(|(_, agent)| !agent.window.is_empty());
            view.heard(active.map(|(_, agent)| agent.heard).collect())
        });
        let demand = self.demand(now);
        let mut candidates = self.candidates(now);
        candidates.truncate(CANDIDATES_TOLD);
        ReplicaView {
            fleet: FleetView {
                pops: pops.collect(),
                baseline,
                ..FleetView::default()
            },
            max_retry_after: self.retry_after.map(|(_, wait)| wait),
            demand_milli: per_second_milli(demand.wanted),
            rejected_milli: per_second_milli(demand.rejected),
            in_flight: self.agents.values().map(|a| a.in_flight).sum(),
            latency: self.latency(),
            candidates,
            directed: self.directed(now),
            accepted: self.accepted(now),
            metered: self.metered(),
            ..ReplicaView::default()
        }
    }

    fn by_pop(&self) -> BTreeMap<&PopId, Vec<(&AgentId, &OfAgent)>> {
        let mut pops: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, agent) in &self.agents {
            pops.entry(&agent.pop).or_default().push((id, agent));
        }
        pops
    }

    fn demand(&self, now: Timestamp) -> Demand {
        let mut sum = Demand::default();
        for agent in self.agents.values() {
            sum += agent.rates.over(SPAN, now);
        }
        sum
    }

    fn latency(&self) -> Vec<(u32, u32)> {
        sparse(self.latency.iter())
    }

    fn candidates(&self, now: Timestamp) -> Vec<TrialCandidate> {
        let span = CANDIDATE_SPAN.as_secs_f64();
        let wanting = self.agents.iter().filter_map(|(id, agent)| {
            let demand = agent.rates.over(CANDIDATE_SPAN, now);
            (demand.wanted > 0).then(|| TrialCandidate {
                agent: id.clone(),
                pop: agent.pop.clone(),
                demand: demand.wanted as f64 / span,
                idempotent: demand.idempotent as f64 / span,
            })
        });
        let mut wanting: Vec<_> = wanting.collect();
        wanting.sort_by(|a, b| b.demand.total_cmp(&a.demand));
        wanting
    }
}

/// The sum of histograms of some seconds.
fn sparse<'a>(seconds: impl Iterator<Item = &'a (u64, Buckets)>) -> Vec<(u32, u32)> {
    let mut sum = Buckets::new();
    for (bucket, count) in seconds.flat_map(|(_, buckets)| buckets) {
        *sum.entry(*bucket).or_default() += count;
    }
    let narrow = |count| u32::try_from(count).unwrap_or(u32::MAX);
    sum.into_iter()
        .map(|(b, count)| (b, narrow(count)))
        .collect()
}

fn per_second_milli(count: u64) -> u64 {
    count.saturating_mul(1000) / SPAN.as_secs()
}

fn seconds(at: Timestamp) -> u64 {
    at.as_millis() / 1000
}

#[cfg(test)]
mod tests;
