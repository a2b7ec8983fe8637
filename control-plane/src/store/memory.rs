//! The store of a single process: the default, and what tests share.
//!
//! It ends with its process, so a restart looks like a store that lost
//! everything: the epoch, seeded with the time of the start, is higher than
//! before, and what agents still hold is adopted into it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use breaker_core::{BackendName, Steering, Timestamp, Version, ids::ServiceName};
use bytes::Bytes;
use tokio::{sync::broadcast, time::Instant};

use super::{
    Answer, BackendState, Commit, CommitService, ConfigRecord, EventCursor, EventPage, EventQuery,
    HINTS_KEPT, Hint, Hints, Presence, PutConfig, REPLICA_TTL, Record, ReplicaId, ReplicaView,
    Store, StoreError, SyncReply, SyncRequest, plausible,
};

/// Events kept in memory: at some KiB each, tens of MiB at most.
const EVENTS_KEPT: usize = 10_000;

/// One replica's handle to a store in this process.
#[derive(Clone)]
pub struct MemoryStore {
    replica: ReplicaId,
    shared: Arc<Shared>,
}

struct Shared {
    start: Instant,
    start_unix: Duration,
    state: Mutex<State>,
    hints: broadcast::Sender<Hint>,
}

#[derive(Default)]
struct State {
    epoch: u64,
    records: BTreeMap<BackendName, Kept>,
    registers: BTreeMap<BackendName, BTreeMap<ReplicaId, (Timestamp, ReplicaView)>>,
    replicas: BTreeMap<ReplicaId, (Timestamp, Presence)>,
    config: Option<ConfigRecord>,
    events: VecDeque<(EventCursor, Option<BackendName>, Bytes)>,
    appended: u64,
}

struct Kept {
    record: Record,
    /// Who committed it; `None` if it was adopted.
    by: Option<ReplicaId>,
    /// What it was before this epoch, while nothing was decided in this epoch.
    origin: Option<Version>,
}

impl MemoryStore {
    /// A new, empty store.
    pub fn new(replica: ReplicaId) -> Self {
        let start_unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let state = State {
            epoch: start_unix.as_millis().max(1) as u64,
            ..State::default()
        };
        let shared = Shared {
            start: Instant::now(),
            start_unix,
            state: Mutex::new(state),
            hints: broadcast::channel(HINTS_KEPT).0,
        };
        Self {
            replica,
            shared: Arc::new(shared),
        }
    }

    /// Another replica's handle to the same store.
    pub fn join(&self, replica: ReplicaId) -> Self {
        Self {
            replica,
            shared: self.shared.clone(),
        }
    }

    fn now(&self) -> Timestamp {
        let unix = self.shared.start_unix + self.shared.start.elapsed();
        Timestamp::from_millis(unix.as_millis() as u64)
    }

    /// Nothing here panics half-way through a change, so poison means nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn hint(&self, hint: Hint) {
        // Nobody listening is fine.
        let _ = self.shared.hints.send(hint);
    }
}

impl State {
    /// Takes over what an agent holds, if nothing newer is known. Says what
    /// changed by it.
    fn adopt(&mut self, name: &BackendName, mut held: Record) -> Option<Hint> {
        let version = held.breaker.version;
        let current = self.records.get(name).map(|k| k.record.breaker.version);
        let behind = version.epoch >= self.epoch && Some(version) > current;
        if !plausible(version) {
            return None;
        }
        if behind {
            self.start_epoch(version.epoch + 1);
        }
        let revision = match self.records.get(name) {
            None => version.revision.max(1),
            Some(kept) if kept.origin.is_some_and(|origin| version > origin) => version
                .revision
                .max(kept.record.breaker.version.revision + 1),
            Some(_) => return None,
        };
        let origin = Some(version);
        held.breaker.version = self.version(revision);
        let kept = Kept {
            record: held,
            by: None,
            origin,
        };
        self.records.insert(name.clone(), kept);
        Some(if behind {
            Hint::Everything
        } else {
            Hint::Backend(name.clone())
        })
    }

    fn start_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        for kept in self.records.values_mut() {
            kept.origin = Some(kept.record.breaker.version);
            kept.record.breaker.version.epoch = epoch;
        }
    }

    fn version(&self, revision: u64) -> Version {
        Version {
            epoch: self.epoch,
            revision,
        }
    }

    fn append(&mut self, now: Timestamp, backend: Option<&BackendName>, events: Vec<Bytes>) {
        for event in events {
            self.appended += 1;
            let cursor = EventCursor {
                millis: now.as_millis(),
                sequence: self.appended,
                group: 0,
            };
            self.events.push_back((cursor, backend.cloned(), event));
        }
        let excess = self.events.len().saturating_sub(EVENTS_KEPT);
        self.events.drain(..excess);
    }

    fn backend(&self, name: &BackendName, reader: &ReplicaId, oldest: Timestamp) -> BackendState {
        let record = self.records.get(name).map(|kept| kept.record.clone());
        let views = self.registers.get(name).into_iter().flatten();
        BackendState {
            name: name.clone(),
            epoch: self.epoch,
            version: record.as_ref().map(|record| record.breaker.version),
            record,
            others: views
                .filter(|(replica, (at, _))| *replica != reader && *at >= oldest)
                .map(|(replica, (_, view))| (replica.clone(), view.clone()))
                .collect(),
        }
    }
}

