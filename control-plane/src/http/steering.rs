//! Plans as Prometheus reads them: one line for each service, or for each of its
//! regions.

use breaker_core::ids::ServiceName;

use crate::{
    board::services::{SeenService, demand},
    metrics::Page,
    plane::Plane,
};

pub(super) fn write(plane: &Plane, page: &mut Page) {
    let services = plane.board.services.all();
    type Value = fn(&SeenService) -> f64;
    let of_services: [(&str, &str, Value); 4] = [
        (
            "plan_revision",
            "Revision of what is decided about a service; 0 before the first plan.",
            |seen| seen.steering.version.revision as f64,
        ),
        ("plan_proposed", "A plan waits for approval.", |seen| {
            f64::from(u8::from(seen.steering.proposed.is_some()))
        }),
        (
            "service_demand_per_second",
            "Requests that callers want, per second.",
            |seen| demand(&seen.figures).total(),
        ),
        (
            "plan_shed_per_second",
            "Requests that the plan sheds because they fit nowhere, per second.",
            |seen| seen.steering.plan.as_ref().map_or(0.0, |plan| plan.shed),
        ),
    ];
    for (name, help, value) in of_services {
        let name = format!("rampmeter_control_{name}");
        page.head(&name, "gauge", help);
        for (service, seen) in &services {
            page.line(format_args!(
                "{name}{{service=\"{service}\"}} {}",
                value(seen)
            ));
        }
    }
    by_region(&services, page);
}

fn by_region(services: &[(ServiceName, std::sync::Arc<SeenService>)], page: &mut Page) {
    let name = "rampmeter_control_plan_backend_per_second";
    page.head(
        name,
        "gauge",
        "Requests that the plan sends to a backend, per second.",
    );
    for (service, seen) in services {
        for (region, figures) in seen.steering.plan.iter().flat_map(|plan| &plan.regions) {
            let planned = figures.planned;
            page.line(format_args!(
                "{name}{{service=\"{service}\",backend=\"{region}\"}} {planned}"
            ));
        }
    }
    let name = "rampmeter_control_backend_drained";
    page.head(name, "gauge", "An operator drains a backend.");
    for (service, seen) in services {
        for (region, _) in seen.steering.plan.iter().flat_map(|plan| &plan.regions) {
            let drained = u8::from(seen.steering.drains.contains_key(region));
            page.line(format_args!(
                "{name}{{service=\"{service}\",backend=\"{region}\"}} {drained}"
            ));
        }
    }
}
