//! One look at one service: where its traffic goes, worked out from the breakers
//! of its regions, what they take, and what the agents of all replicas want.

mod regions;

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    BackendName, ByPriority, PopId, Version,
    capacity::LearnedCapacity,
    ids::{RegionName, ServiceName},
    plan::{OriginPlan, RegionOrder},
    steering::{Drill, DrillState, Observed, SteeringInput, SteeringSettings, SteeringStep},
};
use fleet_config::Service;
use tokio::time::Instant;

use super::{CALM, Coordinator, HOT, SPACING};
use crate::{
    board::services::{demand, merge},
    commit::{ATTEMPTS, Attempt, KnownService},
    config::{self, Fleet},
    drills,
    plane::Plane,
    store::{ServiceState, ServiceView, StoreError},
};
use regions::Regions;

/// Demand that changes by this share between two calm looks is followed at the
/// hot rate: more than noise does.
const STEADY: f64 = 0.2;

/// An origin with this share of its demand in its first region is at home: what a
/// region has too little room for by a hair is noise.
const HOME: f64 = 0.99;

/// What the coordinator remembers of a service between two looks.
#[derive(Debug)]
pub(super) struct OfService {
    /// Its record, as last heard from the store.
    known: KnownService,
    /// The other replicas' views, merged.
    others: ServiceView,
    /// The breakers that the last decision was made on.
    breakers: BTreeMap<RegionName, Version>,
    /// What regions have borne, where nobody configured it.
    capacities: BTreeMap<RegionName, LearnedCapacity>,
    /// Requests a second at the last look.
    demand: f64,
}

impl Coordinator {
    /// Views of services for a sync.
    pub(super) fn request_services(
        &self,
        due: &[ServiceName],
        fleet: &Fleet,
    ) -> Vec<(ServiceName, Option<ServiceView>)> {
        let view = |name: &ServiceName| (name.clone(), own_view(&self.plane, name, fleet));
        due.iter().map(view).collect()
    }

    /// Takes in what the store holds of a service.
    pub(super) fn hear(&mut self, state: ServiceState, fleet: &Fleet) {
        let Some(service) = fleet.config.services.get(&state.name) else {
            return;
        };
        if service.throttle.is_some() {
            let quotas = state.others.iter().map(|(id, view)| (id, &view.quotas));
            self.plane.quotas.learn(&state.name, quotas);
        }
        let others = merge(state.others.iter().map(|(_, view)| view.clone()));
        let known = KnownService::of(state);
        known.publish(&self.plane);
        let name = known.name.clone();
        match self.services.get_mut(&name) {
            Some(held) => {
                held.known = known;
                held.others = others;
            }
            None => {
                self.services.insert(name, OfService::new(known, others));
            }
        }
    }

    /// The service of a backend whose breaker is not the one that its plan was
    /// made on.
    pub(super) fn unsettled(&self, backend: &BackendName) -> Option<ServiceName> {
        let (name, held) = self.services.get_key_value(backend.service())?;
        let seen = self.plane.board.get(backend)?;
        let decided = held.breakers.get(backend.region());
        (decided != Some(&seen.breaker.version)).then(|| name.clone())
    }

    /// Decides about one service; returns when to look again.
    pub(super) async fn steer(
        &mut self,
        name: &ServiceName,
        fleet: &Fleet,
    ) -> Result<Duration, StoreError> {
        // A first plan in a store that lost everything would keep out the drains
        // that agents hold, so they are heard first.
        if !*self.plane.settled.borrow() {
            return Ok(HOT);
        }
        let plane = self.plane.clone();
        let own = own_view(&plane, name, fleet);
        let (Some(service), Some(held)) =
            (fleet.config.services.get(name), self.services.get_mut(name))
        else {
            return Ok(SPACING);
        };
        let figures = merge(own.into_iter().chain([held.others.clone()]));
        plane.board.services.show_figures(name, figures.clone());
        let settings = config::settings(service);
        held.forget_gone_regions(&plane, fleet, service, &figures)
            .await?;
        let regions = Regions::read(&plane, service);
        held.learn(&regions);
        let observed = Observed {
            regions: regions.inputs(),
            demand: of_orders(fleet, name, &figures),
            learned: held.learned(),
            drill: held
                .known
                .steering
                .running_drill()
                .map(|drill| drills::observe(&plane, fleet, drill, &figures)),
        };
        let step = held.decide(&plane, &settings, &observed).await?;
        held.breakers = regions.versions();
        let demand = demand(&figures).total();
        let before = std::mem::replace(&mut held.demand, demand);
        let jumps = (demand - before).abs() > STEADY * before.max(demand);
        let steering = &held.known.steering;
        let rehearsed = steering.running_drill().is_some();
        if rehearsed {
            // Its guard goes by what all of them get.
            let next = Instant::now() + HOT;
            for backend in service.backends.values() {
                self.due.at(backend.name.clone(), next);
            }
        } else if let Some(drill) = &steering.drill {
            let seen = plane.board.get(&drill.backend);
            let now = plane.clock.now();
            if seen.is_some_and(|seen| drills::left_behind(drill, &seen.breaker, now)) {
                self.due.urge(drill.backend.clone(), Instant::now());
            }
        }
        let hot = jumps || rehearsed || !regions.all_closed() || held.away_from_home();
        let regular = if hot { HOT } else { CALM };
        let wake_at = step.and_then(|step| step.wake_at);
        let wake = wake_at.map(|at| self.until(at) + Duration::from_millis(1));
        Ok(wake.unwrap_or(regular).min(regular).max(SPACING))
    }
}

