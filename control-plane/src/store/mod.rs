//! Where replicas of the control plane meet.
//!
//! Replicas have no leader and never talk to each other: each writes what it
//! saw, reads what the others saw, and commits decisions by compare-and-set.
//! Everything else about them follows from this seam, so it is small and has
//! two implementations under one contract suite: `memory` (one process) and
//! `redis` (any number of replicas). Both give the same guarantees except that
//! memory ends with its process.
//!
//! What a caller may rely on:
//! * a [`Store`] is one replica's handle; it remembers the records that it has
//!   seen and commits them again when the store has lost them;
//! * the version of a backend or a service never decreases, whatever happens to
//!   the store;
//! * among commits on the same version one wins, the others get its record;
//! * every call ends within [`CALL_LIMIT`], and fails fast while the store is away;
//! * nothing is retried inside, and what decides may be repeated: registers are
//!   absolute, and a commit repeated after a lost answer is recognised.

mod codec;
mod events;
mod hints;
pub mod memory;
pub mod redis;
mod subject;
#[cfg(test)]
mod testing;
mod views;

use std::{fmt, sync::Arc, time::Duration};

use breaker_core::{
    AgentId, BackendName, Breaker, PopId, Steering, Timestamp, Version, ids::ServiceName,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use self::{
    events::{BadCursor, EventCursor, EventPage, EventQuery},
    hints::{Hint, Hints},
    subject::About,
    views::{CallerView, EndpointView, QuotaView, ReplicaView, ServiceView},
};

/// Registers and presence of a replica that was not heard of for this long are
/// gone: three calm syncs.
pub const REPLICA_TTL: Duration = Duration::from_secs(3);

/// No call takes longer. Above the link's own time-out of 250 ms, below the
/// time after which decisions made on its answer would be old.
pub const CALL_LIMIT: Duration = Duration::from_millis(300);

/// How long a new epoch over lost history takes no new decisions, so that each
/// live replica brings what it has seen first: one calm sync.
pub const REPAIR_GRACE: Duration = Duration::from_secs(1);

/// Epochs are Unix milliseconds when they can be, so a version above this is
/// nonsense: an agent that claims to hold such a decision is not believed.
pub const MAX_VERSION: Version = Version {
    epoch: 1 << 48,
    revision: 1 << 40,
};

/// Events kept for each group of backends and services; older ones are dropped.
/// About twenty outages of ten backends that share a group.
pub const EVENTS_KEPT: usize = 500;

/// Most events in one page: with evidence of a large fleet an event is some KiB.
pub const EVENTS_PAGE: usize = 1000;

/// Hints waiting for a slow reader; more are merged into [`Hint::Everything`].
pub const HINTS_KEPT: usize = 1024;

/// Opens the store that `url` names, as `replica`: `memory`, or
/// `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`.
///
/// A Redis that is out of reach is no error: the control plane starts without
/// it, serves what it knows, and the store comes to life by itself. One that
/// answers, but not as it must, is an error: waiting will not cure it.
pub async fn open(url: &str, replica: ReplicaId) -> Result<Arc<dyn Store>, OpenError> {
    match url {
        "memory" => Ok(Arc::new(memory::MemoryStore::new(replica))),
        _ => Ok(redis::RedisStore::open(url, replica).await?),
    }
}

/// Why a store cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The URL makes no sense.
    #[error("store {url:?}: {reason}")]
    Url {
        /// As given, without its password.
        url: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// It answers, but not as a Redis we can use.
    #[error("store {url}: {reason}")]
    Wrong {
        /// As given, without its password.
        url: String,
        /// What it answered, and what to do.
        reason: String,
    },
}

/// An answer of the store, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// One replica's handle to the place where replicas meet.
///
/// Each call fails with [`StoreError::Unavailable`] while the store is away:
/// then nothing may be decided for the fleet. After a lost answer a write may
/// or may not have happened; the next sync tells.
pub trait Store: Send + Sync {
    /// Writes this replica's registers, reads the other replicas' and the
    /// committed records: one round trip for each group of backends and services
    /// touched, all at once.
    ///
    /// Starts a new epoch, and commits again what this replica or its agents
    /// know, if the store turns out to have lost or changed its history.
    fn sync(&self, request: SyncRequest) -> Answer<'_, SyncReply>;

    /// Makes `next` the backend's record if its version still is `expected`
    /// ([`BackendState::version`]), and appends `events` in the same step.
    /// `next.breaker.version` is ignored: the store assigns the version.
    ///
    /// Fails with [`StoreError::Repairing`] for [`REPAIR_GRACE`] after history
    /// was lost. Commit changes only: an absent record is a breaker that was
    /// always closed, and a first commit ends the adoption of what agents hold.
    fn commit(
        &self,
        backend: BackendName,
        expected: Option<Version>,
        next: Record,
        events: Vec<Bytes>,
    ) -> Answer<'_, Commit>;

    /// As [`Store::commit`], for a service's record.
    fn commit_service(
        &self,
        service: ServiceName,
        expected: Option<Version>,
        next: Steering,
        events: Vec<Bytes>,
    ) -> Answer<'_, CommitService>;

    /// Appends events that come with no commit.
    /// Repeated after a lost answer, they may be listed twice, under one id.
    fn append(&self, about: About, events: Vec<Bytes>) -> Answer<'_, ()>;

    /// Events, newest first.
    fn events(&self, query: EventQuery) -> Answer<'_, EventPage>;

    /// The fleet file in force.
    fn config(&self) -> Answer<'_, Option<ConfigRecord>>;

    /// Makes `next` the fleet file in force if the revision still is `expected`
    /// (0: none), and appends `events` of the fleet in the same step.
    /// `next.revision` must be higher than `expected`, unless only the candidate
    /// differs.
    fn put_config(
        &self,
        expected: u64,
        next: ConfigRecord,
        events: Vec<Bytes>,
    ) -> Answer<'_, PutConfig>;

    /// Writes this replica's presence, for [`REPLICA_TTL`], and reads all live
    /// ones, this one included, ordered by id.
    fn heartbeat(&self, presence: Presence) -> Answer<'_, Vec<(ReplicaId, Presence)>>;

    /// What changed, as it changes, by any replica. Lossy: a hint says that a
    /// sync is worthwhile, the sync says what is true.
    fn hints(&self) -> Hints;
}

/// What went wrong, by what the caller can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Down, slow or out of reach: decide nothing, try again soon.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// History was lost and is being repaired: sync, then decide again.
    #[error("the store is being repaired after losing history")]
    Repairing,
    /// It answers, but not as our store: a person must look.
    #[error("{0}")]
    Wrong(String),
    /// What it holds cannot be read: a person must look.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// Stored bytes that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store's {key} cannot be read: {reason}")]
pub struct Corrupt {
    /// Which key, and which field of it.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// A replica of the control plane: unique for each start of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// Names a replica.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a replica brings to a sync, and wants from it.
#[derive(Debug, Clone, Default)]
pub struct SyncRequest {
    /// This replica's views, absolute. Write those with activity only: the
    /// others age out.
    pub registers: Vec<(BackendName, ReplicaView)>,
    /// Backends to read, besides those in `registers` and `held`.
    pub read: Vec<BackendName>,
    /// Decisions that agents hold, from their hello, with their versions. Each
    /// is adopted if it is newer than anything that this store's history has.
    pub held: Vec<(BackendName, Record)>,
    /// Services to read, with this replica's views of those with activity.
    pub services: Vec<(ServiceName, Option<ServiceView>)>,
    /// Decisions about services that agents hold, as `held`.
    pub held_services: Vec<(ServiceName, Steering)>,
}

impl SyncRequest {
    /// Takes the backends to read, with this replica's views, as services are given.
    fn backends(&mut self) -> Vec<(BackendName, Option<ReplicaView>)> {
        let read = self.read.drain(..).map(|name| (name, None));
        let registers = self.registers.drain(..);
        let registers = registers.map(|(name, view)| (name, Some(view)));
        read.chain(registers).collect()
    }
}

/// What a sync found.
#[derive(Debug, Clone, Default)]
pub struct SyncReply {
    /// The store's clock, which never goes back.
    pub now: Timestamp,
    /// One for each backend asked for, ordered by name.
    pub backends: Vec<BackendState>,
    /// One for each service asked for, ordered by name.
    pub services: Vec<ServiceState>,
    /// What could not be read, and was taken as absent.
    pub corrupt: Vec<Corrupt>,
}

/// What the store holds of one backend.
pub type BackendState = Current<BackendName, Record, ReplicaView>;

/// What the store holds of one service.
pub type ServiceState = Current<ServiceName, Steering, ServiceView>;

/// What the store holds of one backend or service.
#[derive(Debug, Clone)]
pub struct Current<N, R, V> {
    /// The backend or service.
    pub name: N,
    /// The epoch in which the next commit will be.
    pub epoch: u64,
    /// What the next commit has to expect.
    pub version: Option<Version>,
    /// The committed record; `None` if there is none, or it could not be read.
    pub record: Option<R>,
    /// The live views of the *other* replicas; the caller has its own.
    pub others: Vec<(ReplicaId, V)>,
}

/// What is committed for one backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its breaker.
    pub breaker: Breaker,
    /// What brought the fleet's circuit where it is: an encoded event, or empty.
    pub last_transition: Bytes,
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Commit<R = Record> {
    /// It is the record now, in this version.
    Done(Version),
    /// Somebody else was first: this is the record.
    Lost(Option<Box<R>>),
}

/// How a commit about a service ended.
pub type CommitService = Commit<Steering>;

/// How a change of the fleet file ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutConfig {
    /// It is in force.
    Done,
    /// Somebody else was first: this is in force.
    Lost(Option<Box<ConfigRecord>>),
}

/// The fleet file in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigRecord {
    /// Rises with every change.
    pub revision: u64,
    /// The file.
    pub yaml: String,
    /// When it was put in force.
    pub applied: Timestamp,
    /// Where it came from: a file's name or an operator.
    pub source: String,
    /// Digests of this and earlier files, newest first.
    pub digests: Vec<String>,
    /// Runs beside it, and nothing acts on it.
    pub candidate: Option<Candidate>,
}

/// A configuration that runs beside the one in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The file.
    pub yaml: String,
    /// When it was put beside the other.
    pub applied: Timestamp,
    /// Where it came from.
    pub source: String,
}

/// What a replica tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presence {
    /// Version of its software.
    pub version: String,
    /// The agents it serves.
    pub agents: Vec<AgentPresence>,
}

/// One agent, as its replica knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPresence {
    /// Its id.
    pub agent: AgentId,
    /// Unique for each start of its process.
    pub instance: String,
    /// Its POP.
    pub pop: PopId,
    /// Version of its software.
    pub version: String,
    /// Where it serves.
    pub address: String,
    /// Since when, by the store's clock.
    pub connected: Timestamp,
    /// When it was last heard of.
    pub heard: Timestamp,
    /// Round trip to it.
    pub round_trip: Duration,
    /// It applied all decisions.
    pub in_sync: bool,
    /// The fleet file it runs on.
    pub config_revision: u64,
    /// Why it did not apply a newer one; empty if it did.
    pub config_error: String,
}

/// Could it be the version of a record?
pub(crate) fn plausible(version: Version) -> bool {
    (1..=MAX_VERSION.epoch).contains(&version.epoch)
        && (1..=MAX_VERSION.revision).contains(&version.revision)
}
