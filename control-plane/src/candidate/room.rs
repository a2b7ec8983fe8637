//! Where the requests of a backend that would be open could go.

use breaker_core::{BackendName, Plan, Timestamp};

use crate::{config::Fleet, plane::Plane};

/// Requests a second that the service's other regions have room for: by the plan
/// in force, or, before there is one, by their capacities; without end where a
/// capacity is not known.
pub fn room(plane: &Plane, fleet: &Fleet, name: &BackendName, now: Timestamp) -> f64 {
    let Some(service) = fleet.config.services.get(name.service()) else {
        return 0.0;
    };
    let seen = plane.board.services.get(name.service());
    let plan = seen.as_ref().and_then(|seen| seen.steering.plan.as_ref());
    // One without demand was made before any was reported: it tells nothing.
    let wanted = |plan: &&Plan| plan.origins.values().any(|origin| origin.demand > 0.0);
    if let Some(plan) = plan.filter(wanted) {
        return planned(plan, name.region());
    }
    let others = service
        .backends
        .values()
        .filter(|other| other.name != *name);
    let rooms = others.map(|other| {
        let seen = plane.board.get(&other.name);
        let admission = seen.as_ref().map_or(1.0, |seen| {
            seen.breaker.admission(&service.breaker, None, now)
        });
        let load = seen.map_or(0.0, |seen| seen.figures.demand_milli as f64 / 1000.0);
        let utilization = service.failover.unwrap_or_default().target_utilization;
        let fills = other.capacity_rps.map(|capacity| capacity * utilization);
        room_in(fills, admission, load)
    });
    rooms.sum()
}

/// By the headrooms, which all may use at the same time.
fn planned(plan: &Plan, without: &str) -> f64 {
    let rooms = plan.origins.iter().map(|(order, origin)| {
        let others = order.iter().zip(&origin.headrooms);
        let others = others.filter(|(region, _)| region.as_str() != without);
        let further: f64 = others.map(|(_, headroom)| headroom).sum();
        origin.demand * further.min(1.0)
    });
    rooms.sum()
}

/// Of one region, which `fills` up to so many requests a second.
fn room_in(fills: Option<f64>, admission: f64, load: f64) -> f64 {
    match fills {
        _ if admission <= 0.0 => 0.0,
        None => f64::INFINITY,
        Some(fills) => (fills * admission - load).max(0.0),
    }
}

#[cfg(test)]
mod tests {
    use breaker_core::{ids::RegionName, plan::OriginPlan};

    use super::*;

    #[test]
    fn a_plan_knows_the_room_that_each_origin_has_elsewhere() {
        let region = |name: &str| RegionName::new(name).expect("a valid name");
        let (east, west) = (region("us-east"), region("us-west"));
        let origin = |demand: f64, headrooms: [f64; 2]| OriginPlan {
            demand,
            headrooms: headrooms.into(),
            ..OriginPlan::default()
        };
        let origins = [
            (vec![east.clone(), west.clone()], origin(200.0, [0.5, 0.4])),
            (vec![west.clone(), east.clone()], origin(100.0, [0.1, 0.9])),
        ];
        let plan = Plan {
            origins: origins.into(),
            ..Plan::default()
        };
        assert_eq!(planned(&plan, "us-east"), 200.0 * 0.4 + 100.0 * 0.1);
        assert_eq!(planned(&plan, "us-west"), 200.0 * 0.5 + 100.0 * 0.9);
    }

    #[test]
    fn a_region_has_room_up_to_what_it_fills_and_none_while_it_is_closed_off() {
        assert_eq!(room_in(Some(320.0), 1.0, 200.0), 120.0);
        assert_eq!(room_in(Some(320.0), 0.5, 100.0), 60.0, "it ramps");
        assert_eq!(room_in(Some(320.0), 1.0, 400.0), 0.0, "it is full");
        assert_eq!(room_in(Some(320.0), 0.0, 0.0), 0.0, "it is OPEN");
        assert_eq!(room_in(None, 1.0, 400.0), f64::INFINITY);
    }
}
