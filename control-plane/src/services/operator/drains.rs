//! Drains: a region of one service, or of all, out of traffic for a limited time.

use std::{collections::BTreeSet, sync::Arc};

use breaker_core::{
    ids::{RegionName, ServiceName},
    steering::{Drain, SteeringInput, SteeringSettings},
};
use rampmeter_api::{convert::steering, v1};
use tonic::{Code, Request, Status};

use super::{fields, standing::Standing};
use crate::{
    commit::{ATTEMPTS, Attempt, KnownService},
    config::{self, Fleet},
    events::Caller,
    plane::Plane,
    services::status,
};

/// Reasons named in one refusal.
const NAMED: usize = 5;

pub(super) async fn set(
    plane: &Plane,
    request: Request<v1::DrainRegionRequest>,
) -> Result<v1::DrainRegionResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    let fleet = plane.fleet().ok_or_else(status::no_config)?;
    let (region, services) = targets(&fleet, &request.region, &request.service)?;
    let mut caller = fields::caller(&request.actor, &request.reason, address)?;
    let lasting = fields::expiry(request.expires_in.as_ref())?;
    let standings = Standing::of_services(plane, &fleet, &services).await?;
    let now = plane.clock.now();
    let drain = Drain {
        actor: caller.actor.clone(),
        reason: caller.reason.clone(),
        created: now,
        expires: now + lasting,
        break_glass: false,
    };
    let checked = check_all(&standings, &region, request.break_glass, now)?;
    let mut done: Vec<(KnownService, Option<Drain>)> = Vec::new();
    for (standing, break_glass) in standings.into_iter().zip(checked) {
        caller.broke_glass |= break_glass;
        let drain = Drain {
            break_glass,
            ..drain.clone()
        };
        let before = standing.known.steering.drains.get(&region).cloned();
        let put = put(plane, &fleet, standing.known, &region, Some(drain), &caller).await;
        match put {
            Ok(known) => done.push((known, before)),
            Err(error) => {
                undo(plane, &fleet, done, &region, &caller).await;
                return Err(error);
            }
        }
    }
    let names = done.iter().map(|(known, _)| known.name.as_str().to_owned());
    let names: Vec<_> = names.collect();
    let subject = format!("{region} of {}", names.join(", "));
    fields::audit("DrainRegion", &subject, &caller);
    let drain = Drain {
        break_glass: caller.broke_glass,
        ..drain
    };
    Ok(v1::DrainRegionResponse {
        services: names,
        drain: Some(steering::drain(&region, &drain)),
    })
}

pub(super) async fn clear(
    plane: &Plane,
    request: Request<v1::ClearDrainRequest>,
) -> Result<v1::ClearDrainResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    let fleet = plane.fleet().ok_or_else(status::no_config)?;
    let (region, services) = targets(&fleet, &request.region, &request.service)?;
    let caller = fields::caller(&request.actor, &request.reason, address)?;
    let standings = Standing::of_services(plane, &fleet, &services).await?;
    let known = standings.into_iter().map(|standing| standing.known);
    let drained: Vec<_> = known
        .filter(|known| known.steering.drains.contains_key(&region))
        .collect();
    if drained.is_empty() {
        let of = match request.service.as_str() {
            "" => String::new(),
            service => format!(" for {service}"),
        };
        let message = format!("{region} is not drained{of}");
        return Err(status::precondition("NO_DRAIN", message));
    }
    let mut services = Vec::new();
    for known in drained {
        let known = put(plane, &fleet, known, &region, None, &caller).await?;
        services.push(known.name.as_str().to_owned());
    }
    let subject = format!("{region} of {}", services.join(", "));
    fields::audit("ClearDrain", &subject, &caller);
    Ok(v1::ClearDrainResponse { services })
}

