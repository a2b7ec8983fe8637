//! What one core knows of the configuration in force: its routes, and for each
//! backend the endpoints with this core's connections. Built when the
//! configuration changes; a request keeps the table it started with.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use breaker_core::ids::BackendName;
use fleet_config::{Endpoint, FleetConfig, Timeouts};
use tokio::time::Instant;

use crate::{
    admit::{
        backend::{Backend, BackendIndex},
        gate::CoreGate,
        snapshot::Snapshot,
    },
    backend::pool::Pool,
    probe::Unhealthy,
    request::{headers::Via, router::Router},
    serve::server::Edge,
};

/// One core's data plane.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) gate: CoreGate,
    pub(crate) edge: Edge,
    pub(crate) via: Via,
    cores: usize,
    table: RefCell<Rc<Table>>,
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
    pools: Vec<Rc<Pool>>,
    live: Arc<Backend>,
    usable: RefCell<Usable>,
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
        let table = Table::new(gate.snapshot(), cores, &HashMap::new());
        Rc::new(Self {
            via: Via::new(edge.agent.as_ref()),
            edge,
            cores,
            table: RefCell::new(Rc::new(table)),
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
        let next = Rc::new(Table::new(snapshot, self.cores, &current.pools()));
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
        let now = Instant::now();
        for pool in self.table().pools().values() {
            pool.sweep(now);
        }
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
    fn new(snapshot: Arc<Snapshot>, cores: usize, known: &HashMap<Endpoint, Rc<Pool>>) -> Self {
        let config = snapshot.config.as_deref();
        let upstreams = config.map(|config| upstreams(&snapshot, config, cores, known));
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
    known: &HashMap<Endpoint, Rc<Pool>>,
) -> HashMap<BackendIndex, Upstream> {
    let pool = |endpoint: &Endpoint| match known.get(endpoint) {
        Some(pool) => pool.clone(),
        None => Pool::new(endpoint.clone(), cores),
    };
    let upstream = |live: &Arc<Backend>| {
        let (service, backend) = config.backend(&live.name)?;
        let upstream = Upstream {
            name: live.name.clone(),
            timeouts: service.timeouts,
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

impl Upstream {
    /// The less loaded of two endpoints drawn at random among those that are
    /// healthy. If none is, all are: whether the backend is asked at all is for its
    /// breaker to say.
    pub(crate) fn pick(&self, roll: u64) -> Option<&Rc<Pool>> {
        let mut usable = self.usable.borrow_mut();
        let unhealthy = self.live.live.unhealthy.load();
        if !Arc::ptr_eq(&unhealthy, &usable.of) {
            *usable = self.sort_out(unhealthy.clone());
        }
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
