//! Demand poured outward, ring by ring, whatever its priorities.

use std::collections::BTreeMap;

use super::{
    NOTHING, OriginPlan, Plan, PlanInput, RegionFigures, RegionInput, RegionOrder, back_part,
    followed, headroom, held,
};
use crate::{
    ids::RegionName,
    shed::{ByPriority, Mix},
    time::Timestamp,
};

/// What a plan takes from others.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bounds<'a> {
    /// Whose demand and mix are held.
    pub(crate) held: Option<&'a Plan>,
    /// From where traffic moves back slowly; `None`: at once.
    pub(crate) back: Option<&'a Plan>,
    /// But at once into this region, and what is further out than it.
    pub(crate) at_once: Option<&'a str>,
    /// Regions that an origin may use, by its order; all where there is none.
    pub(crate) within: Option<&'a BTreeMap<RegionOrder, Vec<bool>>>,
}

/// A plan, and what it leads to.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    /// More would have moved back, had there been more time.
    pub(crate) held_back: bool,
}

/// Works out a plan.
pub(crate) fn work_out(input: &PlanInput, bounds: Bounds<'_>, now: Timestamp) -> Planned {
    let mut water = Waterfall::new(input, bounds, now);
    let held_back = water.pour(true);
    water.pour(false);
    water.put_priorities_first();
    water.place_idle();
    Planned {
        plan: water.finish(now),
        held_back,
    }
}

pub(super) struct Waterfall<'a> {
    pub(super) regions: BTreeMap<&'a RegionName, Basin>,
    pub(super) flows: Vec<Flow<'a>>,
}

/// A region, as it fills.
pub(super) struct Basin {
    figures: RegionFigures,
    /// Requests a second that others may fill it to; infinite where its capacity
    /// is not known.
    limit: f64,
    /// That its own origins may fill it to.
    home_limit: f64,
    pub(super) load: f64,
}

/// One origin's demand, as it is poured.
pub(super) struct Flow<'a> {
    order: &'a RegionOrder,
    /// Requests a second.
    pub(super) demand: f64,
    pub(super) mix: Mix,
    pub(super) left: f64,
    pub(super) outlets: Vec<Outlet>,
}

/// One region of an origin's order.
pub(super) struct Outlet {
    /// Requests a second.
    pub(super) load: f64,
    pub(super) share: f64,
    /// Largest share by admission alone.
    pub(super) most: f64,
    /// Requests a second that may be in this region or a nearer one, as long as
    /// traffic moves back slowly.
    reach: f64,
}

impl<'a> Waterfall<'a> {
    fn new(input: &'a PlanInput, bounds: Bounds<'_>, now: Timestamp) -> Self {
        let flows: Vec<Flow<'a>> = input
            .origins
            .iter()
            .map(|(order, demand)| {
                let demand = ByPriority(demand.0.map(positive));
                Flow::new(input, bounds, order, demand, now)
            })
            .collect();
        let mut homes: BTreeMap<&RegionName, f64> = BTreeMap::new();
        for flow in &flows {
            if let (Some(home), Some(outlet)) = (flow.order.first(), flow.outlets.first()) {
                *homes.entry(home).or_default() += flow.demand * outlet.most;
            }
        }
        let basin = |(name, region): (&'a RegionName, &RegionInput)| {
            let home = homes.get(name).copied().unwrap_or_default();
            (name, Basin::new(region, input.target_utilization, home))
        };
        Self {
            regions: input.regions.iter().map(basin).collect(),
            flows,
        }
    }

    /// Pours what is left. Tells whether more would have moved back, had it not
    /// been for `slowly`.
    pub(super) fn pour(&mut self, slowly: bool) -> bool {
        let mut held_back = false;
        for ring in 0..self.rings() {
            for (name, basin) in &mut self.regions {
                let here = |flow: &&mut Flow<'_>| flow.order.get(ring) == Some(*name);
                let mut flows: Vec<_> = self.flows.iter_mut().filter(here).collect();
                let room = basin.room(ring);
                let wants: Vec<f64> = flows.iter().map(|f| f.want(ring, slowly)).collect();
                let wanted: f64 = wants.iter().sum();
                let part = if wanted > room { room / wanted } else { 1.0 };
                for (flow, want) in flows.iter_mut().zip(wants) {
                    held_back |=
                        part >= 1.0 && flow.want(ring, false) > want + NOTHING * flow.demand;
                    flow.give(ring, want * part);
                    basin.load += want * part;
                }
            }
        }
        held_back
    }

    /// How many regions the longest order has.
    pub(super) fn rings(&self) -> usize {
        self.flows.iter().map(|f| f.order.len()).max().unwrap_or(0)
    }

    /// Gives origins without demand the first region that would have them.
    fn place_idle(&mut self) {
        for flow in self.flows.iter_mut().filter(|flow| flow.demand <= 0.0) {
            let open = |at: &usize| flow.outlets.get(*at).is_some_and(|o| o.most > 0.0);
            let all = || (0..flow.order.len()).filter(open);
            let roomy = |at: &usize| {
                let basin = flow.order.get(*at).and_then(|name| self.regions.get(name));
                basin.is_some_and(|basin| basin.room(1) > 0.0)
            };
            let at = all().find(roomy).or_else(|| all().next());
            if let Some(outlet) = at.and_then(|at| flow.outlets.get_mut(at)) {
                outlet.share = 1.0;
            }
        }
    }

