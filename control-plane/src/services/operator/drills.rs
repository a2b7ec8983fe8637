//! Drills: a failure of one backend, rehearsed for a limited time.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use breaker_core::{
    BackendName, PopId,
    ids::ServiceName,
    steering::{Drill, DrillReport, DrillState, Fault, Guard, SteeringInput, SteeringSettings},
};
use rampmeter_api::{convert::steering, v1};
use tonic::{Request, Status};

use super::{fields, standing::Standing};
use crate::{
    commit::{ATTEMPTS, Attempt},
    config::{self, Fleet},
    drills,
    events::{self, Caller},
    plane::Plane,
    services::status,
};

/// Shorter, nothing would be noticed in time; longer, it would be forgotten.
const LASTING: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(3600);

/// How late requests may be made, and how late the guard may let them be.
const LATE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

/// How long the guard may look away.
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

const DEFAULT_GRACE: Duration = Duration::from_secs(3);
const DEFAULT_MIN_SUCCESS_RATE: f64 = 0.5;
const DEFAULT_SUCCESS_RATE: f64 = 0.99;

pub(super) async fn start(
    plane: &Plane,
    request: Request<v1::StartDrillRequest>,
) -> Result<v1::StartDrillResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    let fleet = plane.fleet().ok_or_else(status::no_config)?;
    let asked = Asked::read(&fleet, &request)?;
    let caller = fields::caller(&request.actor, &request.reason, address)?;
    let (service, settings) = service(&fleet, &asked.backend)?;
    for _ in 0..ATTEMPTS {
        // What another replica changed meanwhile may forbid it.
        let standing = Standing::of_service(plane, &fleet, service).await?;
        let now = plane.clock.now();
        standing.may_drill(asked.backend.region(), now)?;
        let drill = Drill {
            id: events::id(now.as_millis()),
            backend: asked.backend.clone(),
            fault: asked.fault,
            share: asked.share,
            pops: asked.pops.clone(),
            guard: asked.guard,
            success_rate: asked.success_rate,
            state: DrillState::Running,
            actor: caller.actor.clone(),
            reason: caller.reason.clone(),
            started: now,
            ends: now + asked.lasting,
            report: DrillReport::default(),
        };
        let mut known = standing.known;
        let input = SteeringInput::StartDrill(Box::new(drill.clone()));
        let attempt = known.attempt(plane, &settings, input, now, Some(&caller));
        if let Attempt::Done(_) = attempt.await.map_err(|e| status::of_store(&e))? {
            plane.mailbox.urge_services([service.clone()]);
            let subject = format!("{} {}", drill.backend, drill.id);
            fields::audit("StartDrill", &subject, &caller);
            let drill = Some(steering::drill(&drill));
            return Ok(v1::StartDrillResponse { drill });
        }
    }
    Err(status::too_fast(service.as_str()))
}

pub(super) async fn stop(
    plane: &Plane,
    request: Request<v1::StopDrillRequest>,
) -> Result<v1::StopDrillResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    let fleet = plane.fleet().ok_or_else(status::no_config)?;
    let backend = backend_of(plane, &request.id)?;
    let caller = fields::caller(&request.actor, &request.reason, address)?;
    let drill = end(plane, &fleet, &backend, &request.id, &caller).await?;
    fields::audit("StopDrill", &format!("{backend} {}", drill.id), &caller);
    let drill = Some(steering::drill(&drill));
    Ok(v1::StopDrillResponse { drill })
}

