//! What readers see, put together from what is known.

use breaker_core::{BackendName, Circuit, ids::ServiceName};
use rampmeter_api::{
    convert::{self, duration, timestamp},
    v1,
};

use super::services;
use crate::{
    board::{self, Seen},
    config::Fleet,
    peers,
    plane::Plane,
    probes,
    store::ReplicaView,
};

/// A backend; `None` before the coordinator has looked at it.
pub(super) fn backend(plane: &Plane, fleet: &Fleet, name: &BackendName) -> Option<v1::Backend> {
    let (service, configured) = fleet.config.backend(name)?;
    let now = plane.clock.now();
    let seen = plane.board.get(name);
    let fresh = breaker_core::Breaker::new(0, fleet.applied);
    let breaker = seen.as_ref().map_or(&fresh, |s| &s.breaker);
    let mut backend = convert::backend::backend(name, breaker, &service.breaker, now);
    // A breaker that never tripped is closed since it is configured.
    if backend.state_time.is_none_or(|t| t.seconds == 0) {
        backend.state_time = Some(timestamp(fleet.applied));
    }
    backend.capacity_per_second = services::capacity(plane, name, configured.capacity_rps);
    backend.mix = seen.as_ref().map(|s| s.figures.directed.into());
    let figures = seen.as_ref().map(|s| &s.figures);
    backend.traffic = figures.map(|figures| board::traffic(figures, now));
    backend.endpoint_status = probes::status(
        &fleet.config,
        name,
        figures.unwrap_or(&ReplicaView::default()),
    );
    backend.endpoints = configured
        .endpoints
        .iter()
        .map(ToString::to_string)
        .collect();
    Some(backend)
}

pub(super) fn service(name: &ServiceName, service: &fleet_config::Service) -> v1::Service {
    let routes = service.routes.iter().map(|route| {
        let hosts: Vec<_> = route.hosts.iter().map(ToString::to_string).collect();
        let mut parts = vec![route.path.to_string()];
        if !hosts.is_empty() {
            parts.push(format!("hosts {}", hosts.join(", ")));
        }
        if !route.methods.is_empty() {
            parts.push(format!("methods {}", route.methods.join(", ")));
        }
        for (header, value) in &route.headers {
            parts.push(format!("header {header}: {value}"));
        }
        parts.join("; ")
    });
    v1::Service {
        name: name.as_str().to_owned(),
        backends: service
            .backends
            .values()
            .map(|b| b.name.as_str().to_owned())
            .collect(),
        routes: routes.collect(),
    }
}

pub(super) fn agents(plane: &Plane) -> Vec<v1::Agent> {
    let now = plane.clock.now();
    let own = plane
        .agents
        .presence(now)
        .into_iter()
        .filter(peers::is_connected);
    let mut agents: Vec<_> = own.map(|agent| (plane.name.clone(), agent)).collect();
    for (replica, agent) in plane.peers.agents() {
        let known = agents.iter().any(|(_, a)| a.agent == agent.agent);
        if replica != plane.name && !known {
            agents.push((replica, agent));
        }
    }
    agents.sort_by(|(_, a), (_, b)| a.agent.cmp(&b.agent));
    let rendered = agents.into_iter().map(|(replica, agent)| {
        let suspect_for = plane.board.suspect_for(&agent.agent);
        v1::Agent {
            name: agent.agent.as_str().to_owned(),
            pop: agent.pop.as_str().to_owned(),
            version: agent.version,
            address: agent.address,
            replica: replica.as_str().to_owned(),
            connect_time: Some(timestamp(agent.connected)),
            last_heard: Some(duration(now.since(agent.heard))),
            round_trip: Some(duration(agent.round_trip)),
            in_sync: agent.in_sync,
            config_revision: agent.config_revision,
            config_error: agent.config_error,
            suspect_for,
        }
    });
    rendered.collect()
}

pub(super) fn fleet(plane: &Plane) -> v1::GetFleetResponse {
    let fleet = plane.fleet();
    let agents = agents(plane);
    let board = plane.board.all();
    let count = |test: fn(&Seen) -> bool| {
        u32::try_from(board.iter().filter(|(_, s)| test(s)).count()).unwrap_or(u32::MAX)
    };
    let pops = fleet
        .iter()
        .flat_map(|f| &f.config.pops)
        .map(|(pop, of_pop)| v1::PopSummary {
            pop: pop.as_str().to_owned(),
            agents: agents.iter().filter(|a| a.pop == pop.as_str()).count() as u32,
            region_order: of_pop
                .region_order
                .iter()
                .map(|r| r.as_str().to_owned())
                .collect(),
        });
    v1::GetFleetResponse {
        backends: fleet
            .as_ref()
            .map_or(0, |f| f.config.backends().count() as u32),
        backends_open: count(|s| matches!(s.breaker.fleet, Circuit::Open { .. })),
        backends_half_open: count(|s| matches!(s.breaker.fleet, Circuit::HalfOpen { .. })),
        backends_ramping: count(|s| {
            matches!(s.breaker.fleet, Circuit::Closed { ramp: Some(_), .. })
        }),
        agents: agents.len() as u32,
        agents_in_sync: agents.iter().filter(|a| a.in_sync).count() as u32,
        replicas: replicas(plane, &agents),
        pops: pops.collect(),
        config_revision: fleet.as_ref().map_or(0, |f| f.revision),
        store: plane.store_name.clone(),
        store_available: *plane.store_up.borrow(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn replicas(plane: &Plane, agents: &[v1::Agent]) -> Vec<v1::Replica> {
    let now = plane.clock.now();
    let mut names: Vec<_> = plane.peers.replicas().into_iter().map(|(r, _)| r).collect();
    if !names.contains(&plane.name) {
        names.push(plane.name.clone());
    }
    names.sort();
    let rendered = names.into_iter().map(|name| {
        let served = agents.iter().filter(|a| a.replica == name.as_str()).count();
        v1::Replica {
            agents: served as u32,
            last_heard: Some(duration(now.since(plane.peers.heard(
                &plane.name,
                &name,
                now,
            )))),
            name: name.as_str().to_owned(),
        }
    });
    rendered.collect()
}