    fn finish(mut self, now: Timestamp) -> Plan {
        for flow in self.flows.iter_mut().filter(|flow| flow.demand > 0.0) {
            for outlet in &mut flow.outlets {
                outlet.share = (outlet.load / flow.demand).clamp(0.0, 1.0);
            }
        }
        let headrooms = headroom::headrooms(&self);
        let origins = self.flows.iter().zip(headrooms).map(|(flow, headrooms)| {
            let origin = OriginPlan {
                demand: flow.demand,
                mix: flow.mix,
                shares: flow.outlets.iter().map(|outlet| outlet.share).collect(),
                headrooms,
            };
            (flow.order.clone(), origin)
        });
        let regions = self.regions.iter();
        let mut plan = Plan {
            origins: origins.collect(),
            regions: regions
                .map(|(name, basin)| ((*name).clone(), basin.figures))
                .collect(),
            shed: 0.0,
            created: now,
        };
        plan.recount();
        plan
    }
}

impl Basin {
    fn new(region: &RegionInput, target_utilization: f64, home: f64) -> Self {
        let figures = RegionFigures {
            capacity: region.capacity.filter(|c| c.is_finite()).map(positive),
            configured: region.configured,
            admission: share(region.admission),
            drained: region.drained,
            planned: 0.0,
        };
        let (limit, home_limit) = figures.limits(share(target_utilization), home);
        Self {
            figures,
            limit,
            home_limit,
            load: 0.0,
        }
    }

    /// What it still takes of origins that have it in this ring of their order.
    pub(super) fn room(&self, ring: usize) -> f64 {
        self.room_beside(self.load, ring)
    }

    /// What it would take of them, were this all it had.
    pub(super) fn room_beside(&self, load: f64, ring: usize) -> f64 {
        let limit = match ring {
            0 => self.home_limit,
            _ => self.limit,
        };
        (limit - load).max(0.0)
    }
}

impl<'a> Flow<'a> {
    fn new(
        input: &PlanInput,
        bounds: Bounds<'_>,
        order: &'a RegionOrder,
        rates: ByPriority,
        now: Timestamp,
    ) -> Self {
        let planned = bounds.held.and_then(|plan| {
            let planned = plan.origins.get(order)?;
            let demand = held(planned.demand, rates.total(), now.since(plan.created));
            Some((demand, followed(planned.mix, rates, plan.shed > 0.0)))
        });
        let (demand, mix) = planned.unwrap_or_else(|| (rates.total(), Mix::of(rates)));
        let within = bounds.within.and_then(|within| within.get(order));
        let reach = reach(input, bounds, order, now);
        let outlet = |(at, name): (usize, &RegionName)| {
            let allowed = within.is_none_or(|within| within.get(at).copied().unwrap_or(false));
            let region = input.regions.get(name).filter(|r| allowed && r.takes());
            let most = match region {
                // Nobody knows what it takes: as much as its breaker admits.
                Some(region) if region.capacity.is_none() => share(region.admission),
                Some(_) => 1.0,
                None => 0.0,
            };
            Outlet {
                load: 0.0,
                share: 0.0,
                most,
                reach: reach.get(at).map_or(f64::INFINITY, |reach| reach * demand),
            }
        };
        Self {
            order,
            demand,
            mix,
            left: demand,
            outlets: order.iter().enumerate().map(outlet).collect(),
        }
    }

    /// Requests a second it would send to the region in this ring.
    pub(super) fn want(&self, ring: usize, slowly: bool) -> f64 {
        let Some(outlet) = self.outlets.get(ring) else {
            return 0.0;
        };
        let want = self.left.min(outlet.most * self.demand - outlet.load);
        let nearer = || {
            self.outlets
                .iter()
                .take(ring + 1)
                .map(|o| o.load)
                .sum::<f64>()
        };
        let want = if slowly {
            want.min(outlet.reach - nearer())
        } else {
            want
        };
        want.max(0.0)
    }

    pub(super) fn give(&mut self, ring: usize, load: f64) {
        if let Some(outlet) = self.outlets.get_mut(ring) {
            outlet.load += load;
            self.left -= load;
        }
    }

    pub(super) fn order(&self) -> &'a RegionOrder {
        self.order
    }
}

/// Share of an origin's demand that may be in each region or a nearer one, for
/// it moves back slowly; none for the last region, where nothing moves back to.
fn reach(input: &PlanInput, bounds: Bounds<'_>, order: &RegionOrder, now: Timestamp) -> Vec<f64> {
    let bounding = bounds.back;
    let Some((plan, origin)) = bounding.and_then(|plan| Some((plan, plan.origins.get(order)?)))
    else {
        return Vec::new();
    };
    let part = back_part(input.failback_per_second, now.since(plan.created));
    let inner = order.len().saturating_sub(1);
    let slowly = |name: &&RegionName| bounds.at_once != Some(name.as_str());
    let regions = order.iter().take(inner).take_while(slowly);
    let regions = regions.zip(origin.reach());
    regions
        .map(|(name, reach)| {
            let calm = input.regions.get(name).is_some_and(|region| region.calm);
            reach + if calm { part } else { 0.0 }
        })
        .collect()
}

fn positive(value: f64) -> f64 {
    // Not a number counts as none.
    if value.is_finite() {
        value.max(0.0)
    } else {
        0.0
    }
}

fn share(value: f64) -> f64 {
    positive(value).min(1.0)
}
