//! One backend, as requests of every core meet it.

use std::sync::{
    Arc,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use breaker_core::{ids::BackendName, shed::ShedKey};
use fleet_config::{Endpoint, Scheme, Service};
use tokio::sync::Notify;

use crate::{
    admit::{places::ByPriority, queue::Queue, recorder::Recorder, stance::Stance},
    backend::{reach::Reach, tls::Tls},
};

/// A backend's number. Given once for each name and never reused while the
/// process lives, so it outlasts a swap of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendIndex(pub u32);

/// One backend, shared by the cores and the control side.
#[derive(Debug)]
pub struct Backend {
    /// `service/region`.
    pub name: BackendName,
    /// Its number.
    pub index: BackendIndex,
    pub(crate) live: Arc<Live>,
    /// One for each core.
    pub(crate) cells: Box<[Arc<Cell>]>,
}

impl Backend {
    /// A backend that lets everything pass until told otherwise.
    pub(crate) fn new(
        name: BackendName,
        index: BackendIndex,
        cores: usize,
        wake: Arc<Notify>,
    ) -> Self {
        let live = Arc::new(Live {
            name: name.clone(),
            index,
            salt: ShedKey::of(name.as_str().as_bytes()),
            stance: ArcSwap::from_pointee(Stance::pass()),
            reach: Reach::default(),
            tls: ArcSwapOption::empty(),
            max_connections: AtomicU32::new(1),
            in_flight: Apart(AtomicU32::new(0)),
            max_concurrency: AtomicU32::new(u32::MAX),
            queue: Queue::default(),
            slow_us: AtomicU64::new(u64::MAX),
            shuts: AtomicU32::new(0),
            wake,
        });
        let cell = |_| {
            Arc::new(Cell {
                recorder: Recorder::default(),
                places: ByPriority::default(),
                live: live.clone(),
            })
        };
        Self {
            name,
            index,
            cells: (0..cores).map(cell).collect(),
            live,
        }
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> u32 {
        self.live.in_flight.0.load(Relaxed)
    }
}

/// On cache lines of its own (two, because they are fetched in pairs): what one
/// core writes must not slow down what others read.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

/// What requests of every core read of one backend.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) name: BackendName,
    pub(crate) index: BackendIndex,
    /// Makes its cut of the requests independent of the plan's.
    pub(crate) salt: ShedKey,
    pub(crate) stance: ArcSwap<Stance>,
    /// Its endpoints.
    pub(crate) reach: Reach,
    /// How to speak TLS to them; `None`: none is an https one.
    pub(crate) tls: ArcSwapOption<Tls>,
    /// Connections to each endpoint, all cores together.
    pub(crate) max_connections: AtomicU32,
    /// Shared by all cores, because the limit is the agent's.
    in_flight: Apart<AtomicU32>,
    pub(crate) max_concurrency: AtomicU32,
    /// Who waits for a place in flight.
    pub(crate) queue: Queue,
    /// From when on a call is slow; `u64::MAX`: never.
    pub(crate) slow_us: AtomicU64,
    /// How often it stopped letting requests pass.
    pub(crate) shuts: AtomicU32,
    /// Wakes the reporter.
    pub(crate) wake: Arc<Notify>,
}

impl Live {
    /// Another request may be in flight.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.0.load(SeqCst) < self.max_concurrency.load(Relaxed)
    }

    /// Another configuration. TLS files are read here, away from requests.
    pub(crate) fn configure(&self, service: &Service, endpoints: &[Endpoint]) {
        let slow = service.breaker.slow_call_duration;
        let slow = slow.map_or(u64::MAX, |slow| slow.as_micros() as u64);
        self.slow_us.store(slow, Relaxed);
        let limits = &service.limits;
        self.max_concurrency.store(limits.max_concurrency, Relaxed);
        self.max_connections.store(limits.max_connections, Relaxed);
        self.queue.configure(limits);
        let https = endpoints.iter().any(|e| e.scheme == Scheme::Https);
        let before = self.tls.load();
        let same = before.as_ref().map(|tls| &tls.settings) == https.then_some(&service.tls);
        if !same {
            let tls = https.then(|| Arc::new(Tls::load(&service.tls)));
            if let Some(why) = tls.as_ref().and_then(|tls| tls.error()) {
                tracing::warn!("no TLS connection can be made to {}: {why}", self.name);
            }
            self.tls.store(tls);
        }
        // A connection under other TLS settings is not trusted any more.
        self.reach.configure(endpoints, service.ejection, !same);
    }
}

/// One core's part of a backend.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) recorder: Recorder,
    /// Of requests without a shed key.
    pub(crate) places: ByPriority,
    pub(crate) live: Arc<Live>,
}

impl Cell {
    /// Takes one of the backend's places in flight, if there is one, and if nobody
    /// else is to have it: who waited goes before who comes.
    pub(crate) fn enter(&self, waited: bool) -> bool {
        if !waited && self.live.queue.is_on() && self.live.queue.len() > 0 {
            return false;
        }
        let before = self.live.in_flight.0.fetch_add(1, SeqCst);
        let room = before < self.live.max_concurrency.load(Relaxed);
        if !room {
            self.live.in_flight.0.fetch_sub(1, SeqCst);
        }
        room
    }

    pub(crate) fn leave(&self) {
        self.live.in_flight.0.fetch_sub(1, SeqCst);
        self.live.queue.freed();
    }
}
