//! Failover by headroom: where a service's traffic goes, worked out for all
//! gateways at once, so that no surviving region is overfilled.
//!
//! A waterfall: each origin's demand goes to its first region as far as that has
//! room, what is left to the second, and so on; origins that meet in a region
//! share its room in proportion to what they have left. What fits nowhere is
//! shed, lowest priority first, also across origins: see [`priorities`].
//!
//! * Others may fill a region to `target utilization · admission · capacity`; its
//!   own clients to the whole of `admission · capacity`, since moving or shedding
//!   them on a calm day would help nobody.
//! * Away from a region that fails, at once. Back towards home, a part of the
//!   demand a second, and only into regions that are calm. The admission of a
//!   ramp is one bound and this another; the tighter one holds.
//! * Going slowly never sheds: what would otherwise be shed goes wherever there
//!   is room.
//! * A learned capacity limits what other origins bring, not a region's own
//!   clients, since it was learned from them: growth is no reason to shed.
//! * Demand and its mix are held: see [`held`] and [`followed`]. So a plan does
//!   not follow noise.

mod change;
mod headroom;
mod priorities;
mod waterfall;

use std::{collections::BTreeMap, time::Duration};

pub use change::Change;
pub(crate) use waterfall::{Bounds, work_out};

use crate::{
    ids::RegionName,
    shed::{ByPriority, Mix, Priority},
    time::Timestamp,
};

/// Demand counts once it is above the planned one by more than this share: what
/// a survivor may be overfilled by. Small, since it adds to what chance does.
pub(crate) const RISE: f64 = 0.03;

/// Demand counts at once when it falls below this share of the planned one:
/// noise of ± 10 % reaches down to 0.9 / 1.1 of its own peak, and no further.
const FALL: f64 = 0.8;

/// Demand that fell less counts once the plan has been in force for so long.
const HOLD: Duration = Duration::from_secs(60);

/// By how much a priority's share of a demand must move for the mix to count.
const MIX_MOVES: f64 = 0.05;

/// By how much, as long as requests are shed by it.
const MIX_MOVES_SHEDDING: f64 = 0.02;

/// Seconds of demand that a mix is taken from, about: the mix of few requests is
/// chance.
const MIX_SECONDS: f64 = 10.0;

/// Plans that follow a ramp or a failback are no closer than this: each is a
/// commit that every agent hears of.
pub const DWELL: Duration = Duration::from_millis(200);

/// Least part of an origin's demand that is worth moving back by itself.
const LEAST_PART: f64 = 0.02;

/// The regions that some agents prefer, in this order: what tells one origin
/// from another.
pub type RegionOrder = Vec<RegionName>;

/// Where a service's traffic goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// By region order.
    pub origins: BTreeMap<RegionOrder, OriginPlan>,
    /// What it was worked out from, and leads to.
    pub regions: BTreeMap<RegionName, RegionFigures>,
    /// Requests a second that fit nowhere.
    pub shed: f64,
    /// When it was made.
    pub created: Timestamp,
}

/// Where one origin's traffic goes; one entry for each region of its order, in
/// that order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OriginPlan {
    /// Requests a second it wanted.
    pub demand: f64,
    /// Their mix of priorities: what tells which of them a share is. The nearest
    /// region gets the most important, and the least important are shed.
    pub mix: Mix,
    /// Share of its demand for each region, 0 to 1; what they lack to 1 is shed.
    pub shares: Vec<f64>,
    /// Further share of its demand that would fit there, 0 to 1.
    pub headrooms: Vec<f64>,
}

/// One region as a plan sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RegionFigures {
    /// Requests a second it takes; `None`: not known, and so no limit.
    pub capacity: Option<f64>,
    /// The capacity is from the configuration, not learned.
    pub configured: bool,
    /// Share of its capacity that its breaker admits, 0 to 1.
    pub admission: f64,
    /// An operator drains it.
    pub drained: bool,
    /// Requests a second that the plan sends there.
    pub planned: f64,
}

/// What a plan is worked out from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlanInput {
    /// Every region of the service.
    pub regions: BTreeMap<RegionName, RegionInput>,
    /// Demand in requests a second, by region order. Orders hold regions of the
    /// service only.
    pub origins: BTreeMap<RegionOrder, ByPriority>,
    /// Share of a region's capacity to fill with what others bring, (0, 1].
    pub target_utilization: f64,
    /// Share of an origin's demand that moves back home each second, (0, 1].
    pub failback_per_second: f64,
}

/// One region as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RegionInput {
    /// Requests a second it takes; `None`: not known.
    pub capacity: Option<f64>,
    /// The capacity is from the configuration.
    pub configured: bool,
    /// What its breaker admits: 0 while OPEN or HALF_OPEN, the ramp's value after.
    pub admission: f64,
    /// An operator drains it.
    pub drained: bool,
    /// Its evidence is calm (score below half of what convicts): traffic may
    /// move back.
    pub calm: bool,
}

/// A share below this is an error of rounding.
const NOTHING: f64 = 1e-9;

