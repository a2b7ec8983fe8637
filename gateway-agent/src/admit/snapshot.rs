//! What requests read: the configuration in force and its backends, swapped
//! whole. A backend that stays in the configuration keeps its recorders, its
//! number and its stance.

use std::{collections::HashMap, sync::Arc};

use breaker_core::ids::{BackendName, PopId, ServiceName};
use fleet_config::{CacheBytes, FleetConfig};
use tokio::sync::Notify;

use crate::{
    admit::{
        backend::{Backend, BackendIndex},
        service::Service,
    },
    cache::store::Store,
};

/// One configuration, ready for requests.
#[derive(Debug)]
pub struct Snapshot {
    /// Its revision; 0 when it came from a file of this host.
    pub revision: u64,
    /// The fleet file as validated; `None` until there is one.
    pub config: Option<Arc<FleetConfig>>,
    /// Each service, with its backends in the order this agent's POP prefers them.
    pub services: HashMap<ServiceName, Arc<Service>>,
    /// Answers kept by all services; the same in every snapshot.
    pub cache: Arc<Store>,
    /// Every backend ever configured, by number: a request that was routed by
    /// the snapshot before this one still finds its backend.
    backends: Vec<Arc<Backend>>,
}

impl Snapshot {
    /// Nothing is configured, and as many bytes are for kept answers as a host
    /// has without a file of its own.
    pub fn empty() -> Self {
        Self::with_cache(CacheBytes::default())
    }

    /// The same with so many bytes for kept answers.
    pub fn with_cache(bytes: CacheBytes) -> Self {
        Self {
            cache: Store::new(bytes.0),
            revision: 0,
            config: None,
            services: HashMap::new(),
            backends: Vec::new(),
        }
    }

    /// The next snapshot, with the backends that `self` knows already.
    pub fn next(
        &self,
        revision: u64,
        config: Arc<FleetConfig>,
        pop: &PopId,
        cores: usize,
        wake: &Arc<Notify>,
    ) -> Self {
        let mut backends = self.backends.clone();
        let mut known: HashMap<BackendName, BackendIndex> =
            backends.iter().map(|b| (b.name.clone(), b.index)).collect();
        for (name, service, backend) in config.backends() {
            let index = *known.entry(name.clone()).or_insert_with(|| {
                let index = BackendIndex(backends.len() as u32);
                let backend = Backend::new(name.clone(), index, cores, wake.clone());
                backends.push(Arc::new(backend));
                index
            });
            let live = &backends[index.0 as usize].live;
            live.configure(service, &backend.endpoints);
        }
        let services = config.services.iter().map(|(name, settings)| {
            let order = config.region_order(pop, name);
            let regions = order.map(|b| backends[known[&b.name].0 as usize].clone());
            let before = self.services.get(name).map(Arc::as_ref);
            let regions = regions.collect();
            let throttle = settings.throttle.as_ref();
            let service = Service::new(name.clone(), regions, throttle, cores, before);
            let service = service.keeping(settings.fallback.as_ref(), &self.cache, before);
            (name.clone(), Arc::new(service))
        });
        Self {
            revision,
            services: services.collect(),
            config: Some(config.clone()),
            cache: self.cache.clone(),
            backends,
        }
    }

    /// The backend of a number that some snapshot gave out.
    pub fn backend(&self, index: BackendIndex) -> &Arc<Backend> {
        &self.backends[index.0 as usize]
    }

    /// Every backend of the configuration in force.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let known = |b: &&Arc<Backend>| {
            let config = self.config.as_ref();
            config.is_some_and(|config| config.backend(&b.name).is_some())
        };
        self.backends.iter().filter(known)
    }
}
