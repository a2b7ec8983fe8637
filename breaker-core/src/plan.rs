//! Failover by headroom: where a service's traffic goes, worked out for all
//! gateways at once, so that no surviving region is overfilled.

use std::collections::BTreeMap;

use crate::{ids::RegionName, time::Timestamp};

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
    pub origins: BTreeMap<RegionOrder, f64>,
    /// Share of a region's capacity to fill, (0, 1].
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