/// The region, and the services that are meant.
fn targets<'a>(
    fleet: &'a Fleet,
    region: &str,
    service: &str,
) -> Result<(RegionName, Vec<&'a ServiceName>), Status> {
    if region.is_empty() {
        let message = "must be set, for example \"us-east\"";
        return Err(status::invalid("region", message));
    }
    let services = &fleet.config.services;
    let all: BTreeSet<_> = services.values().flat_map(|s| s.backends.keys()).collect();
    let known = all.iter().map(|region| region.as_str());
    let found = all.iter().find(|known| known.as_str() == region);
    let region = found.ok_or_else(|| status::no_region(region, known))?;
    let in_region = services
        .iter()
        .filter(|(_, service)| service.backends.contains_key(*region));
    let chosen: Vec<_> = match service {
        "" => in_region.map(|(name, _)| name).collect(),
        service => {
            status::known_service(fleet, service)?;
            let one = in_region.map(|(name, _)| name);
            one.filter(|name| name.as_str() == service).collect()
        }
    };
    if chosen.is_empty() {
        let of = services.get(service).map(|s| &s.backends);
        let regions: Vec<_> = of.into_iter().flatten().map(|(r, _)| r.as_str()).collect();
        let message = format!(
            "{service} is not in {region}: it is in {}",
            regions.join(", ")
        );
        return Err(status::invalid("region", message));
    }
    Ok(((*region).clone(), chosen))
}

/// All or none: every service is asked before anything is done. Whether the glass
/// has to be broken, for each.
fn check_all(
    standings: &[Standing<'_>],
    region: &RegionName,
    break_glass: bool,
    now: breaker_core::Timestamp,
) -> Result<Vec<bool>, Status> {
    let checked = standings.iter().map(|standing| {
        standing.may_drain(region.as_str(), now)?;
        standing.may_lose(region.as_str(), "draining it", break_glass, now)
    });
    let (allowed, refused): (Vec<_>, Vec<_>) = checked.partition(Result::is_ok);
    let mut refused = refused.into_iter().filter_map(Result::err);
    let Some(first) = refused.next() else {
        return Ok(allowed.into_iter().flatten().collect());
    };
    let others: Vec<_> = refused.collect();
    if others.is_empty() || first.code() != Code::FailedPrecondition {
        return Err(first);
    }
    let named = others.iter().take(NAMED - 1).map(Status::message);
    let named: Vec<_> = std::iter::once(first.message()).chain(named).collect();
    let more = match others.len() + 1 - named.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let message = format!("{}{more}; nothing was drained", named.join("; "));
    Err(status::precondition("DRAIN_REFUSED", message))
}

/// Sets or clears one service's drain by compare-and-swap.
async fn put(
    plane: &Plane,
    fleet: &Fleet,
    mut known: KnownService,
    region: &RegionName,
    drain: Option<Drain>,
    caller: &Caller,
) -> Result<KnownService, Status> {
    let settings = settings(fleet, &known.name)?;
    for _ in 0..ATTEMPTS {
        let now = plane.clock.now();
        let input = SteeringInput::Drain(region.clone(), drain.clone());
        let attempt = known.attempt(plane, &settings, input, now, Some(caller));
        match attempt.await.map_err(|e| status::of_store(&e))? {
            Attempt::Done(_) | Attempt::Unchanged(_) => {
                plane.mailbox.urge_services([known.name.clone()]);
                return Ok(known);
            }
            Attempt::Lost => {}
        }
    }
    Err(status::too_fast(known.name.as_str()))
}

/// Puts back what was, as far as the store lets us.
async fn undo(
    plane: &Plane,
    fleet: &Arc<Fleet>,
    done: Vec<(KnownService, Option<Drain>)>,
    region: &RegionName,
    caller: &Caller,
) {
    let caller = Caller {
        reason: "it could not be drained for all services".to_owned(),
        ..caller.clone()
    };
    for (known, before) in done {
        let service = known.name.clone();
        if let Err(error) = put(plane, fleet, known, region, before, &caller).await {
            tracing::error!(
                %service, %region, error = error.message(),
                "a drain that was to be undone stays in force until it runs out"
            );
        }
    }
}

fn settings(fleet: &Fleet, service: &ServiceName) -> Result<SteeringSettings, Status> {
    let service = fleet.config.services.get(service);
    service.map(config::settings).ok_or_else(status::no_config)
}
