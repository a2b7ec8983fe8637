//! `/state`: what this agent does and why, as JSON for a person at 3 a.m. and
//! for tests.

use std::{sync::Arc, time::Instant};

use breaker_core::{Circuit, Mode, Timestamp, breaker::StateName, steering::Fault};
use fleet_config::RequestKey;
use rampmeter_api::convert::decision::Decision;
use serde_json::{Value, json};

use crate::{
    admit::{
        recorder::{Counters, OUTCOMES, REFUSALS, RETRIES, SERVED, Tally},
        refusal::RefusalReason,
        stance::{Rule, Shares, Stance, ruling},
        way::{Course, Injection, Way},
    },
    backend::reach::Target,
    cache::kept::COUNTED,
    clock::nanos,
    fleet::{
        apply::Held,
        control::Control,
        steered::Steered,
        watched::{Change, Watched},
    },
};

/// The whole page.
pub fn state(control: &Control) -> Value {
    let now = control.clock.now();
    let backends = control.backends.values();
    let services = control.services.values();
    json!({
        "agent": control.identity.agent.as_str(),
        "pop": control.identity.pop.as_str(),
        "version": env!("CARGO_PKG_VERSION"),
        "ready": control.is_ready(),
        "config": {
            "revision": control.config_revision(),
            "source": control.source.as_str(),
            "error": control.config_error,
        },
        "host": {"error": control.host_error},
        "control_plane": link(control),
        "services": services.map(|steered| service(control, steered, now)).collect::<Vec<_>>(),
        "cache": {
            "bytes": control.store().bytes(),
            "max_bytes": control.store().limit(),
            "entries": control.store().entries(),
        },
        "probing": probing(control, now),
        "backends": backends.map(|watched| backend(control, watched, now)).collect::<Vec<_>>(),
    })
}

fn link(control: &Control) -> Value {
    let status = &control.status;
    let connected = status.connected.as_ref();
    json!({
        "connected": connected.is_some(),
        "address": connected.map(|c| &c.address),
        "replica": connected.map(|c| &c.replica),
        "connected_since_unix_ms": connected.map(|c| c.since_unix_ms),
        "last_error": status.last_error,
        "store_unavailable": status.store_unavailable,
        "streams": status.streams,
        "reports": status.reports,
        "report_bytes": status.report_bytes,
        "valid_for_ms": control.valid_for.as_millis() as u64,
    })
}

fn service(control: &Control, steered: &Steered, now: Timestamp) -> Value {
    let way = steered.way();
    let service = &steered.service;
    let held = control.steerings.get(service.name.as_str());
    let counters = steered.counters();
    let plan = held.map(|held| {
        json!({
            "epoch": held.decision.version.epoch,
            "revision": held.decision.version.revision,
            "heard_ms_ago": now.since(held.heard).as_millis() as u64,
            "stale": !held.is_fresh(now, control.valid_for),
            "applied_unix_ms": held.applied_unix_ms,
        })
    });
    json!({
        "name": service.name.as_str(),
        "course": course(&way),
        "decision": plan,
        "regions": regions(steered, &way),
        "shed": way.plan().map(|(bands, _)| bands.shed()),
        "mix": way.mix.shares().0,
        "drill": way.drill.as_ref().map(|drill| injection(control, drill, now)),
        "quota": quota(steered, now),
        "kept": kept(steered),
        "demand": counters.wanted().total() as u64,
        "demand_by_priority": counters.wanted().0.map(|count| count as u64),
        "served": named(&counters, &SERVED),
    })
}

fn quota(steered: &Steered, now: Timestamp) -> Option<Value> {
    let quota = steered.service.quota.as_ref()?;
    let (settings, standing) = (quota.settings(), quota.standing(nanos(now)));
    let key = settings.key.as_ref().map(|RequestKey::Header(name)| name);
    Some(json!({
        "configured_rate": settings.rate,
        "configured_burst": settings.burst,
        "key": key,
        "rate": standing.rate,
        "lent": standing.lent,
        "keys": standing.keys,
    }))
}

