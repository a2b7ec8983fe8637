//! Overrides: a backend's breaker forced for a limited time.

use breaker_core::{
    BreakerPolicy, Mode,
    breaker::{Input, Override},
};
use rampmeter_api::{convert::words, v1};
use tonic::{Request, Status};

use super::{fields, standing::Standing};
use crate::{
    commit::{ATTEMPTS, Attempt, Known},
    events::Caller,
    plane::Plane,
    services::status,
};

pub(super) async fn set(
    plane: &Plane,
    request: Request<v1::OverrideBackendRequest>,
) -> Result<v1::OverrideBackendResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    let fleet = plane.fleet().ok_or_else(status::no_config)?;
    let name = status::backend(&fleet, &request.name)?;
    let mode = words::mode("mode", request.mode)
        .ok()
        .filter(|mode| *mode != Mode::Enforce)
        .ok_or_else(|| {
            let allowed =
                "allowed are MODE_FORCED_OPEN, MODE_FORCED_CLOSED, MODE_DISABLED and MODE_SHADOW";
            status::invalid("mode", allowed)
        })?;
    let mut caller = fields::caller(&request.actor, &request.reason, address)?;
    let lasting = fields::expiry(request.expires_in.as_ref())?;
    let standing = Standing::of_backend(plane, &fleet, &name).await?;
    let (region, now) = (name.region(), plane.clock.now());
    match mode {
        Mode::ForcedOpen => {
            let doing = "forcing it open";
            caller.broke_glass = standing.may_lose(region, doing, request.break_glass, now)?;
        }
        Mode::ForcedClosed => standing.may_force_closed(region, now)?,
        Mode::Enforce | Mode::Shadow | Mode::Disabled => {}
    }
    let over = Override {
        mode,
        actor: caller.actor.clone(),
        reason: caller.reason.clone(),
        created: now,
        expires: now + lasting,
    };
    let known = standing.backend(region)?;
    let known = put(plane, standing.policy, known, Some(over), &caller).await?;
    let subject = format!("{name} {}", v1::Mode::from(mode).as_str_name());
    fields::audit("OverrideBackend", &subject, &caller);
    Ok(v1::OverrideBackendResponse {
        r#override: known.breaker.over.as_ref().map(v1::Override::from),
        version: Some(known.breaker.version.into()),
    })
}

pub(super) async fn clear(
    plane: &Plane,
    request: Request<v1::ClearOverrideRequest>,
) -> Result<v1::ClearOverrideResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    let fleet = plane.fleet().ok_or_else(status::no_config)?;
    let name = status::backend(&fleet, &request.name)?;
    let caller = fields::caller(&request.actor, &request.reason, address)?;
    let standing = Standing::of_backend(plane, &fleet, &name).await?;
    let known = standing.backend(name.region())?;
    if known.breaker.over.is_none() {
        let message = format!("{name} has no override in force");
        return Err(status::precondition("NO_OVERRIDE", message));
    }
    let known = put(plane, standing.policy, known, None, &caller).await?;
    fields::audit("ClearOverride", name.as_str(), &caller);
    Ok(v1::ClearOverrideResponse {
        version: Some(known.breaker.version.into()),
    })
}

/// Sets or clears an override by compare-and-swap.
async fn put(
    plane: &Plane,
    policy: &BreakerPolicy,
    mut known: Known,
    over: Option<Override>,
    caller: &Caller,
) -> Result<Known, Status> {
    for _ in 0..ATTEMPTS {
        let now = plane.clock.now();
        let input = Input::Override(over.clone());
        let attempt = known.attempt_by(plane, policy, input, now, Some(caller));
        match attempt.await.map_err(|e| status::of_store(&e))? {
            Attempt::Done(_) | Attempt::Unchanged(_) => {
                plane.mailbox.urge([known.name.clone()]);
                return Ok(known);
            }
            Attempt::Lost => {}
        }
    }
    Err(status::too_fast(known.name.as_str()))
}