/// Ends a drill by compare-and-swap.
async fn end(
    plane: &Plane,
    fleet: &Fleet,
    backend: &BackendName,
    id: &str,
    caller: &Caller,
) -> Result<Drill, Status> {
    let (service, settings) = service(fleet, backend)?;
    let mut known = Standing::of_service(plane, fleet, service).await?.known;
    for _ in 0..ATTEMPTS {
        let drill = known
            .steering
            .running_drill()
            .filter(|drill| drill.id == id);
        let Some(drill) = drill else {
            let message = format!("the drill {id} of {service} has ended already");
            return Err(status::precondition("NO_DRILL_RUNS", message));
        };
        let seen = plane.board.services.get(service.as_str());
        let figures = seen.map(|seen| seen.figures.clone()).unwrap_or_default();
        let seen = drills::observe(plane, fleet, drill, &figures);
        let now = plane.clock.now();
        let input = SteeringInput::EndDrill(DrillState::Stopped, &seen);
        let attempt = known.attempt(plane, &settings, input, now, Some(caller));
        attempt.await.map_err(|e| status::of_store(&e))?;
        let ended = known.steering.drill.as_ref();
        let stopped = |drill: &&Drill| drill.id == id && drill.state == DrillState::Stopped;
        if let Some(stopped) = ended.filter(stopped) {
            plane.mailbox.urge([backend.clone()]);
            plane.mailbox.urge_services([service.clone()]);
            return Ok(stopped.clone());
        }
    }
    Err(status::too_fast(service.as_str()))
}

fn backend_of(plane: &Plane, id: &str) -> Result<BackendName, Status> {
    if id.is_empty() {
        return Err(status::invalid("id", "must be set, as ListDrills shows it"));
    }
    let services = plane.board.services.all().into_iter();
    let drills: Vec<_> = services
        .filter_map(|(_, s)| s.steering.drill.clone())
        .collect();
    let found = drills.iter().find(|drill| drill.id == id);
    found.map(|drill| drill.backend.clone()).ok_or_else(|| {
        let known = drills.iter().map(|drill| drill.id.as_str());
        status::not_found("drill", id, known, "ListDrills")
    })
}

fn service<'a>(
    fleet: &'a Fleet,
    backend: &BackendName,
) -> Result<(&'a ServiceName, SteeringSettings), Status> {
    let found = fleet.config.services.get_key_value(backend.service());
    let (name, service) = found.ok_or_else(status::no_config)?;
    Ok((name, config::settings(service)))
}

/// A drill as it was asked for, found to make sense.
struct Asked {
    backend: BackendName,
    fault: Fault,
    share: f64,
    pops: BTreeSet<PopId>,
    lasting: Duration,
    guard: Guard,
    success_rate: f64,
}

impl Asked {
    fn read(fleet: &Fleet, request: &v1::StartDrillRequest) -> Result<Self, Status> {
        let backend = backend(fleet, &request.backend)?;
        let lasting = required("duration", request.duration.as_ref(), &LASTING)?;
        Ok(Self {
            backend,
            fault: fault(request)?,
            share: share("share", request.share, 1.0)?,
            pops: pops(fleet, &request.pops)?,
            lasting,
            guard: guard(request.guard.unwrap_or_default(), lasting)?,
            success_rate: share("success_rate", request.success_rate, DEFAULT_SUCCESS_RATE)?,
        })
    }
}

fn backend(fleet: &Fleet, name: &str) -> Result<BackendName, Status> {
    if name.is_empty() {
        let message = "must be set: SERVICE/REGION, for example \"payments/us-east\"";
        return Err(status::invalid("backend", message));
    }
    let of = name.split('/').next().unwrap_or_default();
    let regions = fleet
        .config
        .services
        .get(of)
        .map(|service| &service.backends);
    let Some(regions) = regions else {
        return status::backend(fleet, name);
    };
    let found = regions.values().find(|b| b.name.as_str() == name);
    found.map(|backend| backend.name.clone()).ok_or_else(|| {
        let known = regions.values().map(|b| b.name.as_str());
        let list = format!(
            "known are {}; ListBackends",
            known.clone().collect::<Vec<_>>().join(", ")
        );
        status::not_found("backend", name, known, &list)
    })
}

