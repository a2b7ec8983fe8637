//! Where requests may go at once that their own region refuses: the room that a
//! plan leaves, divided so that everybody may use his part at the same time.

use std::collections::BTreeMap;

use super::waterfall::{Flow, Outlet, Waterfall};
use crate::ids::RegionName;

/// Of each origin, for each region of its order: further share of its demand.
///
/// The room of a region is divided in proportion to the demand that is not
/// there already, so that a region's own clients take nothing of it.
pub(super) fn headrooms(water: &Waterfall<'_>) -> Vec<Vec<f64>> {
    let mut could_come: BTreeMap<&RegionName, f64> = BTreeMap::new();
    for flow in &water.flows {
        for (name, outlet) in flow.order().iter().zip(&flow.outlets) {
            *could_come.entry(name).or_default() += flow.demand * further(outlet);
        }
    }
    let part = |name: &RegionName| {
        let room = water.regions.get(name).map_or(0.0, |basin| basin.room(1));
        let could_come = could_come.get(name).copied().unwrap_or_default();
        match room >= could_come {
            true if room > 0.0 => 1.0,
            true => 0.0,
            false => room / could_come,
        }
    };
    let of_flow = |flow: &Flow<'_>| {
        let outlets = flow.order().iter().zip(&flow.outlets);
        outlets.map(|(name, o)| further(o) * part(name)).collect()
    };
    water.flows.iter().map(of_flow).collect()
}

/// Share of an origin's demand that is not in a region and that its breaker
/// would admit.
fn further(outlet: &Outlet) -> f64 {
    (outlet.most - outlet.share).max(0.0)
}
