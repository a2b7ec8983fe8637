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
    About, Answer, Commit, CommitService, ConfigRecord, Current, EventCursor, EventPage,
    EventQuery, HINTS_KEPT, Hint, Hints, Presence, PutConfig, REPLICA_TTL, Record, ReplicaId,
    Store, SyncReply, SyncRequest, plausible, subject::Subject,
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
    backends: Table<BackendName>,
    services: Table<ServiceName>,
    replicas: BTreeMap<ReplicaId, (Timestamp, Presence)>,
    config: Option<ConfigRecord>,
    events: VecDeque<(EventCursor, About, Bytes)>,
    appended: u64,
}

/// What is kept of backends, or of services.
struct Table<S: Subject> {
    records: BTreeMap<S, Kept<S::Record>>,
    registers: BTreeMap<S, BTreeMap<ReplicaId, (Timestamp, S::View)>>,
}

struct Kept<R> {
    record: R,
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

    fn commit_record<S: Tabled>(
        &self,
        name: S,
        expected: Option<Version>,
        mut next: S::Record,
        events: Vec<Bytes>,
    ) -> Commit<S::Record> {
        let mut state = self.state();
        let version = state.version(expected.map_or(0, |version| version.revision) + 1);
        S::set_version(&mut next, version);
        let table = S::table(&mut state);
        let current = table.records.get(&name);
        if current.is_some_and(|c| c.by.as_ref() == Some(&self.replica) && c.record == next) {
            return Commit::Done(version);
        }
        if table.version(&name) != expected {
            return Commit::Lost(current.map(|c| Box::new(c.record.clone())));
        }
        let kept = Kept {
            record: next,
            by: Some(self.replica.clone()),
            origin: None,
        };
        table.records.insert(name.clone(), kept);
        let about: About = name.into();
        state.append(self.now(), &about, events);
        self.hint(about.into());
        Commit::Done(version)
    }
}

/// Where the state of its kind is.
trait Tabled: Subject {
    fn table(state: &mut State) -> &mut Table<Self>;
}

impl Tabled for BackendName {
    fn table(state: &mut State) -> &mut Table<Self> {
        &mut state.backends
    }
}

impl Tabled for ServiceName {
    fn table(state: &mut State) -> &mut Table<Self> {
        &mut state.services
    }
}

impl<S: Subject> Default for Table<S> {
    fn default() -> Self {
        Self {
            records: BTreeMap::new(),
            registers: BTreeMap::new(),
        }
    }
}

impl<S: Subject> Table<S> {
    fn version(&self, name: &S) -> Option<Version> {
        let kept = self.records.get(name)?;
        Some(S::version(&kept.record))
    }

    fn start_epoch(&mut self, epoch: u64) {
        for kept in self.records.values_mut() {
            let version = S::version(&kept.record);
            kept.origin = Some(version);
            S::set_version(&mut kept.record, Version { epoch, ..version });
        }
    }

    fn write(&mut self, name: &S, replica: &ReplicaId, now: Timestamp, view: S::View) {
        let register = self.registers.entry(name.clone()).or_default();
        register.insert(replica.clone(), (now, view));
    }

    fn drop_older(&mut self, oldest: Timestamp) {
        self.registers.retain(|_, register| {
            register.retain(|_, (at, _)| *at >= oldest);
            !register.is_empty()
        });
    }

    fn current(&self, name: S, epoch: u64, reader: &ReplicaId) -> Current<S, S::Record, S::View> {
        let record = self.records.get(&name).map(|kept| kept.record.clone());
        let views = self.registers.get(&name).into_iter().flatten();
        Current {
            epoch,
            version: self.version(&name),
            record,
            others: views
                .filter(|(replica, _)| *replica != reader)
                .map(|(replica, (_, view))| (replica.clone(), view.clone()))
                .collect(),
            name,
        }
    }
}

/// What a sync asks of one kind: names, with the views to write.
type Asked<S> = Vec<(S, Option<<S as Subject>::View>)>;

impl State {
    /// Takes over what agents hold, and asks for it.
    fn adopt_all<S: Tabled>(
        &mut self,
        held: Vec<(S, S::Record)>,
        asked: &mut Asked<S>,
    ) -> Vec<Hint> {
        let adopt = |(name, held): (S, S::Record)| {
            asked.push((name.clone(), None));
            self.adopt(name, held)
        };
        held.into_iter().filter_map(adopt).collect()
    }

