//! Regions, orders and plans in few words.

#![allow(dead_code)] // Each test binary uses its own part.

pub(crate) mod any;
pub(crate) mod service;

use std::collections::BTreeMap;

use breaker_core::{
    ByPriority, Plan, Priority, Timestamp,
    ids::RegionName,
    plan::{PlanInput, RegionInput, RegionOrder},
};

pub(crate) fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

pub(crate) fn region(name: &str) -> RegionName {
    RegionName::new(name).expect("a valid name")
}

/// "a b c".
pub(crate) fn order(names: &str) -> RegionOrder {
    names.split_whitespace().map(region).collect()
}

/// A healthy region with this configured capacity.
pub(crate) fn takes(capacity: f64) -> RegionInput {
    RegionInput {
        capacity: Some(capacity),
        configured: true,
        ..unknown()
    }
}

/// A healthy region of which nothing is known.
pub(crate) fn unknown() -> RegionInput {
    RegionInput {
        admission: 1.0,
        calm: true,
        ..RegionInput::default()
    }
}

pub(crate) fn admits(admission: f64, region: RegionInput) -> RegionInput {
    RegionInput {
        admission,
        ..region
    }
}

/// Regions and origins with NORMAL demand, with u = 0.8 and a failback of 10 % a second.
pub(crate) fn input(regions: &[(&str, RegionInput)], origins: &[(&str, f64)]) -> PlanInput {
    let origins: Vec<_> = origins.iter().map(|(o, d)| (*o, normal(*d).0)).collect();
    mixed(regions, &origins)
}

/// With demand by priority.
pub(crate) fn mixed(regions: &[(&str, RegionInput)], origins: &[(&str, [f64; 4])]) -> PlanInput {
    PlanInput {
        regions: map(regions),
        origins: origins
            .iter()
            .map(|(o, rates)| (order(o), ByPriority(*rates)))
            .collect(),
        target_utilization: 0.8,
        failback_per_second: 0.1,
    }
}

/// "a b: 0.800 0.000, shed 0.200" for each origin.
pub(crate) fn shares(plan: &Plan) -> Vec<String> {
    let figures = |values: &[f64]| {
        let values = values.iter().map(|value| format!("{value:.3}"));
        values.collect::<Vec<_>>().join(" ")
    };
    let line = |(order, origin): (&RegionOrder, &breaker_core::plan::OriginPlan)| {
        let names: Vec<&str> = order.iter().map(|name| name.as_str()).collect();
        let shed = 1.0 - origin.shares.iter().sum::<f64>();
        let shed = match shed > 1e-6 {
            true => format!(", shed {shed:.3}"),
            false => String::new(),
        };
        format!("{}: {}{shed}", names.join(" "), figures(&origin.shares))
    };
    plan.origins.iter().map(line).collect()
}

/// Share of an origin's demand that goes to a region.
pub(crate) fn share_of(plan: &Plan, names: &str, name: &str) -> f64 {
    let order = order(names);
    let position = order.iter().position(|n| n.as_str() == name);
    let origin = plan.origins.get(&order);
    let share = origin.zip(position).and_then(|(o, at)| o.shares.get(at));
    *share.expect("a region of that origin")
}

/// Requests a second, all NORMAL.
pub(crate) fn normal(rate: f64) -> ByPriority {
    let mut demand = ByPriority::default();
    demand[Priority::Normal] = rate;
    demand
}

pub(crate) fn map<V: Clone>(entries: &[(&str, V)]) -> BTreeMap<RegionName, V> {
    entries
        .iter()
        .map(|(n, v)| (region(n), v.clone()))
        .collect()
}