fn fault(request: &v1::StartDrillRequest) -> Result<Fault, Status> {
    let wanted = v1::DrillFault::try_from(request.fault).ok();
    let fault = match wanted.filter(|fault| *fault != v1::DrillFault::Unspecified) {
        Some(v1::DrillFault::Delay) => {
            return required("delay", request.delay.as_ref(), &LATE).map(Fault::Delay);
        }
        Some(v1::DrillFault::Error) => Fault::Error,
        Some(v1::DrillFault::Dead) => Fault::Dead,
        Some(v1::DrillFault::Unspecified) | None => {
            let message = format!(
                "is {}: allowed are DRILL_FAULT_ERROR, DRILL_FAULT_DELAY and DRILL_FAULT_DEAD",
                request.fault
            );
            return Err(status::invalid("fault", message));
        }
    };
    match request.delay {
        None => Ok(fault),
        Some(delay) => {
            let message = format!(
                "is {}: only DRILL_FAULT_DELAY has one, leave it out or choose that fault",
                in_words(&delay)
            );
            Err(status::invalid("delay", message))
        }
    }
}

fn share(field: &str, value: f64, default: f64) -> Result<f64, Status> {
    match value {
        0.0 => Ok(default),
        value if value > 0.0 && value <= 1.0 => Ok(value),
        value => {
            let message = format!("is {value}: allowed is above 0, at most 1; 0 means {default}");
            Err(status::invalid(field, message))
        }
    }
}

fn pops(fleet: &Fleet, names: &[String]) -> Result<BTreeSet<PopId>, Status> {
    let known = || fleet.config.pops.keys();
    let find = |name: &String| {
        let found = known().find(|pop| pop.as_str() == name);
        found.cloned().ok_or_else(|| {
            let known = known().map(|pop| pop.as_str());
            status::not_found("POP", name, known, "GetFleet")
        })
    };
    names.iter().map(find).collect()
}

fn guard(guard: v1::DrillGuard, lasting: Duration) -> Result<Guard, Status> {
    let least = guard.min_success_rate;
    let read = Guard {
        min_success_rate: share("guard.min_success_rate", least, DEFAULT_MIN_SUCCESS_RATE)?,
        max_latency_p99: optional(
            "guard.max_latency_p99",
            guard.max_latency_p99.as_ref(),
            &LATE,
        )?,
        grace: optional("guard.grace", guard.grace.as_ref(), &GRACE)?.unwrap_or(DEFAULT_GRACE),
    };
    match read.grace < lasting {
        true => Ok(read),
        false => {
            let message = format!(
                "is {}: it must be shorter than the drill, which lasts {}, or the guard never looks",
                seconds(read.grace),
                seconds(lasting)
            );
            Err(status::invalid("guard.grace", message))
        }
    }
}

fn required(
    field: &str,
    value: Option<&prost_types::Duration>,
    allowed: &RangeInclusive<Duration>,
) -> Result<Duration, Status> {
    optional(field, value, allowed)?.ok_or_else(|| {
        let message = format!("must be set: allowed are {}", span(allowed));
        status::invalid(field, message)
    })
}

fn optional(
    field: &str,
    value: Option<&prost_types::Duration>,
    allowed: &RangeInclusive<Duration>,
) -> Result<Option<Duration>, Status> {
    let Some(value) = value else { return Ok(None) };
    let read = Duration::try_from(*value).ok();
    let read = read.filter(|read| allowed.contains(read));
    read.map(Some).ok_or_else(|| {
        let message = format!("is {}: allowed are {}", in_words(value), span(allowed));
        status::invalid(field, message)
    })
}

fn span(allowed: &RangeInclusive<Duration>) -> String {
    format!(
        "{} to {}",
        seconds(*allowed.start()),
        seconds(*allowed.end())
    )
}

/// "1 ms", "5 s", "1 h".
fn seconds(time: Duration) -> String {
    match time.as_millis() {
        ms if ms >= 3_600_000 && ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

/// As it was sent, which may be below zero.
fn in_words(value: &prost_types::Duration) -> String {
    match Duration::try_from(*value) {
        Ok(time) => seconds(time),
        Err(_) => format!("{} s", value.seconds),
    }
}
