//! What one core knows of the configuration in force: its routes, and for each
//! backend the endpoints with this core's connections. Built when the
//! configuration changes; a request keeps the table it started with.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use breaker_core::ids::{BackendName, ServiceName};
use fleet_config::{FleetConfig, HostLimits, Retry, Service, Timeouts, UpstreamProtocol};
use tokio::time::Instant;

use crate::{
    admit::{
        backend::{Backend, BackendIndex},
        gate::CoreGate,
        recorder::Tally,
        snapshot::Snapshot,
    },
    backend::{
        endpoints::{Endpoints, Share},
        retry::Budget,
    },
    cache::flight::Flights,
    limits::{LEAST_REQUESTS, REQUESTS_PER_CONNECTION},
    request::{headers::Via, router::Router},
    serve::{pulse::Crowd, server::Edge},
    sight::setup::CoreSight,
};

/// One core's data plane.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) gate: CoreGate,
    pub(crate) edge: Edge,
    pub(crate) via: Via,
    pub(crate) sight: CoreSight,
    share: Share,
    /// Running now.
    requests: Rc<Cell<u32>>,
    table: RefCell<Rc<Table>>,
    started: Instant,
    /// xorshift state: picks endpoints.
    dice: Cell<u64>,
    /// Misses of kept answers that wait for one another.
    pub(crate) flights: Rc<Flights>,
}

/// One configuration with this core's connections.
#[derive(Debug)]
pub(crate) struct Table {
    snapshot: Arc<Snapshot>,
    pub(crate) router: Router,
    upstreams: HashMap<BackendIndex, Upstream>,
}

/// One backend.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: BackendName,
    pub(crate) timeouts: Timeouts,
    /// `None`: there are none.
    pub(crate) retries: Option<Rc<Retries>>,
    pub(crate) endpoints: Rc<Endpoints>,
    /// HTTP/2 also for what is not gRPC.
    pub(crate) http2: bool,
    live: Arc<Backend>,
}

/// How one core retries a service's requests; the same for all its regions.
#[derive(Debug)]
pub(crate) struct Retries {
    pub(crate) settings: Retry,
    cores: usize,
    budget: RefCell<Budget>,
}

impl Retries {
    /// A request came.
    pub(crate) fn request(&self, second: u64) {
        self.budget.borrow_mut().request(second);
    }

    /// Takes a retry out of the budget, if one is left.
    pub(crate) fn take(&self, second: u64) -> bool {
        let percent = self.settings.budget_percent;
        self.budget.borrow_mut().take(second, percent, self.cores)
    }
}

impl Core {
    pub(crate) fn new(gate: CoreGate, cores: usize, edge: Edge) -> Rc<Self> {
        let share = Share {
            core: gate.core(),
            cores,
        };
        let table = Table::new(gate.snapshot(), share, None);
        let sight = edge.sight.core(gate.core());
        Rc::new(Self {
            via: Via::new(edge.agent.as_ref()),
            edge,
            sight,
            share,
            requests: Rc::default(),
            table: RefCell::new(Rc::new(table)),
            started: Instant::now(),
            dice: Cell::new(0x9e37_79b9_7f4a_7c15 ^ gate.core() as u64),
            flights: Rc::default(),
            gate,
        })
    }

    /// The table of the configuration in force.
    pub(crate) fn table(&self) -> Rc<Table> {
        let current = self.table.borrow().clone();
        if self.gate.is_current(&current.snapshot) {
            return current;
        }
        let snapshot = self.gate.snapshot();
        let next = Rc::new(Table::new(snapshot, self.share, Some(&current)));
        for (index, upstream) in &current.upstreams {
            if !next.upstreams.contains_key(index) {
                upstream.endpoints.retire();
            }
        }
        *self.table.borrow_mut() = next.clone();
        next
    }

    /// This core's requests, and how many of them connections under `limits` may
    /// make.
    pub(crate) fn crowd(&self, limits: &HostLimits) -> Crowd {
        let allowed = limits
            .max_connections
            .saturating_mul(REQUESTS_PER_CONNECTION);
        let cores = u32::try_from(self.share.cores.max(1)).unwrap_or(u32::MAX);
        Crowd::new(self.requests.clone(), (allowed / cores).max(LEAST_REQUESTS))
    }

    /// Closes connections that have idled for too long.
    pub(crate) fn sweep(&self) {
        self.sight.refresh();
        for upstream in self.table().upstreams.values() {
            upstream.endpoints.sweep();
        }
    }

    /// Whole seconds since the start.
    pub(crate) fn second(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// A number that is random enough to spread load.
    pub(crate) fn roll(&self) -> u64 {
        let mut x = self.dice.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.dice.set(x);
        x
    }
}

impl Table {
    /// `before` is the one that it replaces.
    fn new(snapshot: Arc<Snapshot>, share: Share, before: Option<&Self>) -> Self {
        let config = snapshot.config.as_deref();
        let upstreams = config.map(|config| upstreams(&snapshot, config, share, before));
        Self {
            router: config
                .map(|config| Router::new(config, &snapshot.services))
                .unwrap_or_default(),
            upstreams: upstreams.unwrap_or_default(),
            snapshot,
        }
    }

    /// The backend of an index that this table's router gave.
    pub(crate) fn upstream(&self, index: BackendIndex) -> Option<&Upstream> {
        self.upstreams.get(&index)
    }
}

fn upstreams(
    snapshot: &Snapshot,
    config: &FleetConfig,
    share: Share,
    before: Option<&Table>,
) -> HashMap<BackendIndex, Upstream> {
    let retries: HashMap<_, _> = config
        .services
        .iter()
        .map(|(name, service)| (name.clone(), retries(service, name, share.cores, before)))
        .collect();
    let upstream = |live: &Arc<Backend>| {
        let (service, _) = config.backend(&live.name)?;
        let known = before.and_then(|table| table.upstream(live.index));
        let upstream = Upstream {
            name: live.name.clone(),
            timeouts: service.timeouts,
            retries: retries.get(live.name.service()).cloned().flatten(),
            endpoints: match known {
                Some(known) => known.endpoints.clone(),
                None => Endpoints::new(live.live.clone(), share),
            },
            http2: service.protocol == UpstreamProtocol::Http2,
            live: live.clone(),
        };
        Some((live.index, upstream))
    };
    snapshot.backends().filter_map(upstream).collect()
}

/// How a service is retried; its budget goes on where it was.
fn retries(
    service: &Service,
    name: &ServiceName,
    cores: usize,
    before: Option<&Table>,
) -> Option<Rc<Retries>> {
    let settings = service
        .retry
        .as_ref()
        .filter(|retry| retry.max_retries > 0)?;
    let mut upstreams = before.iter().flat_map(|table| table.upstreams.values());
    let same = upstreams.find(|upstream| upstream.name.service() == name.as_str());
    let budget = same.and_then(|same| Some(same.retries.as_ref()?.budget.borrow().clone()));
    Some(Rc::new(Retries {
        settings: settings.clone(),
        cores,
        budget: RefCell::new(budget.unwrap_or_default()),
    }))
}

impl Upstream {
    /// Its number.
    pub(crate) fn index(&self) -> BackendIndex {
        self.live.index
    }

    /// Counts one of this core's.
    pub(crate) fn count(&self, core: &Core, tally: Tally) {
        self.live.cells[core.gate.core()].recorder.count(tally);
    }
}