impl OfService {
    fn new(known: KnownService, others: ServiceView) -> Self {
        Self {
            known,
            others,
            breakers: BTreeMap::new(),
            capacities: BTreeMap::new(),
            demand: 0.0,
        }
    }

    /// Puts in force what follows from what is seen; `None` if other replicas
    /// were faster each time.
    async fn decide(
        &mut self,
        plane: &Plane,
        settings: &SteeringSettings,
        observed: &Observed,
    ) -> Result<Option<SteeringStep>, StoreError> {
        for _ in 0..ATTEMPTS {
            let now = plane.clock.now();
            let input = SteeringInput::Tick(observed);
            match self
                .known
                .attempt(plane, settings, input, now, None)
                .await?
            {
                Attempt::Unchanged(step) | Attempt::Done(step) => return Ok(Some(step)),
                Attempt::Lost => {}
            }
        }
        Ok(None)
    }

    /// Drains, and a drill, of regions that are no longer configured.
    async fn forget_gone_regions(
        &mut self,
        plane: &Plane,
        fleet: &Fleet,
        service: &Service,
        figures: &ServiceView,
    ) -> Result<(), StoreError> {
        let settings = &config::settings(service);
        self.capacities
            .retain(|region, _| service.backends.contains_key(region));
        let drains = self.known.steering.drains.keys();
        let gone = drains.filter(|region| !service.backends.contains_key(*region));
        for region in gone.cloned().collect::<Vec<_>>() {
            let input = SteeringInput::Drain(region, None);
            let now = plane.clock.now();
            // Lost: the next look tries again.
            self.known
                .attempt(plane, settings, input, now, None)
                .await?;
        }
        let drill = self.known.steering.running_drill();
        let gone = |drill: &&Drill| !service.backends.contains_key(drill.backend.region());
        if let Some(drill) = drill.filter(gone) {
            let seen = drills::observe(plane, fleet, drill, figures);
            let input = SteeringInput::EndDrill(DrillState::Stopped, &seen);
            let now = plane.clock.now();
            self.known
                .attempt(plane, settings, input, now, None)
                .await?;
        }
        Ok(())
    }

    fn learn(&mut self, regions: &Regions) {
        for (region, served, at) in regions.served() {
            let held = &self.known.steering.learned;
            let learning = self.capacities.entry(region.clone()).or_insert_with(|| {
                let known = held.get(region);
                known.map_or_else(LearnedCapacity::default, |known| {
                    LearnedCapacity::resume(*known)
                })
            });
            learning.observe(served, at);
        }
    }

    fn learned(&self) -> BTreeMap<RegionName, f64> {
        let known = self.capacities.iter();
        known
            .filter_map(|(region, learned)| Some((region.clone(), learned.capacity()?)))
            .collect()
    }

    /// While traffic is where it does not belong, other regions are fuller than
    /// usual, or requests are shed: demand is followed closely.
    fn away_from_home(&self) -> bool {
        let plan = self.known.steering.plan.iter();
        let mut origins = plan.flat_map(|plan| plan.origins.values());
        let home = |origin: &OriginPlan| origin.shares.first().is_none_or(|share| *share >= HOME);
        origins.any(|origin| origin.demand > 0.0 && !home(origin))
    }
}

/// This replica's view; `None` without anything to tell.
fn own_view(plane: &Plane, name: &ServiceName, fleet: &Fleet) -> Option<ServiceView> {
    let order = |pop: &PopId| fleet.order(pop, name);
    let (figures, now) = (&plane.figures, plane.clock.now());
    let seen = plane.board.services.get(name.as_str());
    let drill = seen.as_ref().and_then(|seen| seen.steering.running_drill());
    let id = drill.map(|drill| drill.id.as_str());
    let view = figures.services.view(name, order, id, now);
    let view = view.map(|view| ServiceView {
        latency: match drill {
            Some(_) => figures.recent_latency(name, now),
            None => Vec::new(),
        },
        ..view
    });
    let service = fleet.config.services.get(name);
    let throttle = service.and_then(|service| service.throttle.as_ref());
    let quotas = throttle.map(|throttle| plane.quotas.register(name, throttle.rate));
    match quotas.filter(|quotas| !quotas.is_empty()) {
        None => view,
        Some(quotas) => Some(ServiceView {
            quotas,
            ..view.unwrap_or_default()
        }),
    }
}

/// The demand of every order that agents may have. Those of another revision of
/// the configuration are left out: its regions may be gone.
fn of_orders(
    fleet: &Fleet,
    name: &ServiceName,
    figures: &ServiceView,
) -> BTreeMap<RegionOrder, ByPriority> {
    let orders = fleet.orders(name).into_iter();
    let with_demand = orders.map(|order| {
        let demand = figures.origins.get(&order).copied();
        (order, demand.unwrap_or_default())
    });
    with_demand.collect()
}