impl Store for MemoryStore {
    fn sync(&self, request: SyncRequest) -> Answer<'_, SyncReply> {
        Box::pin(async move {
            let mut state = self.state();
            let now = self.now();
            let mut names: BTreeSet<_> = request.read.into_iter().collect();
            for (name, held) in request.held {
                if let Some(hint) = state.adopt(&name, held) {
                    self.hint(hint);
                }
                names.insert(name);
            }
            for (name, view) in request.registers {
                let register = state.registers.entry(name.clone()).or_default();
                register.insert(self.replica.clone(), (now, view));
                names.insert(name);
            }
            let oldest = now - REPLICA_TTL;
            state.registers.retain(|_, register| {
                register.retain(|_, (at, _)| *at >= oldest);
                !register.is_empty()
            });
            let backends = names
                .iter()
                .map(|name| state.backend(name, &self.replica, oldest))
                .collect();
            Ok(SyncReply {
                now,
                backends,
                ..SyncReply::default()
            })
        })
    }

    fn commit(
        &self,
        backend: BackendName,
        expected: Option<Version>,
        mut next: Record,
        events: Vec<Bytes>,
    ) -> Answer<'_, Commit> {
        Box::pin(async move {
            let mut state = self.state();
            let version = state.version(expected.map_or(0, |version| version.revision) + 1);
            next.breaker.version = version;
            let current = state.records.get(&backend);
            if current.is_some_and(|c| c.by.as_ref() == Some(&self.replica) && c.record == next) {
                return Ok(Commit::Done(version));
            }
            if current.map(|c| c.record.breaker.version) != expected {
                let record = current.map(|c| Box::new(c.record.clone()));
                return Ok(Commit::Lost(record));
            }
            let kept = Kept {
                record: next,
                by: Some(self.replica.clone()),
                origin: None,
            };
            state.records.insert(backend.clone(), kept);
            state.append(self.now(), Some(&backend), events);
            self.hint(Hint::Backend(backend));
            Ok(Commit::Done(version))
        })
    }

    fn commit_service(
        &self,
        _: ServiceName,
        _: Option<Version>,
        _: Steering,
        _: Vec<Bytes>,
    ) -> Answer<'_, CommitService> {
        Box::pin(async { Err(StoreError::Wrong("not yet".to_owned())) })
    }

    fn append(&self, backend: Option<BackendName>, events: Vec<Bytes>) -> Answer<'_, ()> {
        Box::pin(async move {
            self.state().append(self.now(), backend.as_ref(), events);
            self.hint(backend.map_or(Hint::Events, Hint::Backend));
            Ok(())
        })
    }

    fn events(&self, query: EventQuery) -> Answer<'_, EventPage> {
        Box::pin(async move {
            let state = self.state();
            let older = |at: &EventCursor| query.before.is_none_or(|before| *at < before);
            let wanted = |of: &Option<BackendName>| query.backend.is_none() || *of == query.backend;
            let mut found = state
                .events
                .iter()
                .rev()
                .filter(|(at, of, _)| older(at) && wanted(of));
            let page: Vec<_> = found.by_ref().take(query.page_size()).collect();
            let next = page.last().map(|(at, ..)| *at);
            Ok(EventPage {
                events: page.iter().map(|(.., bytes)| bytes.clone()).collect(),
                next: next.filter(|_| found.next().is_some()),
            })
        })
    }

    fn config(&self) -> Answer<'_, Option<ConfigRecord>> {
        Box::pin(async move { Ok(self.state().config.clone()) })
    }

    fn put_config(
        &self,
        expected: u64,
        next: ConfigRecord,
        events: Vec<Bytes>,
    ) -> Answer<'_, PutConfig> {
        Box::pin(async move {
            let mut state = self.state();
            let current = state.config.as_ref();
            if current == Some(&next) {
                return Ok(PutConfig::Done);
            }
            if current.map_or(0, |config| config.revision) != expected {
                return Ok(PutConfig::Lost(current.cloned().map(Box::new)));
            }
            state.config = Some(next);
            state.append(self.now(), None, events);
            self.hint(Hint::Config);
            Ok(PutConfig::Done)
        })
    }

    fn heartbeat(&self, presence: Presence) -> Answer<'_, Vec<(ReplicaId, Presence)>> {
        Box::pin(async move {
            let mut state = self.state();
            let now = self.now();
            let mine = self.replica.clone();
            state.replicas.insert(mine, (now, presence));
            let oldest = now - REPLICA_TTL;
            state.replicas.retain(|_, (at, _)| *at >= oldest);
            let live = state.replicas.iter();
            Ok(live.map(|(id, (_, p))| (id.clone(), p.clone())).collect())
        })
    }

    fn hints(&self) -> Hints {
        Hints(self.shared.hints.subscribe())
    }
}

#[cfg(test)]
mod tests;
