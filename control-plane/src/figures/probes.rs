//! What this replica's agents found of endpoints. Bounded: one finding for each
//! endpoint that an agent is assigned, dropped when it is no longer fresh.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use breaker_core::{AgentId, BackendName, PopId, Timestamp};
use fleet_config::FleetConfig;
use rampmeter_api::v1;

use super::{SPAN, seconds};
use crate::{
    agents::Identity,
    probes::Assignment,
    store::{EndpointView, ReplicaView},
};

/// Most probes of one endpoint that one report may claim: the shortest interval
/// over [`SPAN`].
const PROBES_LIMIT: u32 = 100;

/// Longest reason of a failed probe that is kept.
const ERROR_LIMIT: usize = 200;

/// Findings of this replica's agents.
#[derive(Debug, Default)]
pub struct Probes(Mutex<HashMap<BackendName, OfBackend>>);

/// By endpoint, then by prober.
type OfBackend = BTreeMap<String, BTreeMap<AgentId, Found>>;

#[derive(Debug)]
struct Found {
    pop: PopId,
    healthy: bool,
    error: String,
    /// Until when it says anything.
    until: Timestamp,
    /// The newest probe that succeeded.
    succeeded: Option<Timestamp>,
    /// Probes by second, newest last.
    sent: VecDeque<(u64, u32)>,
}

impl Probes {
    /// Takes in what an agent found of endpoints that it is assigned; the rest of
    /// what it says is not its business. Returns backends to look at now: an
    /// endpoint's health is news.
    pub fn record(
        &self,
        who: &Identity,
        probes: &[v1::ProbeReport],
        assignment: &Assignment,
        config: &FleetConfig,
        now: Timestamp,
    ) -> Vec<BackendName> {
        let mut news = Vec::new();
        let mut backends = self.lock();
        for probe in probes {
            let Some(name) = assignment.backend_of(&probe.backend, &probe.endpoint) else {
                continue;
            };
            let service = config.backend(name).map(|(service, _)| service);
            let Some(check) = service.and_then(|service| service.health_check.as_ref()) else {
                continue;
            };
            let at = now - Duration::from_millis(u64::from(probe.age_ms));
            let of_backend = backends.entry(name.clone()).or_default();
            let endpoint = of_backend.entry(probe.endpoint.clone()).or_default();
            let found = Found::of(probe, who, at, at + check.fresh_for());
            if found.take_place(who, endpoint, now) {
                news.push(name.clone());
            }
        }
        news
    }

    /// Adds what is fresh to a view, which there may be none of without.
    pub fn join(
        &self,
        view: Option<ReplicaView>,
        name: &BackendName,
        now: Timestamp,
    ) -> Option<ReplicaView> {
        let mut backends = self.lock();
        let Some(of_backend) = backends.get_mut(name) else {
            return view;
        };
        of_backend.retain(|_, probers| {
            probers.retain(|_, found| found.until > now);
            !probers.is_empty()
        });
        if of_backend.is_empty() {
            backends.remove(name);
            return view;
        }
        let endpoints = of_backend
            .iter()
            .flat_map(|(e, probers)| views(e, probers, now));
        Some(ReplicaView {
            endpoints: endpoints.collect(),
            ..view.unwrap_or_default()
        })
    }

    /// When a probe of any endpoint last succeeded; only from a POP if one is given.
    pub fn succeeded(&self, name: &BackendName, pop: Option<&PopId>) -> Option<Timestamp> {
        let backends = self.lock();
        let found = backends.get(name)?.values().flat_map(BTreeMap::values);
        let here = found.filter(|found| pop.is_none_or(|pop| found.pop == *pop));
        here.filter_map(|found| found.succeeded).max()
    }

    /// Drops backends that are no longer configured.
    pub fn retain(&self, keep: impl Fn(&BackendName) -> bool) {
        self.lock().retain(|name, _| keep(name));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BackendName, OfBackend>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    fn of(probe: &v1::ProbeReport, who: &Identity, at: Timestamp, until: Timestamp) -> Self {
        let printable = probe.error.chars().filter(|c| !c.is_control());
        Self {
            pop: who.pop.clone(),
            healthy: probe.healthy,
            error: printable.take(ERROR_LIMIT).collect(),
            until,
            succeeded: probe.error.is_empty().then_some(at),
            sent: VecDeque::from([(seconds(at), probe.probes.min(PROBES_LIMIT))]),
        }
    }

    /// Replaces what the prober said before. Returns whether it changed its mind,
    /// or is new and finds the endpoint unhealthy.
    fn take_place(
        mut self,
        who: &Identity,
        endpoint: &mut BTreeMap<AgentId, Self>,
        now: Timestamp,
    ) -> bool {
        let before = endpoint.remove(&who.agent);
        let changed = before.as_ref().is_none_or(|before| before.healthy) != self.healthy;
        if let Some(mut before) = before {
            self.succeeded = self.succeeded.max(before.succeeded);
            before.sent.append(&mut self.sent);
            let oldest = seconds(now).saturating_sub(SPAN.as_secs());
            before.sent.retain(|(second, _)| *second > oldest);
            self.sent = before.sent;
        }
        endpoint.insert(who.agent.clone(), self);
        changed
    }

    fn per_second(&self, now: Timestamp) -> f64 {
        let oldest = seconds(now).saturating_sub(SPAN.as_secs());
        let recent = self.sent.iter().filter(|(second, _)| *second > oldest);
        let count: u64 = recent.map(|(_, count)| u64::from(*count)).sum();
        count as f64 / SPAN.as_secs_f64()
    }
}

/// One endpoint, POP by POP.
fn views(
    endpoint: &str,
    probers: &BTreeMap<AgentId, Found>,
    now: Timestamp,
) -> impl Iterator<Item = EndpointView> {
    let mut pops = BTreeMap::<&PopId, EndpointView>::new();
    for (agent, found) in probers {
        let view = pops.entry(&found.pop).or_insert_with(|| EndpointView {
            endpoint: endpoint.to_owned(),
            pop: found.pop.clone(),
            healthy: 0,
            unhealthy: 0,
            probers: Vec::new(),
            error: String::new(),
            probes: 0.0,
        });
        match found.healthy {
            true => view.healthy += 1,
            false => view.unhealthy += 1,
        }
        view.probers.push(agent.clone());
        view.probes += found.per_second(now);
        if view.error.is_empty() {
            view.error.clone_from(&found.error);
        }
    }
    pops.into_values()
}