    /// Takes over what an agent holds, if nothing newer is known. Says what
    /// changed by it.
    fn adopt<S: Tabled>(&mut self, name: S, mut held: S::Record) -> Option<Hint> {
        let version = S::version(&held);
        if !plausible(version) {
            return None;
        }
        let current = S::table(self).version(&name);
        let behind = version.epoch >= self.epoch && Some(version) > current;
        if behind {
            self.start_epoch(version.epoch + 1);
        }
        let revision = match S::table(self).records.get(&name) {
            None => version.revision.max(1),
            Some(kept) if kept.origin.is_some_and(|origin| version > origin) => {
                let current = S::version(&kept.record);
                version.revision.max(current.revision + 1)
            }
            Some(_) => return None,
        };
        S::set_version(&mut held, self.version(revision));
        let kept = Kept {
            record: held,
            by: None,
            origin: Some(version),
        };
        S::table(self).records.insert(name.clone(), kept);
        Some(if behind {
            Hint::Everything
        } else {
            name.into().into()
        })
    }

    fn start_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.backends.start_epoch(epoch);
        self.services.start_epoch(epoch);
    }

    /// Writes the views of `asked`, and reads what it names, ordered by name.
    fn exchange<S: Tabled>(
        &mut self,
        asked: Asked<S>,
        replica: &ReplicaId,
        now: Timestamp,
    ) -> Vec<Current<S, S::Record, S::View>> {
        let epoch = self.epoch;
        let table = S::table(self);
        let mut names = BTreeSet::new();
        for (name, view) in asked {
            if let Some(view) = view {
                table.write(&name, replica, now, view);
            }
            names.insert(name);
        }
        table.drop_older(now - REPLICA_TTL);
        let current = |name| table.current(name, epoch, replica);
        names.into_iter().map(current).collect()
    }

    fn version(&self, revision: u64) -> Version {
        Version {
            epoch: self.epoch,
            revision,
        }
    }

    fn append(&mut self, now: Timestamp, about: &About, events: Vec<Bytes>) {
        for event in events {
            self.appended += 1;
            let cursor = EventCursor {
                millis: now.as_millis(),
                sequence: self.appended,
                group: 0,
            };
            self.events.push_back((cursor, about.clone(), event));
        }
        let excess = self.events.len().saturating_sub(EVENTS_KEPT);
        self.events.drain(..excess);
    }
}

impl Store for MemoryStore {
    fn sync(&self, mut request: SyncRequest) -> Answer<'_, SyncReply> {
        Box::pin(async move {
            let mut state = self.state();
            let now = self.now();
            let (mut backends, mut services) = (request.backends(), request.services);
            // First all that is held: it may start a new epoch for everything.
            let mut hints = state.adopt_all(request.held, &mut backends);
            hints.extend(state.adopt_all(request.held_services, &mut services));
            for hint in hints {
                self.hint(hint);
            }
            Ok(SyncReply {
                now,
                backends: state.exchange(backends, &self.replica, now),
                services: state.exchange(services, &self.replica, now),
                corrupt: Vec::new(),
            })
        })
    }

    fn commit(
        &self,
        backend: BackendName,
        expected: Option<Version>,
        next: Record,
        events: Vec<Bytes>,
    ) -> Answer<'_, Commit> {
        Box::pin(async move { Ok(self.commit_record(backend, expected, next, events)) })
    }

    fn commit_service(
        &self,
        service: ServiceName,
        expected: Option<Version>,
        next: Steering,
        events: Vec<Bytes>,
    ) -> Answer<'_, CommitService> {
        Box::pin(async move { Ok(self.commit_record(service, expected, next, events)) })
    }

    fn append(&self, about: About, events: Vec<Bytes>) -> Answer<'_, ()> {
        Box::pin(async move {
            self.state().append(self.now(), &about, events);
            self.hint(about.into());
            Ok(())
        })
    }

    fn events(&self, query: EventQuery) -> Answer<'_, EventPage> {
        Box::pin(async move {
            let state = self.state();
            let older = |at: &EventCursor| query.before.is_none_or(|before| *at < before);
            let about = query.about();
            let wanted = |of: &About| about.as_ref().is_none_or(|about| of == about);
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
            state.append(self.now(), &About::Fleet, events);
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
