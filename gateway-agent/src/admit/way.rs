//! Which way a service's requests take among its regions, and why: worked out
//! when a plan arrives or goes stale, and swapped in whole.

use breaker_core::{
    Mix, PopId, Steering, Timestamp, Version,
    plan::OriginPlan,
    steering::{Drill, DrillState, Fault},
};

use crate::admit::{
    backend::{Backend, BackendIndex},
    steer::Bands,
};
use std::sync::Arc;

/// Swapped in whole whenever something changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    /// Which region a request is for.
    pub course: Course,
    /// The decision behind it; zero if there is none.
    pub version: Version,
    /// The demand's mix of priorities: of agents with this order of regions, or,
    /// without a plan for them, of all.
    pub mix: Mix,
    /// The drill that runs here.
    pub drill: Option<Injection>,
}

/// Which region a request is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Course {
    /// There is no plan: the first of these that takes it.
    InOrder(Box<[usize]>),
    /// As planned.
    Planned(Bands),
    /// There was a plan, but nobody stands by it any more: home first, and the
    /// others no more than they were planned to take.
    Stale {
        /// The first region that is not drained.
        home: usize,
        /// What each takes.
        bands: Bands,
    },
}

/// What a drill does here.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// The drill's.
    pub id: String,
    /// To requests admitted to this backend.
    pub backend: BackendIndex,
    /// What happens to them.
    pub fault: Fault,
    /// To this share of them, 0 to 1.
    pub share: f64,
    /// It ends by itself, whether or not anyone says so.
    pub until: Timestamp,
}

/// What a way is worked out from.
#[derive(Debug)]
pub struct Directions<'a> {
    /// The service's decision; `None` if none was ever heard.
    pub steering: Option<&'a Steering>,
    /// It was heard lately enough to bind.
    pub fresh: bool,
    /// Where this agent is.
    pub pop: &'a PopId,
    /// The service's backends in this POP's order.
    pub regions: &'a [Arc<Backend>],
    /// Now.
    pub now: Timestamp,
}

impl Way {
    /// Without a decision, past so many regions.
    pub fn in_order(regions: usize) -> Self {
        Self {
            course: Course::InOrder((0..regions).collect()),
            version: Version::default(),
            mix: Mix::default(),
            drill: None,
        }
    }

    /// The way by what is known.
    pub fn of(directions: &Directions<'_>) -> Self {
        let Some(steering) = directions.steering else {
            return Self::in_order(directions.regions.len());
        };
        Self {
            course: directions.course(steering),
            version: steering.version,
            mix: directions
                .plan(steering)
                .map_or(steering.mix, |plan| plan.mix),
            drill: steering
                .drill
                .as_ref()
                .and_then(|drill| directions.injection(drill)),
        }
    }

    /// The origin's plan, and whether somebody stands by it.
    pub fn plan(&self) -> Option<(&Bands, bool)> {
        match &self.course {
            Course::InOrder(_) => None,
            Course::Planned(bands) => Some((bands, true)),
            Course::Stale { bands, .. } => Some((bands, false)),
        }
    }
}

impl Directions<'_> {
    fn course(&self, steering: &Steering) -> Course {
        let order = self.undrained(steering);
        let Some(plan) = self.plan(steering) else {
            return Course::InOrder(order.into());
        };
        let parts = plan.shares.iter().zip(&plan.headrooms);
        let bands = Bands::new(parts.map(|(share, headroom)| (*share, *headroom)));
        match order.first() {
            Some(home) if !self.fresh => Course::Stale {
                home: *home,
                bands: bands.stale(*home),
            },
            _ => Course::Planned(bands),
        }
    }

    /// The plan for agents with this order of regions.
    fn plan<'s>(&self, steering: &'s Steering) -> Option<&'s OriginPlan> {
        let mine = || self.regions.iter().map(|backend| backend.name.region());
        let origins = steering.plan.iter().flat_map(|plan| &plan.origins);
        let mut origins = origins.filter(|(order, plan)| {
            let named = order.iter().map(|region| region.as_str());
            plan.shares.len() == order.len() && named.eq(mine())
        });
        origins.next().map(|(_, plan)| plan)
    }

    /// The regions that no operator took out of traffic; all of them, if that
    /// would leave none.
    fn undrained(&self, steering: &Steering) -> Vec<usize> {
        let drained = |at: &usize| {
            let drain = steering.drains.get(self.regions[*at].name.region());
            drain.is_some_and(|drain| self.now < drain.expires)
        };
        let all = 0..self.regions.len();
        let left: Vec<usize> = all.clone().filter(|at| !drained(at)).collect();
        if left.is_empty() { all.collect() } else { left }
    }

    fn injection(&self, drill: &Drill) -> Option<Injection> {
        let here = drill.pops.is_empty() || drill.pops.contains(self.pop);
        let runs = drill.state == DrillState::Running && self.now < drill.ends;
        let backend = self.regions.iter().find(|b| b.name == drill.backend)?;
        (here && runs).then(|| Injection {
            id: drill.id.clone(),
            backend: backend.index,
            fault: drill.fault,
            share: drill.share,
            until: drill.ends,
        })
    }
}