/// What came of its kept answers; null without a fallback.
fn kept(steered: &Steered) -> Option<Value> {
    let kept = steered.service.kept.as_ref()?;
    let counts = COUNTED.into_iter().zip(kept.counts.read());
    let counts = counts.map(|((name, _), count)| (name.to_owned(), count.into()));
    Some(Value::Object(counts.collect()))
}

/// By what its requests find their region.
fn course(way: &Way) -> &'static str {
    match way.course {
        Course::InOrder(_) => "IN_ORDER",
        Course::Planned(_) => "PLANNED",
        Course::Stale { .. } => "STALE_PLAN",
    }
}

fn regions(steered: &Steered, way: &Way) -> Vec<Value> {
    let regions = steered.service.regions.iter().enumerate();
    let bands = way.plan().map(|(bands, _)| bands.regions());
    regions
        .map(|(at, backend)| {
            let band = bands.and_then(|bands| bands.get(at));
            json!({
                "name": backend.name.region(),
                "share": band.map(|band| band.share),
                "headroom": band.map(|band| band.headroom),
            })
        })
        .collect()
}

fn injection(control: &Control, drill: &Injection, now: Timestamp) -> Value {
    let mut backends = control.backends.values().map(|watched| &watched.backend);
    let backend = backends.find(|backend| backend.index == drill.backend);
    json!({
        "id": drill.id,
        "backend": backend.map(|backend| backend.name.as_str()),
        "fault": match drill.fault {
            Fault::Error => "ERROR",
            Fault::Delay(_) => "DELAY",
            Fault::Dead => "DEAD",
        },
        "share": drill.share,
        "ends_in_ms": now.until(drill.until).as_millis() as u64,
    })
}

fn backend(control: &Control, watched: &Watched, now: Timestamp) -> Value {
    let stance = watched.stance();
    let held = control.decisions.get(watched.backend.name.as_str());
    let counters = watched.counters();
    let newest = watched.changes.back();
    json!({
        "name": watched.backend.name.as_str(),
        "state": state_name(watched.state),
        "decided_by": decided_by(control, &stance, held),
        "admission": stance.admission(now),
        "throttle": stance.throttle(),
        "shadow": stance.shadow,
        "since_unix_ms": newest.map(|change| change.unix_ms),
        "changes": watched.changes.iter().map(change).collect::<Vec<_>>(),
        "decision": held.map(|held| decision(control, held, now)),
        "local": { "state": state_name(watched.local.state()), "trips": watched.local.circuit().trips() },
        "leases": leases(watched),
        "in_flight": watched.backend.in_flight(),
        "queued": watched.backend.live.queue.len(),
        "max_concurrency": watched.max_concurrency(),
        "unhealthy_endpoints": watched.backend.live.reach.unhealthy().0,
        "endpoints": endpoints(watched),
        "counters": counts(&counters),
    })
}

/// Every address, and for how long it is left out for its failures.
fn endpoints(watched: &Watched) -> Vec<Value> {
    let (reach, now) = (&watched.backend.live.reach, Instant::now());
    let targets = reach.targets();
    let endpoint = |target: &Arc<Target>| {
        let left = reach.ejected_for(target, now);
        json!({
            "endpoint": target.endpoint.to_string(),
            "address": target.address.map(|address| address.to_string()),
            "ejected_for_ms": left.map(|left| left.as_millis() as u64),
        })
    };
    targets.iter().map(endpoint).collect()
}

/// Health checks that this agent sends.
fn probing(control: &Control, now: Timestamp) -> Value {
    let alone = control.probing.alone.iter();
    let found = control.probing.found().map(|(target, found)| {
        json!({
            "backend": target.backend.as_str(),
            "endpoint": target.endpoint,
            "healthy": found.health.is_healthy(),
            "error": found.error,
            "probed_ms_ago": now.since(found.at).as_millis() as u64,
        })
    });
    json!({
        "alone_for": alone.map(|service| service.as_str()).collect::<Vec<_>>(),
        "endpoints": found.collect::<Vec<_>>(),
    })
}

