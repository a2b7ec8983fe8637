//! The part of `/metrics` that is about services: what callers want and get,
//! plans and quotas.

use crate::{
    admin::metrics::Page,
    admit::recorder::SERVED,
    cache::kept::COUNTED,
    clock::nanos,
    fleet::{control::Control, steered::Steered},
};

/// In the order of `breaker_core::Priority::ALL`.
const PRIORITIES: [&str; 4] = ["CRITICAL", "HIGH", "NORMAL", "LOW"];

pub(super) fn add(control: &Control, page: &mut Page) {
    demand(control, page);
    plans(control, page);
    shares(control, page);
    quotas(control, page);
    kept(control, page);
}

fn labels(steered: &Steered) -> String {
    format!("service=\"{}\"", steered.service.name)
}

/// One value for each service.
fn each<V: std::fmt::Display>(
    control: &Control,
    page: &mut Page,
    family: (&str, &str, &str),
    value: impl Fn(&Steered) -> V,
) {
    let services = control.services.values();
    page.samples(family, services.map(|s| (labels(s), value(s))));
}

fn demand(control: &Control, page: &mut Page) {
    let services = || control.services.values();
    let wanted = services().flat_map(|s| {
        let counts = PRIORITIES.into_iter().zip(s.counters().wanted().0);
        counts.map(|(word, count)| (format!("{},priority=\"{word}\"", labels(s)), count))
    });
    page.samples(
        (
            "rampmeter_agent_service_demand_total",
            "counter",
            "Requests that wanted a service, once each, without those over its quota.",
        ),
        wanted,
    );
    let served = services().flat_map(|s| {
        let counters = s.counters();
        let count = move |(fate, tally)| {
            let labels = format!("{},fate=\"{fate}\"", labels(s));
            (labels, counters.get(tally))
        };
        SERVED.into_iter().map(count)
    });
    page.samples(
        (
            "rampmeter_agent_service_requests_total",
            "counter",
            "What became of a service's requests, as callers saw it.",
        ),
        served,
    );
}

fn plans(control: &Control, page: &mut Page) {
    let held = |s: &Steered| control.steerings.get(s.service.name.as_str());
    let version = |s: &Steered| held(s).map_or_else(Default::default, |h| h.decision.version);
    each(
        control,
        page,
        (
            "rampmeter_agent_plan_epoch",
            "gauge",
            "Epoch of the service's decision in force; 0 for none.",
        ),
        |s| version(s).epoch,
    );
    each(
        control,
        page,
        (
            "rampmeter_agent_plan_revision",
            "gauge",
            "Revision of the service's decision in force; 0 for none.",
        ),
        |s| version(s).revision,
    );
    each(
        control,
        page,
        (
            "rampmeter_agent_plan_stale",
            "gauge",
            "Nobody stands by the service's plan any more.",
        ),
        |s| u8::from(s.way().plan().is_some_and(|(_, fresh)| !fresh)),
    );
    each(
        control,
        page,
        (
            "rampmeter_agent_plan_shed",
            "gauge",
            "Share of the demand that the plan sheds, 0 to 1.",
        ),
        |s| s.way().plan().map_or(0.0, |(bands, _)| bands.shed()),
    );
    each(
        control,
        page,
        (
            "rampmeter_agent_drill",
            "gauge",
            "A drill fails or delays requests of the service here.",
        ),
        |s| u8::from(s.way().drill.is_some()),
    );
}

fn shares(control: &Control, page: &mut Page) {
    let shares = control.services.values().flat_map(|s| {
        let way = s.way();
        let bands = way.plan().map_or(&[][..], |(bands, _)| bands.regions());
        let mut shares = Vec::with_capacity(bands.len());
        for (backend, band) in s.service.regions.iter().zip(bands) {
            let labels = format!("{},backend=\"{}\"", labels(s), backend.name);
            shares.push((labels, band.share));
        }
        shares
    });
    page.samples(
        (
            "rampmeter_agent_plan_share",
            "gauge",
            "Share of the demand that the plan sends to a region, 0 to 1.",
        ),
        shares,
    );
}

fn quotas(control: &Control, page: &mut Page) {
    let now = nanos(control.clock.now());
    let limited = || {
        control.services.values().filter_map(|s| {
            let quota = s.service.quota.as_ref()?;
            Some((labels(s), quota.standing(now)))
        })
    };
    page.samples(
        (
            "rampmeter_agent_quota_rate",
            "gauge",
            "Requests a second that this agent has, for all callers without their own.",
        ),
        limited().map(|(labels, standing)| (labels, standing.rate)),
    );
    page.samples(
        (
            "rampmeter_agent_quota_keys",
            "gauge",
            "Callers with a bucket of their own.",
        ),
        limited().map(|(labels, standing)| (labels, standing.keys)),
    );
}

/// What came of kept answers, of services that keep any.
fn kept(control: &Control, page: &mut Page) {
    for (at, (name, help)) in COUNTED.into_iter().enumerate() {
        let counts = control.services.values().filter_map(|s| {
            let kept = s.service.kept.as_ref()?;
            Some((labels(s), kept.counts.read()[at]))
        });
        let name = format!("rampmeter_agent_cache_{name}_total");
        page.samples((&name, "counter", help), counts);
    }
    let store = control.store();
    page.one(
        "rampmeter_agent_cache_bytes",
        "gauge",
        "Memory for kept answers that is in use, all services together.",
        store.bytes(),
    );
    page.one(
        "rampmeter_agent_cache_entries",
        "gauge",
        "Answers kept, of all services.",
        store.entries(),
    );
}
