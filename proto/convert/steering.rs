//! Where a service's traffic goes, as agents obey it and as readers see it.

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    BackendName, ByPriority, Mix, Plan, PopId, Steering, Timestamp, Version,
    ids::{RegionName, ServiceName},
    plan::{OriginPlan, RegionFigures, RegionOrder},
    steering::{Drain, Drill, DrillReport, DrillState, Fault, Guard},
};

use super::{WireError, decision::MAX_AHEAD, duration, duration_up_to, from_timestamp, timestamp};
use crate::v1;

/// Most regions in an order, and orders in a decision, that are believed.
const MAX_REGIONS: usize = 1000;

impl From<ByPriority> for v1::ByPriority {
    fn from(rates: ByPriority) -> Self {
        let [critical, high, normal, low] = rates.0;
        Self {
            critical,
            high,
            normal,
            low,
        }
    }
}

/// From the wire: no number that is negative or none.
pub fn from_by_priority(
    field: &'static str,
    wire: &v1::ByPriority,
) -> Result<ByPriority, WireError> {
    let rates = [wire.critical, wire.high, wire.normal, wire.low];
    match rates.iter().find(|r| !r.is_finite() || **r < 0.0) {
        Some(wrong) => Err(WireError::range(field, wrong, "0 and up")),
        None => Ok(ByPriority(rates)),
    }
}

pub(super) fn from_mix(
    field: &'static str,
    wire: Option<&v1::ByPriority>,
) -> Result<Mix, WireError> {
    wire.map_or(Ok(Mix::default()), |wire| {
        from_by_priority(field, wire).map(Mix::of)
    })
}

/// To the wire, as seen at `now`: what agents need of it.
pub fn service_decision(
    service: &ServiceName,
    steering: &Steering,
    now: Timestamp,
) -> v1::ServiceDecision {
    let origins = steering.plan.iter().flat_map(|plan| &plan.origins);
    let drains = steering
        .drains
        .iter()
        .map(|(region, drain)| v1::DrainOrder {
            region: region.as_str().to_owned(),
            actor: drain.actor.clone(),
            reason: drain.reason.clone(),
            expires_in: Some(duration(now.until(drain.expires))),
            break_glass: drain.break_glass,
        });
    let running = |drill: &&Drill| drill.state == DrillState::Running && drill.ends > now;
    v1::ServiceDecision {
        service: service.as_str().to_owned(),
        version: Some(steering.version.into()),
        origins: origins.map(|(order, plan)| origin(order, plan)).collect(),
        mix: Some(steering.mix.shares().into()),
        drains: drains.collect(),
        drill: steering
            .drill
            .as_ref()
            .filter(running)
            .map(|drill| order(drill, now)),
    }
}

fn origin(order: &RegionOrder, plan: &OriginPlan) -> v1::OriginPlan {
    let shares = order.iter().zip(&plan.shares).zip(&plan.headrooms);
    v1::OriginPlan {
        region_order: order.iter().map(|r| r.as_str().to_owned()).collect(),
        regions: shares
            .map(|((region, share), headroom)| v1::RegionShare {
                region: region.as_str().to_owned(),
                share: *share,
                headroom: *headroom,
            })
            .collect(),
        demand_per_second: plan.demand,
        mix: Some(plan.mix.shares().into()),
    }
}

fn order(drill: &Drill, now: Timestamp) -> v1::DrillOrder {
    v1::DrillOrder {
        drill_id: drill.id.clone(),
        backend: drill.backend.as_str().to_owned(),
        fault: v1::DrillFault::from(drill.fault).into(),
        share: drill.share,
        delay: delay(drill.fault),
        pops: drill.pops.iter().map(|p| p.as_str().to_owned()).collect(),
        expires_in: Some(duration(now.until(drill.ends))),
    }
}

fn delay(fault: Fault) -> Option<prost_types::Duration> {
    match fault {
        Fault::Delay(by) => Some(duration(by)),
        Fault::Error | Fault::Dead => None,
    }
}

impl From<Fault> for v1::DrillFault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Error => Self::Error,
            Fault::Delay(_) => Self::Delay,
            Fault::Dead => Self::Dead,
        }
    }
}

impl From<DrillState> for v1::DrillState {
    fn from(state: DrillState) -> Self {
        match state {
            DrillState::Running => Self::Running,
            DrillState::Passed => Self::Passed,
            DrillState::Failed => Self::Failed,
            DrillState::GuardTripped => Self::GuardTripped,
            DrillState::Stopped => Self::Stopped,
        }
    }
}

/// From the wire, on the receiver's clock, which shows `now`. What agents are
/// not told is empty.
pub fn from_service_decision(
    wire: &v1::ServiceDecision,
    now: Timestamp,
) -> Result<(ServiceName, Steering), WireError> {
    let version = wire.version.ok_or(WireError::Missing {
        field: "service_decision.version",
    })?;
    let mut drains = BTreeMap::new();
    for order in &wire.drains {
        drains.insert(RegionName::new(&order.region)?, from_drain(order, now)?);
    }
    let steering = Steering {
        version: Version::from(version),
        plan: from_origins(wire, now)?,
        drains,
        drill: wire
            .drill
            .as_ref()
            .map(|d| from_order(d, now))
            .transpose()?,
        mix: from_mix("service_decision.mix", wire.mix.as_ref())?,
        ..Steering::default()
    };
    Ok((ServiceName::new(&wire.service)?, steering))
}

