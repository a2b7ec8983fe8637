//! Who probes what. Each replica works it out for the whole fleet, from the same
//! list of agents and with the same result, and tells its own agents.
//!
//! An agent whose stream ended is replaced at once, one that is silent after
//! [`SILENCE`], at other replicas when they hear of it: within 2 intervals, unless
//! those are shorter than that. Replicas that do not hear of each other, because
//! the store is away, assign among their own agents only: each then has findings
//! of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use breaker_core::{
    AgentId, BackendName, PopId,
    probing::{Finding, Probed, Unhealthy, assign, merge},
};
use fleet_config::FleetConfig;
use rampmeter_api::v1;

use crate::{
    agents::SILENCE,
    plane::{Plane, pause},
    store::{EndpointView, ReplicaView},
};

/// How often it is looked at who is there.
const LOOK: Duration = Duration::from_millis(250);

/// What one agent probes, ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment(Vec<(BackendName, String)>);

impl Assignment {
    fn of(probed: &[&Probed]) -> Self {
        let targets = probed
            .iter()
            .map(|p| (p.backend.clone(), p.endpoint.clone()));
        let mut targets: Vec<_> = targets.collect();
        targets.sort_unstable();
        Self(targets)
    }

    /// The backend of a target, if it is in here.
    pub fn backend_of(&self, backend: &str, endpoint: &str) -> Option<&BackendName> {
        let wanted = (backend, endpoint);
        let at = self
            .0
            .binary_search_by(|(b, e)| (b.as_str(), e.as_str()).cmp(&wanted));
        at.ok().map(|at| &self.0[at].0)
    }

    /// As it is sent.
    pub fn wire(&self) -> v1::ProbeAssignment {
        let target = |(backend, endpoint): &(BackendName, String)| v1::ProbeTarget {
            backend: backend.as_str().to_owned(),
            endpoint: endpoint.clone(),
        };
        v1::ProbeAssignment {
            targets: self.0.iter().map(target).collect(),
        }
    }
}

/// What an assignment follows from.
#[derive(Debug, Default, PartialEq)]
struct Survey {
    endpoints: Vec<Probed>,
    agents: BTreeMap<PopId, BTreeSet<AgentId>>,
}

/// Assigns until the process ends.
pub async fn run(plane: &Plane) {
    let mut survey = Survey::default();
    let mut assigned = BTreeMap::<AgentId, Arc<Assignment>>::new();
    loop {
        let latest = look(plane);
        if latest != survey {
            survey = latest;
            assigned = assign(&survey.endpoints, &survey.agents)
                .into_iter()
                .map(|(agent, probed)| (agent, Arc::new(Assignment::of(&probed))))
                .collect();
        }
        tell(plane, &assigned);
        if !pause(plane, LOOK).await {
            return;
        }
    }
}

fn look(plane: &Plane) -> Survey {
    let Some(fleet) = plane.fleet() else {
        return Survey::default();
    };
    let backends = fleet.config.backends();
    let endpoints = backends.flat_map(|(name, service, backend)| {
        let check = service.health_check.as_ref();
        let endpoints = check.map(|_| &backend.endpoints).into_iter().flatten();
        endpoints.map(move |endpoint| Probed {
            backend: name.clone(),
            endpoint: endpoint.to_string(),
            probers: check.map_or(0, |check| check.probers_per_pop),
        })
    });
    let endpoints: Vec<_> = endpoints.collect();
    let agents = match endpoints.is_empty() {
        true => BTreeMap::new(),
        false => live(plane),
    };
    Survey { endpoints, agents }
}

/// Agents that can probe: connected, and heard of lately.
fn live(plane: &Plane) -> BTreeMap<PopId, BTreeSet<AgentId>> {
    let now = plane.clock.now();
    let mut pops = BTreeMap::<PopId, BTreeSet<AgentId>>::new();
    for session in plane.agents.connected() {
        if now.since(session.heard()) < SILENCE {
            let pop = pops.entry(session.who.pop.clone()).or_default();
            pop.insert(session.who.agent.clone());
        }
    }
    for (replica, agent) in plane.peers.agents() {
        if replica != plane.name && now.since(agent.heard) < SILENCE {
            pops.entry(agent.pop).or_default().insert(agent.agent);
        }
    }
    pops
}

/// Tells those whose assignment changed, or whose stream is new. One without any
/// is told as well, if there are health checks: it may remember others.
fn tell(plane: &Plane, assigned: &BTreeMap<AgentId, Arc<Assignment>>) {
    for session in plane.agents.connected() {
        let theirs = assigned.get(&session.who.agent).cloned();
        session.probes.send_if_modified(|held| {
            let theirs = match (&held, theirs) {
                (None, theirs) => theirs,
                (Some(_), theirs) => Some(theirs.unwrap_or_default()),
            };
            let changed = *held != theirs;
            if changed {
                *held = theirs;
            }
            changed
        });
    }
}

