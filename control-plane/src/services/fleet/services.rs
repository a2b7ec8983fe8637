//! "Where does its traffic go, and why?"

use breaker_core::{
    Plan, Steering, Timestamp, explain::steering::plan as in_words, ids::ServiceName,
};
use rampmeter_api::{
    convert::steering::{drain, drill, plan},
    v1,
};

use super::render;
use crate::{board, config::Fleet, plane::Plane, quota};

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
        drill: steering.drill.as_ref().map(drill),
        quotas: quota::status(plane, fleet, name),
        traffic: Some(board::services::traffic(&seen.figures)),
        summary: summary(name, steering, plane.clock.now()),
    }
}

fn summary(name: &ServiceName, steering: &Steering, now: Timestamp) -> String {
    let mut text = match &steering.plan {
        Some(plan) => format!("{}.", in_words(name.as_str(), plan)),
        None => format!("{name} has no plan yet: its regions are tried in their order."),
    };
    for (region, drain) in &steering.drains {
        let left = now.until(drain.expires).as_secs_f64();
        let (actor, reason) = (&drain.actor, &drain.reason);
        text.push_str(&format!(
            " {actor} drains {region} for another {left:.0} s: {reason}."
        ));
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