fn from_origins(wire: &v1::ServiceDecision, now: Timestamp) -> Result<Option<Plan>, WireError> {
    if wire.origins.is_empty() {
        return Ok(None);
    }
    let mut plan = Plan {
        created: now,
        ..Plan::default()
    };
    for origin in wire.origins.iter().take(MAX_REGIONS) {
        let mut order = Vec::new();
        let mut to = OriginPlan {
            demand: origin.demand_per_second.max(0.0),
            mix: from_mix("origin.mix", origin.mix.as_ref().or(wire.mix.as_ref()))?,
            ..OriginPlan::default()
        };
        for region in origin.regions.iter().take(MAX_REGIONS) {
            order.push(RegionName::new(&region.region)?);
            to.shares.push(share("origin.share", region.share)?);
            to.headrooms
                .push(share("origin.headroom", region.headroom)?);
        }
        plan.origins.insert(order, to);
    }
    Ok(Some(plan))
}

fn share(field: &'static str, value: f64) -> Result<f64, WireError> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err(WireError::range(field, value, "0 to 1")),
    }
}

fn from_drain(order: &v1::DrainOrder, now: Timestamp) -> Result<Drain, WireError> {
    let left = duration_up_to("drain.expires_in", order.expires_in.as_ref(), MAX_AHEAD)?;
    Ok(Drain {
        actor: order.actor.clone(),
        reason: order.reason.clone(),
        created: now,
        expires: now + left,
        break_glass: order.break_glass,
    })
}

fn from_order(order: &v1::DrillOrder, now: Timestamp) -> Result<Drill, WireError> {
    let left = duration_up_to("drill.expires_in", order.expires_in.as_ref(), MAX_AHEAD)?;
    let pops = order.pops.iter().map(|pop| PopId::new(pop));
    Ok(Drill {
        id: order.drill_id.clone(),
        backend: BackendName::parse(&order.backend)?,
        fault: fault("drill.fault", order.fault, order.delay.as_ref())?,
        share: share("drill.share", order.share)?,
        pops: pops.collect::<Result<_, _>>()?,
        guard: Guard {
            min_success_rate: 0.0,
            max_latency_p99: None,
            grace: Duration::ZERO,
        },
        success_rate: 0.0,
        state: DrillState::Running,
        actor: String::new(),
        reason: String::new(),
        started: now,
        ends: now + left,
        report: DrillReport::default(),
    })
}

/// A fault from its number and delay on the wire.
pub fn fault(
    field: &'static str,
    value: i32,
    delay: Option<&prost_types::Duration>,
) -> Result<Fault, WireError> {
    match v1::DrillFault::try_from(value) {
        Ok(v1::DrillFault::Error) => Ok(Fault::Error),
        Ok(v1::DrillFault::Dead) => Ok(Fault::Dead),
        Ok(v1::DrillFault::Delay) => {
            let by = duration_up_to("delay", delay, Duration::from_secs(60))?;
            Ok(Fault::Delay(by))
        }
        Ok(v1::DrillFault::Unspecified) => Err(WireError::Missing { field }),
        Err(_) => Err(WireError::range(field, value, "1 to 3")),
    }
}

/// A plan for readers.
pub fn plan(plan: &Plan, version: Version, summary: String) -> v1::Plan {
    let origins = plan.origins.iter();
    v1::Plan {
        version: Some(version.into()),
        origins: origins.map(|(order, to)| origin(order, to)).collect(),
        regions: plan
            .regions
            .iter()
            .map(|(region, figures)| region_figures(region, figures))
            .collect(),
        shed_per_second: plan.shed,
        summary,
        create_time: Some(timestamp(plan.created)),
    }
}

fn region_figures(region: &RegionName, figures: &RegionFigures) -> v1::RegionFigures {
    v1::RegionFigures {
        region: region.as_str().to_owned(),
        capacity_per_second: figures.capacity,
        capacity_configured: figures.configured,
        admission: figures.admission,
        drained: figures.drained,
        planned_per_second: figures.planned,
    }
}

/// A drain for readers.
pub fn drain(region: &RegionName, drain: &Drain) -> v1::Drain {
    v1::Drain {
        region: region.as_str().to_owned(),
        actor: drain.actor.clone(),
        reason: drain.reason.clone(),
        create_time: Some(timestamp(drain.created)),
        expire_time: Some(timestamp(drain.expires)),
        break_glass: drain.break_glass,
    }
}

