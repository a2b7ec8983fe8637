//! Any service.

use std::collections::BTreeMap;

use breaker_core::{
    ByPriority,
    ids::RegionName,
    plan::{PlanInput, RegionInput, RegionOrder},
};
use proptest::prelude::*;

use super::region;

pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

pub(crate) fn regions() -> impl Strategy<Value = BTreeMap<RegionName, RegionInput>> {
    let admission = prop_oneof![3 => Just(1.0), 1 => Just(0.0), 1 => 0.0..1.0];
    let one = (
        prop::option::weighted(0.8, 0.0..2000.0),
        any::<bool>(),
        admission,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(capacity, configured, admission, drained, calm)| RegionInput {
                capacity,
                configured: configured && capacity.is_some(),
                admission,
                drained,
                calm,
            },
        );
    prop::collection::vec(one, NAMES.len()).prop_map(|regions| {
        let names = NAMES.iter().map(|name| region(name));
        names.zip(regions).collect()
    })
}

pub(crate) fn orders() -> impl Strategy<Value = RegionOrder> {
    let names: Vec<RegionName> = NAMES.iter().map(|name| region(name)).collect();
    (Just(names).prop_shuffle(), 1..=NAMES.len()).prop_map(|(mut names, length)| {
        names.truncate(length);
        names
    })
}

pub(crate) fn inputs() -> impl Strategy<Value = PlanInput> {
    let rate = || prop_oneof![1 => Just(0.0), 2 => 0.0..800.0];
    let demand = prop_oneof![
        1 => Just([0.0; 4]),
        9 => [rate(), rate(), rate(), rate()],
    ]
    .prop_map(ByPriority);
    let origins = prop::collection::btree_map(orders(), demand, 1..5);
    (regions(), origins, 0.1..=1.0, 0.01..=1.0).prop_map(|(regions, origins, u, failback)| {
        PlanInput {
            regions,
            origins,
            target_utilization: u,
            failback_per_second: failback,
        }
    })
}