/// Endpoints of a backend with health checks; none without.
pub fn configured<'a>(
    config: &'a FleetConfig,
    name: &BackendName,
) -> impl Iterator<Item = String> + 'a {
    let backend = config.backend(name);
    let checked = backend.filter(|(service, _)| service.health_check.is_some());
    let endpoints = checked
        .into_iter()
        .flat_map(|(_, backend)| &backend.endpoints);
    endpoints.map(ToString::to_string)
}

/// What all findings say together: configured endpoints that are unhealthy.
pub fn unhealthy(
    config: &FleetConfig,
    name: &BackendName,
    figures: &ReplicaView,
) -> BTreeMap<String, Unhealthy> {
    if figures.endpoints.is_empty() {
        return BTreeMap::new();
    }
    let configured: BTreeSet<_> = configured(config, name).collect();
    let findings = figures.endpoints.iter().map(|view| Finding {
        endpoint: &view.endpoint,
        pop: &view.pop,
        healthy: view.healthy,
        unhealthy: view.unhealthy,
    });
    merge(findings.filter(|finding| configured.contains(finding.endpoint)))
}

/// Every endpoint of a backend was probed lately.
pub fn is_complete(config: &FleetConfig, name: &BackendName, figures: &ReplicaView) -> bool {
    let probed: BTreeSet<&str> = figures.endpoints.iter().map(|v| &*v.endpoint).collect();
    !probed.is_empty() && configured(config, name).all(|endpoint| probed.contains(&*endpoint))
}

/// Every endpoint takes no requests, at a POP or everywhere.
pub fn is_hopeless(
    config: &FleetConfig,
    name: &BackendName,
    unhealthy: &BTreeMap<String, Unhealthy>,
    pop: Option<&PopId>,
) -> bool {
    let hopeless = |endpoint: String| match (unhealthy.get(&endpoint), pop) {
        (None, _) => false,
        (Some(unhealthy), Some(pop)) => unhealthy.at(pop),
        (Some(unhealthy), None) => *unhealthy == Unhealthy::Everywhere,
    };
    !unhealthy.is_empty() && configured(config, name).all(hopeless)
}

/// For agents.
pub fn wire(name: &BackendName, unhealthy: &BTreeMap<String, Unhealthy>) -> v1::BackendHealth {
    let endpoint = |(endpoint, unhealthy): (&String, &Unhealthy)| v1::UnhealthyEndpoint {
        endpoint: endpoint.clone(),
        pops: pops(unhealthy),
    };
    v1::BackendHealth {
        backend: name.as_str().to_owned(),
        unhealthy: unhealthy.iter().map(endpoint).collect(),
    }
}

/// For readers: every configured endpoint with what was found of it.
pub fn status(
    config: &FleetConfig,
    name: &BackendName,
    figures: &ReplicaView,
) -> Vec<v1::EndpointStatus> {
    let unhealthy = unhealthy(config, name, figures);
    let endpoints = configured(config, name).map(|endpoint| {
        let views = || figures.endpoints.iter().filter(|v| v.endpoint == endpoint);
        let probers = views().flat_map(|view| &view.probers);
        v1::EndpointStatus {
            healthy: !unhealthy.contains_key(&endpoint),
            unhealthy_pops: unhealthy.get(&endpoint).map(pops).unwrap_or_default(),
            probers: probers.map(|agent| agent.as_str().to_owned()).collect(),
            error: why(views()),
            probes_per_second: views().map(|view| view.probes).sum(),
            endpoint,
        }
    });
    endpoints.collect()
}

/// Why a probe failed lately, of those who find the endpoint unhealthy if any do.
pub fn why<'a>(views: impl Iterator<Item = &'a EndpointView> + Clone) -> String {
    let failing = views
        .clone()
        .find(|v| v.unhealthy > 0 && !v.error.is_empty());
    let any = || views.clone().find(|v| !v.error.is_empty());
    failing
        .or_else(any)
        .map(|v| v.error.clone())
        .unwrap_or_default()
}

/// Empty: everywhere.
fn pops(unhealthy: &Unhealthy) -> Vec<String> {
    match unhealthy {
        Unhealthy::Everywhere => Vec::new(),
        Unhealthy::At(pops) => pops.iter().map(|pop| pop.as_str().to_owned()).collect(),
    }
}

/// Where, for people: "at every POP", "at fra1, iad1".
pub fn place(unhealthy: &Unhealthy) -> String {
    match unhealthy {
        Unhealthy::Everywhere => "at every POP".to_owned(),
        Unhealthy::At(_) => format!("at {}", pops(unhealthy).join(", ")),
    }
}
