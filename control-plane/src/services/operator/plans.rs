//! Plans that wait for an operator (failover mode manual).

use breaker_core::{
    Version, explain::steering::plan as in_words, ids::ServiceName, plan::Plan,
    steering::SteeringInput,
};
use rampmeter_api::{convert::steering, v1};
use tonic::{Request, Status};

use super::{fields, standing::Standing};
use crate::{
    commit::{ATTEMPTS, Attempt, KnownService},
    config,
    plane::Plane,
    services::status,
};

pub(super) async fn approve(
    plane: &Plane,
    request: Request<v1::ApprovePlanRequest>,
) -> Result<v1::ApprovePlanResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    let fleet = plane.fleet().ok_or_else(status::no_config)?;
    status::known_service(&fleet, &request.service)?;
    let found = fleet
        .config
        .services
        .get_key_value(request.service.as_str());
    let (name, service) = found.ok_or_else(status::no_config)?;
    let caller = fields::caller(&request.actor, &request.reason, address)?;
    let Some(version) = request.version.map(Version::from) else {
        let message = "must be the proposed plan's, as GetService shows it";
        return Err(status::invalid("version", message));
    };
    let settings = config::settings(service);
    let mut known = Standing::of_service(plane, &fleet, name).await?.known;
    let seen = proposed(&known, version)?;
    for _ in 0..ATTEMPTS {
        // What changed meanwhile must not be what was read and approved.
        if known.steering.proposed.as_ref() != Some(&seen) {
            return Err(another(name, known.steering.version));
        }
        let now = plane.clock.now();
        let attempt = known.attempt(plane, &settings, SteeringInput::Approve, now, Some(&caller));
        match attempt.await.map_err(|e| status::of_store(&e))? {
            Attempt::Done(_) => {
                plane.mailbox.urge_services([name.clone()]);
                fields::audit("ApprovePlan", name.as_str(), &caller);
                let version = known.steering.version;
                let plan = known.steering.plan.as_ref();
                let plan = plan.map(|p| steering::plan(p, version, in_words(name.as_str(), p)));
                return Ok(v1::ApprovePlanResponse { plan });
            }
            Attempt::Unchanged(_) => return Err(nothing(name)),
            Attempt::Lost => {}
        }
    }
    Err(status::too_fast(name.as_str()))
}

/// The plan that the operator means.
fn proposed(known: &KnownService, version: Version) -> Result<Plan, Status> {
    let plan = known.steering.proposed.clone();
    let plan = plan.ok_or_else(|| nothing(&known.name))?;
    match known.steering.version == version {
        true => Ok(plan),
        false => Err(another(&known.name, known.steering.version)),
    }
}

fn nothing(service: &ServiceName) -> Status {
    let message = format!("no plan of {service} waits for approval");
    status::precondition("NO_PROPOSED_PLAN", message)
}

fn another(service: &ServiceName, version: Version) -> Status {
    let message = format!(
        "the plan of {service} that waits now has version {}.{}: read it with GetService, and \
         approve that one",
        version.epoch, version.revision
    );
    status::precondition("ANOTHER_PLAN", message)
}
