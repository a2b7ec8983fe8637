//! A service's committed record.

use breaker_core::{
    Plan, Steering, Timestamp, Version,
    ids::RegionName,
    plan::{OriginPlan, RegionFigures, RegionOrder},
    steering::{Drain, Drill},
};
use prost::Message;
use rampmeter_api::{convert::steering as wire, store as stored};

use super::{Decoded, finite, mix, parse, range, read_mix};

/// Encodes a record without its version.
pub(in crate::store) fn encode_steering(steering: &Steering) -> Vec<u8> {
    let drains = steering.drains.iter();
    let learned = steering.learned.iter();
    stored::ServiceRecord {
        plan: steering.plan.as_ref().map(plan),
        proposed: steering.proposed.as_ref().map(plan),
        drains: drains.map(|(region, d)| drain(region, d)).collect(),
        drill: steering.drill.as_ref().map(|drill| stored::Drill {
            drill: wire::drill(drill).encode_to_vec(),
            success_rate: drill.success_rate,
        }),
        mix: mix(&steering.mix),
        learned: learned
            .map(|(region, capacity)| stored::LearnedCapacity {
                region: region.to_string(),
                capacity_rps: *capacity,
            })
            .collect(),
    }
    .encode_to_vec()
}

/// Decodes a record that is kept in `version`.
pub(in crate::store) fn decode_steering(bytes: &[u8], version: Version) -> Decoded<Steering> {
    let record: stored::ServiceRecord = parse("service record", bytes)?;
    let drains = record.drains.into_iter().map(read_drain);
    let learned = record.learned.into_iter().map(|l| {
        let capacity = finite("a learned capacity", l.capacity_rps)?;
        Ok((RegionName::new(&l.region)?, capacity))
    });
    Ok(Steering {
        version,
        plan: record.plan.map(read_plan).transpose()?,
        proposed: record.proposed.map(read_plan).transpose()?,
        drains: drains.collect::<Decoded<_>>()?,
        drill: record.drill.map(read_drill).transpose()?,
        mix: read_mix(&record.mix)?,
        learned: learned.collect::<Decoded<_>>()?,
    })
}

fn plan(plan: &Plan) -> stored::Plan {
    let origin = |(order, to): (&RegionOrder, &OriginPlan)| stored::OriginPlan {
        order: order.iter().map(RegionName::to_string).collect(),
        shares: to.shares.clone(),
        headrooms: to.headrooms.clone(),
        demand_rps: to.demand,
        mix: mix(&to.mix),
    };
    let region = |(region, figures): (&RegionName, &RegionFigures)| stored::RegionFigures {
        region: region.to_string(),
        capacity_rps: figures.capacity,
        configured: figures.configured,
        admission: figures.admission,
        drained: figures.drained,
        planned_rps: figures.planned,
    };
    stored::Plan {
        origins: plan.origins.iter().map(origin).collect(),
        regions: plan.regions.iter().map(region).collect(),
        created_ms: plan.created.as_millis(),
        shed_rps: plan.shed,
    }
}

fn read_plan(plan: stored::Plan) -> Decoded<Plan> {
    let origins = plan.origins.into_iter().map(read_origin);
    let regions = plan.regions.into_iter().map(read_region);
    Ok(Plan {
        origins: origins.collect::<Decoded<_>>()?,
        regions: regions.collect::<Decoded<_>>()?,
        shed: finite("a plan's shed", plan.shed_rps)?,
        created: Timestamp::from_millis(plan.created_ms),
    })
}

fn read_origin(origin: stored::OriginPlan) -> Decoded<(RegionOrder, OriginPlan)> {
    let order = super::read_order(&origin.order)?;
    let shares = |what, shares: Vec<f64>| match shares.len() == order.len() {
        true => shares.into_iter().map(|s| share(what, s)).collect(),
        false => Err(range("the number of an origin's shares", shares.len())),
    };
    let to = OriginPlan {
        demand: finite("an origin's demand", origin.demand_rps)?,
        mix: read_mix(&origin.mix)?,
        shares: shares("an origin's share", origin.shares)?,
        headrooms: shares("an origin's headroom", origin.headrooms)?,
    };
    Ok((order, to))
}

fn read_region(figures: stored::RegionFigures) -> Decoded<(RegionName, RegionFigures)> {
    let capacity = figures.capacity_rps;
    let read = RegionFigures {
        capacity: capacity
            .map(|c| finite("a region's capacity", c))
            .transpose()?,
        configured: figures.configured,
        admission: share("a region's admission", figures.admission)?,
        drained: figures.drained,
        planned: finite("a region's planned rate", figures.planned_rps)?,
    };
    Ok((RegionName::new(&figures.region)?, read))
}

/// A sum of shares that is above 1 by rounding must not cost the whole record.
fn share(what: &'static str, value: f64) -> Decoded<f64> {
    Ok(finite(what, value)?.min(1.0))
}

fn drain(region: &RegionName, drain: &Drain) -> stored::Drain {
    stored::Drain {
        region: region.to_string(),
        actor: drain.actor.clone(),
        reason: drain.reason.clone(),
        created_ms: drain.created.as_millis(),
        expires_ms: drain.expires.as_millis(),
        break_glass: drain.break_glass,
    }
}

fn read_drain(drain: stored::Drain) -> Decoded<(RegionName, Drain)> {
    let read = Drain {
        actor: drain.actor,
        reason: drain.reason,
        created: Timestamp::from_millis(drain.created_ms),
        expires: Timestamp::from_millis(drain.expires_ms),
        break_glass: drain.break_glass,
    };
    Ok((RegionName::new(&drain.region)?, read))
}

fn read_drill(drill: stored::Drill) -> Decoded<Drill> {
    Ok(Drill {
        success_rate: share("a drill's success rate", drill.success_rate)?,
        ..wire::from_drill(&parse("drill", &drill.drill)?)?
    })
}
