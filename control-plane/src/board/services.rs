//! Services as readers are shown them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use breaker_core::{ByPriority, Steering, ids::ServiceName};
use rampmeter_api::v1;

use crate::store::ServiceView;

/// All services.
#[derive(Debug, Default)]
pub struct Services(RwLock<BTreeMap<ServiceName, Arc<SeenService>>>);

/// One service as last seen.
#[derive(Debug, Clone, Default)]
pub struct SeenService {
    /// What is committed about it.
    pub steering: Steering,
    /// Figures of all replicas.
    pub figures: ServiceView,
}

impl Services {
    /// One service.
    pub fn get(&self, name: &str) -> Option<Arc<SeenService>> {
        self.read().get(name).cloned()
    }

    /// All services, by name.
    pub fn all(&self) -> Vec<(ServiceName, Arc<SeenService>)> {
        let services = self.read();
        let seen = services.iter();
        seen.map(|(name, seen)| (name.clone(), seen.clone()))
            .collect()
    }

    /// Shows new figures.
    pub fn show_figures(&self, name: &ServiceName, figures: ServiceView) {
        let mut services = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let held = services.get(name);
        let steering = held.map(|held| held.steering.clone()).unwrap_or_default();
        services.insert(name.clone(), Arc::new(SeenService { steering, figures }));
    }

    /// Shows a new decision; an older one than is shown stays away.
    pub fn show(&self, name: &ServiceName, steering: &Steering) {
        let mut services = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let held = services.get(name);
        if held.is_some_and(|held| held.steering.version > steering.version) {
            return;
        }
        let seen = SeenService {
            steering: steering.clone(),
            figures: held.map(|held| held.figures.clone()).unwrap_or_default(),
        };
        services.insert(name.clone(), Arc::new(seen));
    }

    /// Keeps only these services.
    pub fn retain(&self, keep: impl Fn(&ServiceName) -> bool) {
        let mut services = self.0.write().unwrap_or_else(PoisonError::into_inner);
        services.retain(|name, _| keep(name));
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ServiceName, Arc<SeenService>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds up the views of replicas, but for quotas, which are kept apart. A drill's counts are those of the drill that
/// comes first: while a new one spreads, replicas may be counting two.
pub fn merge(views: impl IntoIterator<Item = ServiceView>) -> ServiceView {
    let mut sum = ServiceView::default();
    let mut latency = BTreeMap::new();
    for view in views {
        for (order, demand) in view.origins {
            *sum.origins.entry(order).or_default() += demand;
        }
        sum.rates += view.rates;
        sum.recent += view.recent;
        super::add_latency(&mut latency, view.latency);
        match (&mut sum.drill, view.drill) {
            (Some((id, counts)), Some((same, more))) if *id == same => *counts += more,
            (Some(_), _) => {}
            (first @ None, drill) => *first = drill,
        }
    }
    sum.latency = latency.into_iter().collect();
    sum
}

/// The demand of all origins.
pub fn demand(figures: &ServiceView) -> ByPriority {
    let rates = figures.origins.values();
    rates.fold(ByPriority::default(), |sum, rate| sum + *rate)
}

/// The last ten seconds, for people.
pub fn traffic(figures: &ServiceView) -> v1::ServiceTraffic {
    v1::ServiceTraffic {
        demand: Some(demand(figures).into()),
        succeeded_per_second: figures.rates.succeeded,
        failed_per_second: figures.rates.failed,
        refused_per_second: figures.rates.refused,
        shed_per_second: figures.rates.shed,
        shadowed_per_second: figures.rates.shadowed,
    }
}