/// A state as every breaker library writes it.
pub fn state_name(state: StateName) -> &'static str {
    match state {
        StateName::Closed => "CLOSED",
        StateName::Open => "OPEN",
        StateName::HalfOpen => "HALF_OPEN",
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "ENFORCE",
        Mode::Shadow => "SHADOW",
        Mode::ForcedOpen => "FORCED_OPEN",
        Mode::ForcedClosed => "FORCED_CLOSED",
        Mode::Disabled => "DISABLED",
    }
}

/// Who keeps requests away; null when nobody does.
fn decided_by(
    control: &Control,
    stance: &Stance,
    held: Option<&Held<Decision>>,
) -> Option<&'static str> {
    let own = |held: &Held<Decision>| {
        let pop = &control.identity.pop;
        let of_pop = held.decision.pops.get(pop);
        of_pop
            .is_some_and(|own| std::ptr::eq(own, ruling(&held.decision, pop, control.clock.now())))
    };
    let fleet = if held.is_some_and(own) {
        "POP"
    } else {
        "FLEET"
    };
    match &stance.rule {
        Rule::Pass => None,
        Rule::Share(Shares {
            fleet: None,
            pop: None,
            throttle: None,
            ..
        }) => Some("AGENT"),
        Rule::Share(_) => Some(fleet),
        Rule::Refuse { reason, .. } => Some(match reason {
            RefusalReason::Override => "OPERATOR",
            RefusalReason::Local => "AGENT",
            RefusalReason::Open
            | RefusalReason::HalfOpen
            | RefusalReason::Ramp
            | RefusalReason::Throttle
            | RefusalReason::QueueTimeout
            | RefusalReason::Limit => fleet,
        }),
    }
}

fn change(change: &Change) -> Value {
    json!({
        "unix_ms": change.unix_ms,
        "from": state_name(change.from),
        "to": state_name(change.to),
        "by": if change.by_fleet { "FLEET" } else { "AGENT" },
    })
}

fn decision(control: &Control, held: &Held<Decision>, now: Timestamp) -> Value {
    let decision = &held.decision;
    let own = decision.pops.get(&control.identity.pop);
    let expires_in = decision.override_until.map(|until| now.until(until));
    json!({
        "epoch": decision.version.epoch,
        "revision": decision.version.revision,
        "mode": mode_name(decision.mode),
        "override_expires_in_ms": expires_in.map(|left| left.as_millis() as u64),
        "throttle": decision.throttle,
        "mix": decision.mix.shares().0,
        "fleet": circuit(&decision.fleet, now),
        "pop": own.map(|own| circuit(own, now)),
        "heard_ms_ago": now.since(held.heard).as_millis() as u64,
        "stale": !held.is_fresh(now, control.valid_for),
        "applied_unix_ms": held.applied_unix_ms,
    })
}

fn circuit(circuit: &Circuit, now: Timestamp) -> Value {
    let retry_in = match circuit {
        Circuit::Open { until, .. } => Some(now.until(*until).as_millis() as u64),
        Circuit::Closed { .. } | Circuit::HalfOpen { .. } => None,
    };
    json!({
        "state": state_name(circuit.state()),
        "admission": circuit.admission(now),
        "trips": circuit.trips(),
        "retry_in_ms": retry_in,
    })
}

fn leases(watched: &Watched) -> Vec<Value> {
    let fleet = watched.leases.iter().map(|lease| ("FLEET", lease));
    let local = watched.local.lease().map(|lease| ("AGENT", lease));
    fleet
        .chain(local)
        .map(|(scope, lease)| {
            json!({ "id": lease.id, "scope": scope, "claimed": lease.is_claimed() })
        })
        .collect()
}

fn counts(counters: &Counters) -> Value {
    json!({
        "demand": counters.get(Tally::Demand),
        "directed": counters.wanted().total() as u64,
        "slow": counters.get(Tally::Slow),
        "shadowed": counters.get(Tally::Shadowed),
        "outcomes": named(counters, &OUTCOMES),
        "refused": named(counters, &REFUSALS),
        "retries": named(counters, &RETRIES),
    })
}

fn named(counters: &Counters, names: &[(&str, Tally)]) -> Value {
    let counts = names
        .iter()
        .map(|(name, tally)| ((*name).to_owned(), json!(counters.get(*tally))));
    Value::Object(counts.collect())
}
