//! One service, as requests of every core meet it: its regions, the way that
//! requests take among them, and what its callers got.

use std::sync::Arc;

use arc_swap::ArcSwap;
use breaker_core::{
    ids::ServiceName,
    shed::{Priority, ShedKey},
};
use fleet_config::{Fallback, Throttle};

use crate::{
    admit::{
        backend::Backend,
        places::{ByPriority, Places},
        quota::Quota,
        recorder::{Counters, Counts},
        way::Way,
    },
    cache::{kept::Kept, store::Store},
};

/// One service in one configuration.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its backends in the order this agent's POP prefers them.
    pub regions: Box<[Arc<Backend>]>,
    pub(crate) way: ArcSwap<Way>,
    /// Makes the plan's cut of the requests independent of the backends'.
    pub(crate) salt: ShedKey,
    /// What it may be asked; the same as long as it is configured alike.
    pub(crate) quota: Option<Arc<Quota>>,
    /// How it keeps answers; `None`: it does not.
    pub(crate) kept: Option<Arc<Kept>>,
    /// One for each core; the same in every configuration that has the service.
    pub(crate) cells: Arc<[Arc<ServiceCell>]>,
}

impl Service {
    /// A service whose regions are tried in their order until told otherwise.
    /// `before` is the same one in the configuration before.
    pub(crate) fn new(
        name: ServiceName,
        regions: Box<[Arc<Backend>]>,
        throttle: Option<&Throttle>,
        cores: usize,
        before: Option<&Self>,
    ) -> Self {
        let quota = before.and_then(|before| before.quota.as_ref());
        let quota = throttle.map(|settings| match quota {
            Some(quota) if quota.settings() == settings => quota.clone(),
            other => Arc::new(Quota::new(settings, other.map(Arc::as_ref))),
        });
        let fresh = || (0..cores).map(|_| Arc::default()).collect();
        Self {
            way: ArcSwap::from_pointee(Way::in_order(regions.len())),
            salt: ShedKey::of(name.as_str().as_bytes()),
            cells: before.map_or_else(fresh, |before| before.cells.clone()),
            quota,
            kept: None,
            name,
            regions,
        }
    }

    /// The same, keeping answers by these settings.
    pub(crate) fn keeping(
        mut self,
        fallback: Option<&Fallback>,
        store: &Arc<Store>,
        before: Option<&Self>,
    ) -> Self {
        let before = before.and_then(|before| before.kept.as_deref());
        self.kept = fallback.map(|fallback| Kept::new(*fallback, store, before));
        self
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for cell in &*self.cells {
            sum.add(&cell.counts.read());
        }
        sum
    }
}

/// One core's part of a service.
#[derive(Debug, Default)]
pub(crate) struct ServiceCell {
    pub(crate) counts: Counts,
    /// Of requests without a shed key.
    pub(crate) places: ByPriority,
    /// Which requests a drill takes.
    pub(crate) drilled: Places,
}

/// What admission needs to know about a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// How important it is.
    pub priority: Priority,
    /// Who is admitted together with it.
    pub key: Option<ShedKey>,
    /// Whose quota it uses, where each caller has one.
    pub caller: Option<ShedKey>,
    /// It may be a trial without harm.
    pub idempotent: bool,
}
