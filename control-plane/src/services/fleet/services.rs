//! "Where does its traffic go, and why?"

use breaker_core::{
    BackendName, Plan, Steering, Timestamp,
    explain::steering::{plan as in_words, region as by_plan},
    ids::{RegionName, ServiceName},
    steering::Drain,
};
use rampmeter_api::{
    convert::steering::{drain, drill, plan},
    v1,
};

use super::render;
use crate::{board, config::Fleet, drills, plane::Plane, quota};

/// One configured service, with its backends.
pub(super) fn service(
    plane: &Plane,
    fleet: &Fleet,
    name: &str,
    backends: Vec<v1::Backend>,
) -> v1::GetServiceResponse {
    let Some((name, configured)) = fleet.config.services.get_key_value(name) else {
        return v1::GetServiceResponse::default();
    };
    let seen = plane.board.services.get(name.as_str()).unwrap_or_default();
    let steering = &seen.steering;
    let rendered = |of: &Plan| plan(of, steering.version, in_words(name.as_str(), of));
    let drains = steering.drains.iter();
    v1::GetServiceResponse {
        service: Some(render::service(name, configured)),
        backends,
        plan: steering.plan.as_ref().map(rendered),
        proposed_plan: steering.proposed.as_ref().map(rendered),
        drains: drains.map(|(region, of)| drain(region, of)).collect(),
        drill: drills::shown(plane, fleet, &seen).as_ref().map(drill),
        quotas: quota::status(plane, fleet, name),
        traffic: Some(board::services::traffic(&seen.figures)),
        summary: summary(name, steering, plane.clock.now()),
    }
}

/// What the plan and drains of its service have to do with a backend, in sentences
/// that follow others; empty if nothing.
pub(super) fn about_backend(plane: &Plane, name: &BackendName, now: Timestamp) -> String {
    let mut text = String::new();
    let Some(seen) = plane.board.services.get(name.service()) else {
        return text;
    };
    let Steering {
        plan,
        drains,
        version,
        ..
    } = &seen.steering;
    if let Some((region, drain)) = drains.get_key_value(name.region()) {
        text.push_str(&drained(region, drain, now));
    }
    let planned = plan.as_ref().and_then(|plan| {
        let (region, _) = plan.regions.get_key_value(name.region())?;
        by_plan(plan, version.revision, region)
    });
    if let Some(planned) = planned {
        let planned = planned.replacen("by plan", "By plan", 1);
        text.push_str(&format!(" {planned}."));
    }
    text
}

/// Requests a second that a region takes: configured, else learned.
pub(super) fn capacity(plane: &Plane, name: &BackendName, configured: Option<f64>) -> Option<f64> {
    configured.or_else(|| {
        let seen = plane.board.services.get(name.service())?;
        seen.steering.learned.get(name.region()).copied()
    })
}

fn drained(region: &RegionName, drain: &Drain, now: Timestamp) -> String {
    let left = now.until(drain.expires).as_secs_f64();
    let Drain { actor, reason, .. } = drain;
    format!(" {actor} drains {region} for another {left:.0} s: {reason}.")
}

fn summary(name: &ServiceName, steering: &Steering, now: Timestamp) -> String {
    let mut text = match &steering.plan {
        Some(plan) => format!("{}.", in_words(name.as_str(), plan)),
        None => format!("{name} has no plan yet: its regions are tried in their order."),
    };
    for (region, drain) in &steering.drains {
        text.push_str(&drained(region, drain, now));
    }
    if let Some(proposed) = &steering.proposed {
        let plan = in_words(name.as_str(), proposed);
        text.push_str(&format!(" A plan waits for approval: {plan}."));
    }
    if let Some(drill) = steering.running_drill() {
        let left = now.until(drill.ends).as_secs_f64();
        let (actor, backend) = (&drill.actor, &drill.backend);
        text.push_str(&format!(
            " {actor} rehearses a failure of {backend} for another {left:.0} s: {}.",
            drill.reason
        ));
    }
    text
}