/// Works out where traffic goes. Pure; the caller commits the plan if it
/// [differs](Plan::differs) from the one in force.
///
/// An origin without demand has its first region that takes anything, so that
/// its first request has somewhere to go.
pub fn plan(input: &PlanInput, previous: Option<&Plan>, now: Timestamp) -> Plan {
    let bounds = Bounds {
        held: previous,
        back: previous,
        at_once: None,
        within: None,
    };
    work_out(input, bounds, now).plan
}

/// The demand to plan for: the planned one as long as the real one is about it.
/// It rises at once, and falls late.
fn held(planned: f64, demand: f64, age: Duration) -> f64 {
    let risen = demand > planned * (1.0 + RISE);
    let fallen = demand < planned * FALL;
    match risen || fallen || age >= HOLD {
        true => demand,
        false => planned,
    }
}

/// The mix to plan for: the planned one as long as the real one is about it.
pub(crate) fn followed(planned: Mix, demand: ByPriority, sheds: bool) -> Mix {
    let total = demand.total();
    if !(total > 0.0 && total.is_finite()) {
        return planned;
    }
    let (old, new) = (planned.shares(), Mix::of(demand).shares());
    let moves = |priority: Priority| (new[priority] - old[priority]).abs();
    let most = Priority::ALL.map(moves).into_iter().fold(0.0, f64::max);
    let bar = if sheds { MIX_MOVES_SHEDDING } else { MIX_MOVES };
    let chance = 1.0 / (total * MIX_SECONDS).sqrt();
    match most > bar.max(chance) {
        true => Mix::of(demand),
        false => planned,
    }
}

/// How long a part of the failback takes: between plans that move traffic back.
pub(crate) fn back_interval(failback_per_second: f64) -> Duration {
    let least = LEAST_PART / failback_per_second.clamp(0.001, 1.0);
    Duration::from_secs_f64(least).max(DWELL)
}

/// Share of an origin's demand that may move back, `age` after the plan in force
/// was made.
pub(crate) fn back_part(failback_per_second: f64, age: Duration) -> f64 {
    let age = age.min(back_interval(failback_per_second));
    failback_per_second.clamp(0.0, 1.0) * age.as_secs_f64()
}

impl Plan {
    /// Requests a second that it was made for.
    pub fn demand(&self) -> f64 {
        self.origins.values().map(|origin| origin.demand).sum()
    }

    /// Requests a second that `next` sends elsewhere than this plan, or sheds.
    pub(crate) fn moved(&self, next: &Self) -> f64 {
        let moved = |(order, origin): (&RegionOrder, &OriginPlan)| {
            let shares = self.origins.get(order)?.shares.iter().zip(&origin.shares);
            let less: f64 = shares.clone().map(|(old, new)| (old - new).max(0.0)).sum();
            let more: f64 = shares.map(|(old, new)| (new - old).max(0.0)).sum();
            Some(less.max(more) * origin.demand)
        };
        next.origins.iter().filter_map(moved).sum()
    }

    /// Counts anew what goes to each region, and what is shed.
    pub(crate) fn recount(&mut self) {
        let Self {
            origins,
            regions,
            shed,
            ..
        } = self;
        regions.values_mut().for_each(|region| region.planned = 0.0);
        *shed = 0.0;
        for (order, origin) in origins.iter() {
            for (name, share) in order.iter().zip(&origin.shares) {
                if let Some(region) = regions.get_mut(name) {
                    region.planned += share * origin.demand;
                }
            }
            let left = 1.0 - origin.shares.iter().sum::<f64>();
            if left > NOTHING {
                *shed += left * origin.demand;
            }
        }
    }

    /// Everything goes to the first region of its order.
    pub fn all_home(&self) -> bool {
        self.origins.values().all(OriginPlan::home)
    }

    /// Something worth telling fits nowhere.
    pub fn sheds(&self) -> bool {
        self.shed > 0.005 * self.demand()
    }
}

impl OriginPlan {
    /// Share of its demand for the first `n + 1` regions, for each `n`: what is
    /// no further out than that.
    fn reach(&self) -> impl Iterator<Item = f64> {
        self.shares.iter().scan(0.0, |sum, share| {
            *sum += share;
            Some(*sum)
        })
    }

    fn home(&self) -> bool {
        self.shares.first().is_none_or(|home| *home > 1.0 - NOTHING)
    }
}

impl RegionFigures {
    /// It takes requests at all.
    pub const fn takes(&self) -> bool {
        self.admission > 0.0 && !self.drained
    }

    /// Requests a second that others may fill it to, and that it may get at all
    /// when its own clients want `home`: what these want beyond the target, but
    /// not beyond a capacity that is configured.
    fn limits(&self, target_utilization: f64, home: f64) -> (f64, f64) {
        let own = self.admission * home;
        match self.capacity {
            _ if !self.takes() => (0.0, 0.0),
            None => (f64::INFINITY, f64::INFINITY),
            Some(capacity) => {
                let whole = self.admission * capacity;
                let target = target_utilization * whole;
                let own = if self.configured {
                    home.min(whole)
                } else {
                    own
                };
                (target, target.max(own))
            }
        }
    }
}

impl RegionInput {
    /// It takes requests at all.
    pub(crate) const fn takes(&self) -> bool {
        self.admission > 0.0 && !self.drained
    }
}
