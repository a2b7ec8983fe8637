//! Where the requests of a backend that would be open could go.

use breaker_core::{BackendName, Timestamp};

use crate::{config::Fleet, plane::Plane};

/// Requests a second that the service's other regions have room for; without end
/// where a region's capacity is not known.
pub fn room(plane: &Plane, fleet: &Fleet, name: &BackendName, now: Timestamp) -> f64 {
    let Some(service) = fleet.config.services.get(name.service()) else {
        return 0.0;
    };
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
    use super::*;

    #[test]
    fn a_region_has_room_up_to_what_it_fills_and_none_while_it_is_closed_off() {
        assert_eq!(room_in(Some(320.0), 1.0, 200.0), 120.0);
        assert_eq!(room_in(Some(320.0), 0.5, 100.0), 60.0, "it ramps");
        assert_eq!(room_in(Some(320.0), 1.0, 400.0), 0.0, "it is full");
        assert_eq!(room_in(Some(320.0), 0.0, 0.0), 0.0, "it is OPEN");
        assert_eq!(room_in(None, 1.0, 400.0), f64::INFINITY);
    }
}
