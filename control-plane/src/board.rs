//! What readers are shown: the state of each backend as the coordinator last saw
//! it, over all replicas. Readers never ask the store.

pub mod services;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use breaker_core::{
    AgentId, BackendName, Breaker, Counts, Evidence, Load, Timestamp, breaker::StateName,
    evidence::Suspect,
};
use bytes::Bytes;
use rampmeter_api::{
    convert::{
        duration,
        histogram::{self, Buckets},
    },
    v1,
};

use crate::{figures::SPAN, store::ReplicaView};

/// All backends, and services.
#[derive(Debug, Default)]
pub struct Board {
    backends: RwLock<BTreeMap<BackendName, Arc<Seen>>>,
    /// All services.
    pub services: services::Services,
}

/// One backend as last seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its committed breaker.
    pub breaker: Breaker,
    /// The encoded event that brought it where it is; may be empty.
    pub last_transition: Bytes,
    /// The evidence as of then; `None` before the first look.
    pub evidence: Option<Evidence>,
    /// Figures of all replicas.
    pub figures: ReplicaView,
    /// When the coordinator looks again because something is due.
    pub wake_at: Option<Timestamp>,
}

impl Board {
    /// One backend.
    pub fn get(&self, name: &BackendName) -> Option<Arc<Seen>> {
        self.read().get(name).cloned()
    }

    /// All backends, by name.
    pub fn all(&self) -> Vec<(BackendName, Arc<Seen>)> {
        let board = self.read();
        board
            .iter()
            .map(|(n, seen)| (n.clone(), seen.clone()))
            .collect()
    }

    /// Shows a backend; an older decision than is shown stays away.
    pub fn show(&self, name: &BackendName, seen: Seen) {
        let mut board = self
            .backends
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let newer = |held: &Arc<Seen>| held.breaker.version > seen.breaker.version;
        if !board.get(name).is_some_and(newer) {
            board.insert(name.clone(), Arc::new(seen));
        }
    }

    /// Shows a new decision, with everything else as it was.
    pub fn show_breaker(&self, name: &BackendName, breaker: &Breaker, last_transition: &Bytes) {
        let held = self.get(name);
        self.show(
            name,
            Seen {
                breaker: breaker.clone(),
                last_transition: last_transition.clone(),
                evidence: held.as_ref().and_then(|h| h.evidence.clone()),
                figures: held.as_ref().map(|h| h.figures.clone()).unwrap_or_default(),
                wake_at: held.and_then(|h| h.wake_at),
            },
        );
    }

    /// Keeps only these backends.
    pub fn retain(&self, keep: impl Fn(&BackendName) -> bool) {
        let mut board = self
            .backends
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        board.retain(|name, _| keep(name));
    }

    /// Backends for which an agent's evidence stands alone.
    pub fn suspect_for(&self, agent: &AgentId) -> Vec<String> {
        let board = self.read();
        let suspected = board.iter().filter(|(_, seen)| {
            let evidence = seen.evidence.as_ref();
            evidence.is_some_and(|e| e.suspects.iter().any(|s| s.agent == *agent))
        });
        suspected
            .map(|(name, _)| name.as_str().to_owned())
            .collect()
    }

    /// Backends whose fleet circuit is in a state.
    pub fn count(&self, state: StateName) -> usize {
        let board = self.read();
        board
            .values()
            .filter(|s| s.breaker.fleet.state() == state)
            .count()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<BackendName, Arc<Seen>>> {
        self.backends.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds up the views of replicas.
pub fn merge(views: impl IntoIterator<Item = ReplicaView>) -> ReplicaView {
    let mut sum = ReplicaView::default();
    let mut latency = BTreeMap::<u32, u32>::new();
    for view in views {
        sum.fleet.merge(&view.fleet);
        sum.max_retry_after = sum.max_retry_after.max(view.max_retry_after);
        sum.demand_milli = sum.demand_milli.saturating_add(view.demand_milli);
        sum.rejected_milli = sum.rejected_milli.saturating_add(view.rejected_milli);
        sum.in_flight = sum.in_flight.saturating_add(view.in_flight);
        add_latency(&mut latency, view.latency);
        sum.candidates.extend(view.candidates);
        sum.directed += view.directed;
        sum.accepted += view.accepted;
        sum.metered.merge(&view.metered);
        sum.endpoints.extend(view.endpoints);
    }
    sum.latency = latency.into_iter().collect();
    sum
}

fn add_latency(sum: &mut BTreeMap<u32, u32>, sparse: Vec<(u32, u32)>) {
    for (bucket, count) in sparse {
        let total = sum.entry(bucket).or_default();
        *total = total.saturating_add(count);
    }
}

/// What was asked of a backend and what it took, as the throttle counts it.
pub fn load(figures: &ReplicaView, suspects: &[Suspect], since: Timestamp, now: Timestamp) -> Load {
    let (view, metered) = (&figures.fleet, &figures.metered);
    Load::of(view, metered, figures.directed, suspects, since, now)
}

/// The last ten seconds, for people.
pub fn traffic(figures: &ReplicaView, now: Timestamp) -> v1::Traffic {
    let mut counts = Counts::default();
    for pop in &figures.fleet.pops {
        counts += pop.total.total_since(now - SPAN);
    }
    let buckets: Buckets = figures
        .latency
        .iter()
        .map(|(b, n)| (*b, u64::from(*n)))
        .collect();
    let latency = |share| {
        let micros = histogram::quantile(&buckets, share)?;
        Some(duration(Duration::from_micros(micros)))
    };
    let seconds = SPAN.as_secs_f64();
    let share = |n: u64| n as f64 / counts.requests as f64;
    v1::Traffic {
        outcomes: Some(v1::OutcomeCounts {
            requests: Some(counts.requests),
            failures: Some(counts.failures),
            overloads: Some(counts.overloads),
            slow_calls: Some(counts.slow),
        }),
        requests_per_second: counts.requests as f64 / seconds,
        demand_per_second: figures.demand_milli as f64 / 1000.0,
        rejected_per_second: figures.rejected_milli as f64 / 1000.0,
        failure_rate: (counts.requests > 0).then(|| share(counts.failures + counts.overloads)),
        latency_p50: latency(0.5),
        latency_p99: latency(0.99),
        in_flight: figures.in_flight,
    }
}
