//! The regions of a service as their breakers have them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use breaker_core::{
    Breaker, BreakerPolicy, Circuit, Mode, Timestamp, Version, evidence::CONVICT_SCORE,
    ids::RegionName, plan::RegionInput,
};
use fleet_config::Service;

use crate::{board::Seen, plane::Plane};

/// What was served is taken from a second that all reports are in: calm reports
/// come a second late, and were looked at up to a second ago.
const COMPLETE_AFTER: Duration = Duration::from_secs(2);

const SECOND: Duration = Duration::from_secs(1);

/// All regions of one service.
pub(super) struct Regions {
    regions: BTreeMap<RegionName, Region>,
    now: Timestamp,
}

struct Region {
    /// `None` before the coordinator has looked at it.
    seen: Option<Arc<Seen>>,
    input: RegionInput,
    /// Closed, and nothing is held back.
    healthy: bool,
}

impl Regions {
    pub(super) fn read(plane: &Plane, service: &Service) -> Self {
        let now = plane.clock.now();
        let regions = service.backends.iter().map(|(region, backend)| {
            let seen = plane.board.get(&backend.name);
            let read = Region::read(seen, backend.capacity_rps, &service.breaker, now);
            (region.clone(), read)
        });
        Self {
            regions: regions.collect(),
            now,
        }
    }

    pub(super) fn inputs(&self) -> BTreeMap<RegionName, RegionInput> {
        let regions = self.regions.iter();
        regions.map(|(name, r)| (name.clone(), r.input)).collect()
    }

    /// The breakers that this was read from.
    pub(super) fn versions(&self) -> BTreeMap<RegionName, Version> {
        let version = |(name, region): (&RegionName, &Region)| {
            let seen = region.seen.as_ref()?;
            Some((name.clone(), seen.breaker.version))
        };
        self.regions.iter().filter_map(version).collect()
    }

    /// Requests a second that healthy regions of unknown capacity served, and when.
    pub(super) fn served(&self) -> impl Iterator<Item = (&RegionName, f64, Timestamp)> {
        let to_learn = |region: &Region| region.healthy && !region.input.configured;
        let regions = self.regions.iter().filter(move |(_, r)| to_learn(r));
        regions.filter_map(|(name, region)| {
            let to = self.now - COMPLETE_AFTER;
            let seen = region.seen.as_ref()?;
            let mut served = 0;
            for pop in &seen.figures.fleet.pops {
                let since = pop.total.total_since(to - SECOND);
                let counts = since.saturating_sub(pop.total.total_since(to));
                served +=
                    counts.requests - (counts.failures + counts.overloads).min(counts.requests);
            }
            Some((name, served as f64 / SECOND.as_secs_f64(), self.now))
        })
    }

    /// No region has trouble, or comes back from it.
    pub(super) fn all_closed(&self) -> bool {
        let mut seen = self.regions.values().filter_map(|r| r.seen.as_ref());
        seen.all(|seen| {
            let mut circuits = seen.breaker.circuits();
            circuits.all(|(_, circuit)| matches!(circuit, Circuit::Closed { ramp: None, .. }))
        })
    }
}

impl Region {
    fn read(
        seen: Option<Arc<Seen>>,
        capacity: Option<f64>,
        policy: &BreakerPolicy,
        now: Timestamp,
    ) -> Self {
        let breaker = seen.as_ref().map(|seen| &seen.breaker);
        let evidence = seen.as_ref().and_then(|seen| seen.evidence.as_ref());
        let calm = evidence.is_none_or(|e| e.score.nats < CONVICT_SCORE / 2.0);
        let admission = breaker.map_or(1.0, |breaker| admission(breaker, policy, now));
        let free = |breaker: &Breaker| breaker.throttle.is_none() && breaker.over.is_none();
        Self {
            input: RegionInput {
                capacity,
                configured: capacity.is_some(),
                admission,
                drained: false,
                calm,
            },
            healthy: calm && admission >= 1.0 && breaker.is_none_or(free),
            seen,
        }
    }
}

/// Share of its capacity that a region's breaker admits. What the throttle meters
/// is no less capacity, and is cut at the gate.
fn admission(breaker: &Breaker, policy: &BreakerPolicy, now: Timestamp) -> f64 {
    match breaker.mode(policy) {
        Mode::ForcedOpen => 0.0,
        Mode::Shadow | Mode::ForcedClosed | Mode::Disabled => 1.0,
        Mode::Enforce => breaker.fleet.admission(now),
    }
}
