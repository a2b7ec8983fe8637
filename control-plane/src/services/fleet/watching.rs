//! Streams for readers. Each compares what is with what it has sent, so a slow
//! one skips intermediate states and nothing queues up.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use breaker_core::BackendName;
use rampmeter_api::v1::{self, watch_backends_response::Change};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Streamed, decode, render};
use crate::{
    plane::{Plane, until_set},
    services::status,
    store::{EventQuery, StoreError},
};

/// Streams of readers at a time: people and dashboards, not machines.
const WATCHERS: usize = 256;

/// Messages between a watcher's task and its connection.
const WAITING: usize = 16;

/// Events looked back for at each hint, and remembered as sent. More at once are
/// found with `ListEvents`.
const EVENTS: usize = 200;

/// Lost hints cost this much delay.
const LOOK: Duration = Duration::from_secs(2);

/// Room for watchers.
#[derive(Clone)]
pub(super) struct Watchers(Arc<Semaphore>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WATCHERS)))
    }
}

impl Watchers {
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.0.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{WATCHERS} streams of readers are open already");
            status::try_later(message, Duration::from_secs(5))
        })
    }
}

/// Every backend once, then every change.
pub(super) fn backends(
    plane: Arc<Plane>,
    service: String,
    watcher: OwnedSemaphorePermit,
) -> Streamed<v1::WatchBackendsResponse> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _watcher = watcher;
        let mut table = plane.table.watch();
        let mut sent = BTreeMap::new();
        loop {
            table.mark_unchanged();
            for change in changed(&plane, &service, &mut sent) {
                let message = v1::WatchBackendsResponse {
                    change: Some(change),
                };
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = table.changed() => {}
                () = sender.closed() => return,
                () = until_set(&plane.ending) => return,
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// What a watcher must be told: what differs in state, not in traffic.
fn changed(
    plane: &Plane,
    service: &str,
    sent: &mut BTreeMap<BackendName, v1::Backend>,
) -> Vec<Change> {
    let Some(fleet) = plane.fleet() else {
        return Vec::new();
    };
    let names = fleet.config.backends().map(|(name, ..)| name.clone());
    let names: BTreeSet<_> = names
        .filter(|n| service.is_empty() || n.service() == service)
        .collect();
    let mut changes = Vec::new();
    for gone in sent.keys().filter(|n| !names.contains(*n)) {
        changes.push(Change::Removed(gone.as_str().to_owned()));
    }
    sent.retain(|name, _| names.contains(name));
    for name in names {
        let Some(backend) = render::backend(plane, &fleet, &name) else {
            continue;
        };
        let told = v1::Backend {
            traffic: None,
            admission: None,
            trial_leases: Vec::new(),
            ..backend.clone()
        };
        if sent.get(&name) != Some(&told) {
            sent.insert(name, told);
            changes.push(Change::Backend(backend));
        }
    }
    changes
}

/// New events as they happen.
pub(super) async fn events(
    plane: Arc<Plane>,
    query: EventQuery,
    watcher: OwnedSemaphorePermit,
) -> Result<Streamed<v1::WatchEventsResponse>, StoreError> {
    let mut news = plane.news.subscribe();
    let mut sent = Sent::default();
    sent.new_of(latest(&plane, &query).await?);
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _watcher = watcher;
        loop {
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = sender.closed() => return,
                () = until_set(&plane.ending) => return,
            }
            // Late or away: tried again.
            let found = latest(&plane, &query).await.unwrap_or_default();
            for event in sent.new_of(found) {
                let message = v1::WatchEventsResponse { event: Some(event) };
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// The latest events, oldest first.
async fn latest(plane: &Plane, query: &EventQuery) -> Result<Vec<v1::Event>, StoreError> {
    let query = EventQuery {
        limit: EVENTS,
        ..query.clone()
    };
    let page = plane.events(query).await?;
    let mut events = decode(&page.events);
    events.reverse();
    Ok(events)
}

/// Ids of events that were sent, twice as many as one look can find.
#[derive(Default)]
struct Sent {
    ids: BTreeSet<String>,
    order: VecDeque<String>,
}

impl Sent {
    fn new_of(&mut self, found: Vec<v1::Event>) -> Vec<v1::Event> {
        let new: Vec<_> = found
            .into_iter()
            .filter(|e| self.ids.insert(e.id.clone()))
            .collect();
        self.order.extend(new.iter().map(|e| e.id.clone()));
        while self.order.len() > 2 * EVENTS {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
        new
    }
}
