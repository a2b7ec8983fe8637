//! When a new plan is worth committing: hysteresis.

use std::collections::BTreeMap;

use super::{OriginPlan, Plan, RISE};
use crate::ids::RegionName;

/// Share of an origin's demand that must move outward, or begin to be shed.
const OUTWARD: f64 = 0.03;

/// Share that must move back, or cease to be shed. Less than outward: it is
/// bounded in speed, and demand that falls is held, so it cannot swing.
const INWARD: f64 = 0.01;

/// By how much a headroom must shrink: what is promised and not there.
const LESS_ROOM: f64 = 0.05;

/// By how much it must grow.
const MORE_ROOM: f64 = 0.1;

/// From this factor on a demand is another one: a plan is shown to people with the
/// demand that it was made for.
const OTHER_DEMAND: f64 = 1.5;

/// How a new plan differs from the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Not enough to tell anybody.
    None,
    /// In headrooms only.
    Headroom,
    /// Traffic moves, or another part of it is what a share means, and may do so a
    /// moment later.
    Gradual,
    /// A region takes nothing any more, or would be overfilled, or some agents
    /// have no plan yet.
    Urgent,
}

impl Plan {
    /// Whether `next` differs enough from this plan, which is in force, to be
    /// committed.
    pub fn differs(&self, next: &Self, target_utilization: f64) -> bool {
        self.change(next, target_utilization) > Change::None
    }

    /// How `next` differs from this plan, which is in force.
    pub fn change(&self, next: &Self, target_utilization: f64) -> Change {
        if self.lost_a_region(next) || self.overfills(next, target_utilization) {
            return Change::Urgent;
        }
        let mut change = match self.regions_changed(next) {
            true => Change::Gradual,
            false => Change::None,
        };
        for (order, origin) in &next.origins {
            change = change.max(match self.origins.get(order) {
                None => Change::Urgent,
                Some(_) if origin.demand <= 0.0 => Change::None,
                Some(current) => current.change(origin),
            });
        }
        change
    }

    /// Whether people should hear that `next` follows this plan: not of each
    /// step of a ramp or a failback.
    pub(crate) fn worth_telling(&self, next: &Self) -> bool {
        let outward = |(order, origin): (_, &OriginPlan)| {
            let current = self.origins.get(order);
            origin.demand > 0.0 && current.is_some_and(|c| c.outward(origin) >= OUTWARD)
        };
        let turns = self.takers(next)
            || next.origins.iter().any(outward)
            || (next.all_home() && !self.all_home());
        turns && self.moved(next) > 0.0
    }

    fn lost_a_region(&self, next: &Self) -> bool {
        self.both(next)
            .any(|(old, new)| old.takes() && !new.takes())
    }

    fn takers(&self, next: &Self) -> bool {
        self.both(next).any(|(old, new)| old.takes() != new.takes())
    }

    fn regions_changed(&self, next: &Self) -> bool {
        let full = |admission: f64| admission >= 1.0;
        self.takers(next)
            || self
                .both(next)
                .any(|(old, new)| full(old.admission) != full(new.admission))
    }

    fn both<'a>(
        &'a self,
        next: &'a Self,
    ) -> impl Iterator<Item = (&'a super::RegionFigures, &'a super::RegionFigures)> {
        let regions = next.regions.iter();
        regions.filter_map(|(name, new)| Some((self.regions.get(name)?, new)))
    }

    /// A region would get more than it takes, were this plan kept with the demand
    /// of `next`.
    fn overfills(&self, next: &Self, target_utilization: f64) -> bool {
        let mut loads: BTreeMap<&RegionName, f64> = BTreeMap::new();
        let mut homes: BTreeMap<&RegionName, f64> = BTreeMap::new();
        for (order, origin) in &next.origins {
            if let Some(home) = order.first() {
                *homes.entry(home).or_default() += origin.demand;
            }
            let shares = self.origins.get(order).map_or(&[][..], |o| &o.shares);
            for (name, share) in order.iter().zip(shares) {
                *loads.entry(name).or_default() += share * origin.demand;
            }
        }
        loads.iter().any(|(name, load)| {
            let Some(region) = next.regions.get(*name) else {
                return false;
            };
            let home = homes.get(*name).copied().unwrap_or_default();
            let (_, room) = region.limits(target_utilization, home);
            region.takes() && *load > (1.0 + RISE) * room.max(region.planned) + 1e-6
        })
    }
}

impl OriginPlan {
    fn change(&self, next: &Self) -> Change {
        let arrives = next.home() && !self.home();
        let moves = self.outward(next) >= OUTWARD || next.outward(self) >= INWARD;
        if moves || arrives || self.mix != next.mix {
            return Change::Gradual;
        }
        let pairs = || self.headrooms.iter().zip(&next.headrooms);
        let other_demand =
            next.demand > self.demand * OTHER_DEMAND || self.demand > next.demand * OTHER_DEMAND;
        let less = pairs().any(|(old, new)| old - new >= LESS_ROOM);
        let more = pairs().any(|(old, new)| new - old >= MORE_ROOM);
        match less || more || other_demand {
            true => Change::Headroom,
            false => Change::None,
        }
    }

    /// Share of the demand that moves outward, or begins to be shed.
    pub(crate) fn outward(&self, next: &Self) -> f64 {
        let pairs = self.reach().zip(next.reach());
        pairs.map(|(old, new)| old - new).fold(0.0, f64::max)
    }
}
