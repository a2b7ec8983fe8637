//! What an operator decides about traffic: overrides, drains, plans.

use rampmeter_api::v1::{
    ApprovePlanRequest, ClearDrainRequest, ClearOverrideRequest, DrainRegionRequest,
    GetServiceRequest, GetServiceResponse, Mode, OverrideBackendRequest,
};

use super::{Io, user};
use crate::{
    cli::{Approve, Drain, Mode as Forced, Output, Override, Undrain},
    client::Client,
    failure::Failure,
    view::plans,
    words,
};

pub(super) async fn force(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    over: Override,
) -> Result<(), Failure> {
    let mode = match over.mode {
        Some(Forced::Open) => Mode::ForcedOpen,
        Some(Forced::Closed) => Mode::ForcedClosed,
        Some(Forced::Shadow) => Mode::Shadow,
        Some(Forced::Disabled) => Mode::Disabled,
        None => Mode::Unspecified,
    };
    let expires_in = over
        .expires_in
        .and_then(|duration| duration.try_into().ok());
    let request = client.request(OverrideBackendRequest {
        name: over.name.clone(),
        mode: mode.into(),
        reason: over.why.reason,
        expires_in,
        actor: over.why.actor.unwrap_or_else(user),
        break_glass: over.break_glass,
    });
    let answer = client.answer(client.operator().override_backend(request).await)?;
    io.answer(output, &answer, |answer, _| {
        let set = answer.r#override.clone().unwrap_or_default();
        let mode = words::mode(set.mode());
        let until = words::clock(set.expire_time);
        let version = words::version(answer.version);
        format!(
            "{} is {mode} until {until} UTC (decision {version})\n",
            over.name
        )
    })
}

pub(super) async fn clear(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    over: Override,
) -> Result<(), Failure> {
    let request = client.request(ClearOverrideRequest {
        name: over.name.clone(),
        reason: over.why.reason,
        actor: over.why.actor.unwrap_or_else(user),
    });
    let answer = client.answer(client.operator().clear_override(request).await)?;
    io.answer(output, &answer, |answer, _| {
        let version = words::version(answer.version);
        format!(
            "the override of {} is cleared (decision {version})\n",
            over.name
        )
    })
}

pub(super) async fn drain(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    drain: Drain,
) -> Result<(), Failure> {
    let request = client.request(DrainRegionRequest {
        region: drain.region.clone(),
        service: drain.service.unwrap_or_default(),
        reason: drain.why.reason,
        expires_in: drain.expires_in.try_into().ok(),
        actor: drain.why.actor.unwrap_or_else(user),
        break_glass: drain.break_glass,
    });
    let answer = client.answer(client.operator().drain_region(request).await)?;
    io.answer(output, &answer, |answer, _| {
        let set = answer.drain.clone().unwrap_or_default();
        let until = words::clock(set.expire_time);
        let services = answer.services.join(", ");
        format!(
            "{} is drained of {services} until {until} UTC\n",
            drain.region
        )
    })
}

pub(super) async fn undrain(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    undrain: Undrain,
) -> Result<(), Failure> {
    let request = client.request(ClearDrainRequest {
        region: undrain.region.clone(),
        service: undrain.service.unwrap_or_default(),
        reason: undrain.why.reason,
        actor: undrain.why.actor.unwrap_or_else(user),
    });
    let answer = client.answer(client.operator().clear_drain(request).await)?;
    io.answer(output, &answer, |answer, _| {
        let services = answer.services.join(", ");
        format!("{} takes traffic of {services} again\n", undrain.region)
    })
}

pub(super) async fn show_plan(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    service: String,
) -> Result<(), Failure> {
    let answer = service_of(client, service).await?;
    io.answer(output, &answer, plans::render)
}

async fn service_of(client: &Client, name: String) -> Result<GetServiceResponse, Failure> {
    let request = client.request(GetServiceRequest { name });
    client.answer(client.fleet().get_service(request).await)
}

pub(super) async fn approve(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    approve: Approve,
) -> Result<(), Failure> {
    let service = approve.service;
    // Named in any case: what is approved is a plan that somebody saw or could
    // have seen, and not one that took its place in the meantime.
    let version = match approve.version {
        Some(version) => version,
        None => {
            let waiting = service_of(client, service.clone()).await?.proposed_plan;
            waiting.and_then(|plan| plan.version).ok_or_else(|| {
                Failure::Refused(format!("no plan of {service} waits for approval"))
            })?
        }
    };
    let request = client.request(ApprovePlanRequest {
        service: service.clone(),
        version: Some(version),
        reason: approve.why.reason,
        actor: approve.why.actor.unwrap_or_else(user),
    });
    let answer = client.answer(client.operator().approve_plan(request).await)?;
    io.answer(output, &answer, |answer, eye| {
        let plan = answer.plan.clone().unwrap_or_default();
        plans::one(&format!("{service}: in force"), &plan, eye)
    })
}
