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
use fleet_config::{Endpoint, FleetConfig, Retry, Service, Timeouts};
use tokio::time::Instant;

use crate::{
    admit::{
        backend::{Backend, BackendIndex},
        gate::CoreGate,
        recorder::Tally,
        snapshot::Snapshot,
    },
    backend::{pool::Pool, retry::Budget},
    probe::Unhealthy,
    request::{headers::Via, router::Router},
    serve::server::Edge,
    sight::setup::CoreSight,
};

/// One core's data plane.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) gate: CoreGate,
    pub(crate) edge: Edge,
    pub(crate) via: Via,
    pub(crate) sight: CoreSight,
    cores: usize,
    table: RefCell<Rc<Table>>,
    started: Instant,
    /// xorshift state: picks endpoints.
    dice: Cell<u64>,
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
    pools: Vec<Rc<Pool>>,
    live: Arc<Backend>,
    usable: RefCell<Usable>,
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

/// Which of an upstream's pools health checks leave.
#[derive(Debug)]
struct Usable {
    of: Arc<Unhealthy>,
    /// Places in `Upstream::pools`.
    pools: Vec<usize>,
}

impl Core {
    pub(crate) fn new(gate: CoreGate, cores: usize, edge: Edge) -> Rc<Self> {
        let table = Table::new(gate.snapshot(), cores, None);
        let sight = edge.sight.core(gate.core());
        Rc::new(Self {
            via: Via::new(edge.agent.as_ref()),
            edge,
            sight,
            cores,
            table: RefCell::new(Rc::new(table)),
            started: Instant::now(),
            dice: Cell::new(0x9e37_79b9_7f4a_7c15 ^ gate.core() as u64),
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
        let next = Rc::new(Table::new(snapshot, self.cores, Some(&current)));
        let kept = next.pools();
        for (endpoint, pool) in current.pools() {
            if !kept.contains_key(&endpoint) {
                pool.retire();
            }
        }
        *self.table.borrow_mut() = next.clone();
        next
    }

    /// Closes connections that have idled for too long.
    pub(crate) fn sweep(&self) {
        self.sight.refresh();
        let now = Instant::now();
        for pool in self.table().pools().values() {
            pool.sweep(now);
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
    fn new(snapshot: Arc<Snapshot>, cores: usize, before: Option<&Self>) -> Self {
        let config = snapshot.config.as_deref();
        let upstreams = config.map(|config| upstreams(&snapshot, config, cores, before));
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

    fn pools(&self) -> HashMap<Endpoint, Rc<Pool>> {
        let pools = self.upstreams.values().flat_map(|upstream| &upstream.pools);
        pools
            .map(|pool| (pool.endpoint.clone(), pool.clone()))
            .collect()
    }
}

fn upstreams(
    snapshot: &Snapshot,
    config: &FleetConfig,
    cores: usize,
    before: Option<&Table>,
) -> HashMap<BackendIndex, Upstream> {
    let known = before.map(Table::pools).unwrap_or_default();
    let retries: HashMap<_, _> = config
        .services
        .iter()
        .map(|(name, service)| (name.clone(), retries(service, name, cores, before)))
        .collect();
    let pool = |endpoint: &Endpoint| match known.get(endpoint) {
        Some(pool) => pool.clone(),
        None => Pool::new(endpoint.clone(), cores),
    };
    let upstream = |live: &Arc<Backend>| {
        let (service, backend) = config.backend(&live.name)?;
        let upstream = Upstream {
            name: live.name.clone(),
            timeouts: service.timeouts,
            retries: retries.get(live.name.service()).cloned().flatten(),
            pools: backend.endpoints.iter().map(pool).collect(),
            live: live.clone(),
            usable: RefCell::new(Usable {
                of: Arc::default(),
                pools: (0..backend.endpoints.len()).collect(),
            }),
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

    /// There is an endpoint that requests may use and that is not among these.
    pub(crate) fn has_other(&self, tried: &[&Rc<Pool>]) -> bool {
        self.refresh();
        let usable = self.usable.borrow();
        let mut pools = usable.pools.iter().map(|at| &self.pools[*at]);
        pools.any(|pool| !is_among(pool, tried))
    }

    /// One that is not among these, if there is one, else any.
    pub(crate) fn pick_other(&self, roll: u64, tried: &[&Rc<Pool>]) -> Option<&Rc<Pool>> {
        self.refresh();
        let usable = self.usable.borrow();
        let untried = |at: &&usize| !is_among(&self.pools[**at], tried);
        let count = usable.pools.iter().filter(untried).count();
        if count == 0 {
            drop(usable);
            return self.pick(roll);
        }
        let nth = (roll % count as u64) as usize;
        let at = usable.pools.iter().filter(untried).nth(nth)?;
        self.pools.get(*at)
    }

    /// The less loaded of two endpoints drawn at random among those that are
    /// healthy. If none is, all are: whether the backend is asked at all is for its
    /// breaker to say.
    pub(crate) fn pick(&self, roll: u64) -> Option<&Rc<Pool>> {
        self.refresh();
        let usable = self.usable.borrow();
        let count = usable.pools.len() as u64;
        let pool = |at: u64| self.pools.get(usable.pools[at as usize]);
        if count < 2 {
            return (count == 1).then(|| pool(0)).flatten();
        }
        let first = roll % count;
        let second = (first + 1 + (roll >> 32) % (count - 1)) % count;
        let (first, second) = (pool(first)?, pool(second)?);
        Some(match second.in_flight() < first.in_flight() {
            true => second,
            false => first,
        })
    }

    /// Looks at what health checks say now.
    fn refresh(&self) {
        let mut usable = self.usable.borrow_mut();
        let unhealthy = self.live.live.unhealthy.load();
        if !Arc::ptr_eq(&unhealthy, &usable.of) {
            *usable = self.sort_out(unhealthy.clone());
        }
    }

    fn sort_out(&self, unhealthy: Arc<Unhealthy>) -> Usable {
        let healthy = |at: &usize| !unhealthy.0.contains(&self.pools[*at].endpoint.to_string());
        let mut pools: Vec<_> = (0..self.pools.len()).filter(healthy).collect();
        if pools.is_empty() {
            pools = (0..self.pools.len()).collect();
        }
        Usable {
            of: unhealthy,
            pools,
        }
    }
}

fn is_among(pool: &Rc<Pool>, others: &[&Rc<Pool>]) -> bool {
    others.iter().any(|other| Rc::ptr_eq(pool, other))
}
