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
pub mod memory;
pub mod redis;
mod subject;
#[cfg(test)]
mod testing;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use breaker_core::{
    AgentId, BackendName, Breaker, ByPriority, FleetView, PopId, Steering, Timestamp, Version,
    Window, breaker::TrialCandidate, ids::ServiceName, plan::RegionOrder,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::broadcast;

pub use self::subject::About;

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

/// What one replica knows of one backend from its own agents. Views add up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplicaView {
    /// Evidence; its `agents_known` and `agents_reporting` are this replica's.
    pub fleet: FleetView,
    /// The largest Retry-After of the backend.
    pub max_retry_after: Option<Duration>,
    /// Requests that wanted it, per second, in thousandths.
    pub demand_milli: u64,
    /// Of those, refused by us.
    pub rejected_milli: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Latencies: (bucket of `breaker_core::histogram`, count), by bucket.
    pub latency: Vec<(u32, u32)>,
    /// A few agents that could run a trial.
    pub candidates: Vec<TrialCandidate>,
    /// Demand that was sent here by the plan, requests a second over the last ten.
    pub directed: ByPriority,
    /// Of that, completed without overload, requests a second over the last ten.
    pub accepted: f64,
    /// Requests refused by the throttle, the ramp or an agent's limit; the latter
    /// are its overloads. See `breaker_core::Load`.
    pub metered: Window,
    /// What probers found, by endpoint and POP.
    pub endpoints: Vec<EndpointView>,
}

/// What one replica's agents found of one endpoint at one POP.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// As in the fleet file.
    pub endpoint: String,
    /// Where from.
    pub pop: PopId,
    /// Probers that find it healthy.
    pub healthy: u32,
    /// Probers that do not.
    pub unhealthy: u32,
    /// Who they are.
    pub probers: Vec<AgentId>,
    /// Why a probe failed lately; empty if none did.
    pub error: String,
    /// Probes a second.
    pub probes: f64,
}

/// What one replica knows of one service from its own agents. Views add up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceView {
    /// Demand in requests a second, by the region order of its agents.
    pub origins: BTreeMap<RegionOrder, ByPriority>,
    /// What callers got, requests a second over the last ten seconds.
    pub rates: CallerView,
    /// The same over the last second, for a drill's guard.
    pub recent: CallerView,
    /// Since this replica heard of the drill of this id: counts of requests.
    pub drill: Option<(String, CallerView)>,
    /// While a drill runs: latency of its last second or two, sparse histogram.
    pub latency: Vec<(u32, u32)>,
    /// By the hash of the key, 0 where the throttle has none.
    pub quotas: BTreeMap<u64, QuotaView>,
}

/// What callers of a service got: requests, or requests a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CallerView {
    /// Served.
    pub succeeded: f64,
    /// Failed at a backend, or on the way.
    pub failed: f64,
    /// Refused by us.
    pub refused: f64,
    /// Of those, because nowhere was room by the plan.
    pub shed: f64,
    /// SHADOW: would have been refused.
    pub shadowed: f64,
}

/// One quota as one replica's agents see it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QuotaView {
    /// Requests a second.
    pub wanted: f64,
    /// Of those, let through.
    pub admitted: f64,
    /// Agents with demand.
    pub agents: u32,
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

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Of this backend; `None` for all, the fleet's included.
    pub backend: Option<BackendName>,
    /// Of this service as a whole, where no backend is named; `None` for all.
    pub service: Option<ServiceName>,
    /// At most this many, up to [`EVENTS_PAGE`].
    pub limit: usize,
    /// Only those older than this: [`EventPage::next`].
    pub before: Option<EventCursor>,
}

/// Could it be the version of a record?
pub(crate) fn plausible(version: Version) -> bool {
    (1..=MAX_VERSION.epoch).contains(&version.epoch)
        && (1..=MAX_VERSION.revision).contains(&version.revision)
}

impl EventQuery {
    fn page_size(&self) -> usize {
        self.limit.clamp(1, EVENTS_PAGE)
    }

    /// Only those about this; `None` for all.
    fn about(&self) -> Option<About> {
        let service = || self.service.clone().map(About::Service);
        self.backend.clone().map(About::Backend).or_else(service)
    }
}

/// Some events, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events' bytes.
    pub events: Vec<Bytes>,
    /// Where older ones start; `None` at the end.
    pub next: Option<EventCursor>,
}

/// A place in the list of events, as `MILLIS-SEQUENCE-GROUP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    /// When it was appended.
    pub(crate) millis: u64,
    /// Its place within the millisecond.
    pub(crate) sequence: u64,
    /// Its group.
    pub(crate) group: u16,
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.millis, self.sequence, self.group)
    }
}

/// A page token that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a page token of this list")]
pub struct BadCursor(String);

impl std::str::FromStr for EventCursor {
    type Err = BadCursor;

    fn from_str(token: &str) -> Result<Self, BadCursor> {
        let parse = || {
            let mut parts = token.split('-');
            let cursor = Self {
                millis: parts.next()?.parse().ok()?,
                sequence: parts.next()?.parse().ok()?,
                group: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(cursor)
        };
        parse().ok_or_else(|| BadCursor(token.chars().take(80).collect()))
    }
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// This backend's record, or its events.
    Backend(BackendName),
    /// This service's record, or its events.
    Service(ServiceName),
    /// The fleet file.
    Config,
    /// The fleet's own events.
    Events,
    /// Hints were missed: look at everything.
    Everything,
}

impl From<About> for Hint {
    fn from(about: About) -> Self {
        match about {
            About::Fleet => Self::Events,
            About::Backend(name) => Self::Backend(name),
            About::Service(name) => Self::Service(name),
        }
    }
}

/// A subscription to hints.
#[derive(Debug)]
pub struct Hints(broadcast::Receiver<Hint>);

impl Hints {
    /// The next hint; waits for ever once the store is gone. Cancel safe.
    pub async fn next(&mut self) -> Hint {
        match self.0.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => Hint::Everything,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