/// A drill for readers.
pub fn drill(drill: &Drill) -> v1::Drill {
    v1::Drill {
        id: drill.id.clone(),
        backend: drill.backend.as_str().to_owned(),
        fault: v1::DrillFault::from(drill.fault).into(),
        share: drill.share,
        delay: delay(drill.fault),
        pops: drill.pops.iter().map(|p| p.as_str().to_owned()).collect(),
        guard: Some(v1::DrillGuard {
            min_success_rate: drill.guard.min_success_rate,
            max_latency_p99: drill.guard.max_latency_p99.map(duration),
            grace: Some(duration(drill.guard.grace)),
        }),
        state: v1::DrillState::from(drill.state).into(),
        actor: drill.actor.clone(),
        reason: drill.reason.clone(),
        start_time: Some(timestamp(drill.started)),
        end_time: Some(timestamp(drill.ends)),
        report: Some(report(&drill.report)),
    }
}

/// From what [`drill`] made. `success_rate`, which readers are not told, is 0.
pub fn from_drill(wire: &v1::Drill) -> Result<Drill, WireError> {
    let pops = wire.pops.iter().map(|pop| PopId::new(pop));
    let guard = wire.guard.as_ref().ok_or(WireError::Missing {
        field: "drill.guard",
    })?;
    Ok(Drill {
        id: wire.id.clone(),
        backend: BackendName::parse(&wire.backend)?,
        fault: fault("drill.fault", wire.fault, wire.delay.as_ref())?,
        share: share("drill.share", wire.share)?,
        pops: pops.collect::<Result<_, _>>()?,
        guard: Guard {
            min_success_rate: share("drill.guard.min_success_rate", guard.min_success_rate)?,
            max_latency_p99: from_duration("drill.guard.max_latency_p99", &guard.max_latency_p99)?,
            grace: from_duration("drill.guard.grace", &guard.grace)?.unwrap_or_default(),
        },
        success_rate: 0.0,
        state: from_state(wire.state)?,
        actor: wire.actor.clone(),
        reason: wire.reason.clone(),
        started: from_time("drill.start_time", &wire.start_time)?,
        ends: from_time("drill.end_time", &wire.end_time)?,
        report: from_report(&wire.report.clone().unwrap_or_default())?,
    })
}

fn from_state(state: i32) -> Result<DrillState, WireError> {
    let field = "drill.state";
    match v1::DrillState::try_from(state) {
        Ok(v1::DrillState::Running) => Ok(DrillState::Running),
        Ok(v1::DrillState::Passed) => Ok(DrillState::Passed),
        Ok(v1::DrillState::Failed) => Ok(DrillState::Failed),
        Ok(v1::DrillState::GuardTripped) => Ok(DrillState::GuardTripped),
        Ok(v1::DrillState::Stopped) => Ok(DrillState::Stopped),
        Ok(v1::DrillState::Unspecified) => Err(WireError::Missing { field }),
        Err(_) => Err(WireError::range(field, state, "1 to 5")),
    }
}

fn from_report(wire: &v1::DrillReport) -> Result<DrillReport, WireError> {
    let rates = |rates: &[v1::RegionRate]| {
        let rate = |rate: &v1::RegionRate| {
            let valid = rate.per_second.is_finite() && rate.per_second >= 0.0;
            match valid {
                true => Ok((RegionName::new(&rate.region)?, rate.per_second)),
                false => Err(WireError::range("rate", rate.per_second, "0 and up")),
            }
        };
        rates.iter().map(rate).collect::<Result<_, _>>()
    };
    Ok(DrillReport {
        detected_after: from_duration("report.detected_after", &wire.detected_after)?,
        moved_after: from_duration("report.moved_after", &wire.moved_after)?,
        requests: wire.requests,
        succeeded: wire.succeeded,
        failed: wire.failed,
        shed: wire.shed,
        worst_latency_p99: from_duration("report.worst_latency_p99", &wire.worst_latency_p99)?,
        before: rates(&wire.before)?,
        at_end: rates(&wire.at_end)?,
        summary: wire.summary.clone(),
    })
}

fn from_duration(
    field: &'static str,
    value: &Option<prost_types::Duration>,
) -> Result<Option<Duration>, WireError> {
    let read = |value| duration_up_to(field, Some(value), Duration::MAX);
    value.as_ref().map(read).transpose()
}

fn from_time(
    field: &'static str,
    value: &Option<prost_types::Timestamp>,
) -> Result<Timestamp, WireError> {
    let value = value.as_ref().ok_or(WireError::Missing { field })?;
    from_timestamp(value).ok_or_else(|| WireError::range(field, value, "1970 and later"))
}

fn report(report: &DrillReport) -> v1::DrillReport {
    let rates = |rates: &BTreeMap<RegionName, f64>| {
        let rate = |(region, rate): (&RegionName, &f64)| v1::RegionRate {
            region: region.as_str().to_owned(),
            per_second: *rate,
        };
        rates.iter().map(rate).collect()
    };
    v1::DrillReport {
        detected: report.detected_after.is_some(),
        detected_after: report.detected_after.map(duration),
        moved_after: report.moved_after.map(duration),
        requests: report.requests,
        succeeded: report.succeeded,
        failed: report.failed,
        shed: report.shed,
        worst_latency_p99: report.worst_latency_p99.map(duration),
        before: rates(&report.before),
        at_end: rates(&report.at_end),
        summary: report.summary.clone(),
    }
}
