//! What the parts of one replica share.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use breaker_core::{BackendName, breaker::TrialOutcome, ids::ServiceName};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    adoption::Held,
    agents::Agents,
    board::Board,
    candidate::Candidates,
    clock::Clock,
    config::Fleet,
    figures::Figures,
    metrics::Metrics,
    peers::Peers,
    quota::Quotas,
    store::{Answer, EventPage, EventQuery, ReplicaId, Store, StoreError, SyncReply, SyncRequest},
    stream::{HelloLimit, asking::Asked},
    table::Table,
};

/// Trial results waiting for the coordinator. Leases are few: who sends more
/// makes them up, and a lost one only lets its lease run out.
const TRIALS_WAITING: usize = 1024;

/// One replica of the control plane.
pub struct Plane {
    /// Its name.
    pub name: ReplicaId,
    /// Where replicas meet.
    pub store: Arc<dyn Store>,
    /// The store's address, without credentials.
    pub store_name: String,
    /// The store's clock.
    pub clock: Clock,
    /// The configuration in force; `None` until there is one.
    pub fleet: watch::Sender<Option<Arc<Fleet>>>,
    /// The decisions in force.
    pub table: Table,
    /// This replica's agents.
    pub agents: Agents,
    /// What they saw.
    pub figures: Figures,
    /// What they want of quotas, and what other replicas' agents do.
    pub quotas: Quotas,
    /// Which backends agents were asked about.
    pub asked: Asked,
    /// What readers are shown.
    pub board: Board,
    /// What the candidate configuration would have done.
    pub candidates: Candidates,
    /// How fast agents are let in.
    pub hellos: HelloLimit,
    /// Other replicas and their agents.
    pub peers: Peers,
    /// What agents hold and the store was not told yet.
    pub held: Held,
    /// What the coordinator must look at now.
    pub mailbox: Mailbox,
    /// Counters for Prometheus.
    pub metrics: Metrics,
    /// The store answers.
    pub store_up: watch::Sender<bool>,
    /// Decisions may be sent: what agents hold has been gathered.
    pub settled: watch::Sender<bool>,
    /// Rises when there are new events.
    pub news: watch::Sender<u64>,
    /// The process ends.
    pub ending: watch::Sender<bool>,
}

impl Plane {
    /// A replica that has not started yet.
    pub fn new(name: ReplicaId, store: Arc<dyn Store>, store_name: String) -> Self {
        Self {
            name,
            store,
            store_name,
            clock: Clock::new(),
            fleet: watch::Sender::new(None),
            table: Table::new(),
            agents: Agents::default(),
            figures: Figures::default(),
            quotas: Quotas::default(),
            asked: Asked::default(),
            board: Board::default(),
            candidates: Candidates::default(),
            hellos: HelloLimit::default(),
            peers: Peers::default(),
            held: Held::default(),
            mailbox: Mailbox::default(),
            metrics: Metrics::default(),
            store_up: watch::Sender::new(true),
            settled: watch::Sender::new(false),
            news: watch::Sender::new(0),
            ending: watch::Sender::new(false),
        }
    }

    /// The configuration in force.
    pub fn fleet(&self) -> Option<Arc<Fleet>> {
        self.fleet.borrow().clone()
    }

    /// Syncs with the store and sets the clock by its answer. Brings along what
    /// agents hold.
    pub async fn sync(&self, mut request: SyncRequest) -> Result<SyncReply, StoreError> {
        let start = Instant::now();
        let fleet = self.fleet();
        if let Some(fleet) = fleet {
            request.held.extend(self.held.records(&fleet));
            let services = self.held.services(&fleet, self.clock.now());
            request.held_services.extend(services);
        }
        let (held, services) = (request.held.clone(), request.held_services.clone());
        let reply = self.ask("sync", self.store.sync(request)).await?;
        self.held.told(&held, &services);
        self.clock.set(reply.now, start.elapsed());
        for corrupt in &reply.corrupt {
            tracing::error!(%corrupt, "taken as absent");
        }
        Ok(reply)
    }

    /// Waits for a page of events. For people, of many keys, and so apt to be late
    /// first: whether the store is up is for what decides to say.
    pub async fn events(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        self.measure("events", self.store.events(query)).await
    }

    async fn measure<T>(&self, call: &'static str, answer: Answer<'_, T>) -> Result<T, StoreError> {
        let start = Instant::now();
        let result = answer.await;
        self.metrics
            .store_call(call, result.is_ok(), start.elapsed());
        result
    }

    /// Waits for an answer of the store, and notes whether it is up.
    pub async fn ask<T>(&self, call: &'static str, answer: Answer<'_, T>) -> Result<T, StoreError> {
        let result = self.measure(call, answer).await;
        match &result {
            Ok(_) | Err(StoreError::Repairing | StoreError::Corrupt(_)) => self.set_store_up(None),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Wrong(_))) => {
                self.set_store_up(Some(error));
            }
        }
        result
    }

    fn set_store_up(&self, error: Option<&StoreError>) {
        let up = error.is_none();
        let changed = self
            .store_up
            .send_if_modified(|was| std::mem::replace(was, up) != up);
        if !changed {
            return;
        }
        self.table.set_store_unavailable(!up);
        match error {
            None => tracing::info!(store = %self.store_name, "the store is back"),
            Some(error) => tracing::warn!(
                store = %self.store_name, %error,
                "the store is away: the last decisions stay in force, local breakers act"
            ),
        }
    }
}

/// A trial's end, as an agent told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialAnswer {
    /// The backend.
    pub backend: BackendName,
    /// The lease.
    pub lease: String,
    /// How it ended.
    pub outcome: TrialOutcome,
}

/// What the coordinator must look at now. Bounded: one entry for each backend
/// and service, and [`TRIALS_WAITING`] trials.
#[derive(Debug, Default)]
pub struct Mailbox {
    letters: Mutex<Letters>,
    arrived: Notify,
}

/// What has arrived.
#[derive(Debug, Default)]
pub struct Letters {
    /// Backends to look at, without waiting for their turn.
    pub urgent: BTreeSet<BackendName>,
    /// Services to look at.
    pub services: BTreeSet<ServiceName>,
    /// Trials that ended.
    pub trials: Vec<TrialAnswer>,
}

impl Mailbox {
    /// Look at these backends now.
    pub fn urge(&self, backends: impl IntoIterator<Item = BackendName>) {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let before = letters.urgent.len();
        letters.urgent.extend(backends);
        if letters.urgent.len() > before {
            self.arrived.notify_one();
        }
    }

    /// Look at these services now.
    pub fn urge_services(&self, services: impl IntoIterator<Item = ServiceName>) {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let before = letters.services.len();
        letters.services.extend(services);
        if letters.services.len() > before {
            self.arrived.notify_one();
        }
    }

    /// A trial ended; `false` if there is no room.
    pub fn trial(&self, answer: TrialAnswer) -> bool {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        if letters.trials.len() >= TRIALS_WAITING {
            return false;
        }
        letters.trials.push(answer);
        self.arrived.notify_one();
        true
    }

    /// Waits until something arrives.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes everything.
    pub fn take(&self) -> Letters {
        std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits until a flag is set.
pub async fn until_set(flag: &watch::Sender<bool>) {
    // The sender is borrowed, so it lives, and the wait cannot fail.
    let _ = flag.subscribe().wait_for(|set| *set).await;
}

/// Waits, but not past the end of the process; `false` if it ends.
pub async fn pause(plane: &Plane, wait: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        () = until_set(&plane.ending) => false,
    }
}
