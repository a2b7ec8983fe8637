//! The store that any number of replicas share: one Redis or Valkey.
//!
//! Keys are in 256 groups of backends and services, and one for the fleet, by hash
//! tag: all that a script touches is in one slot, and passed in KEYS, so that a Cluster
//! can hold them. This file alone knows a key.
//!
//! | key | holds | lives |
//! |---|---|---|
//! | `rm:{p017}:meta` | the group's clock and epoch | for ever |
//! | `rm:{p017}:records` | committed records and their versions | for ever |
//! | `rm:{p017}:registers` | replicas' views, with the time of writing | 3 s |
//! | `rm:{p017}:events` | the group's last events, a stream | by length |
//! | `rm:{fleet}:config`, `…:replicas`, `…:meta`, `…:events` | the fleet's | as above |
//! | `rm:{…}:hints:DB` | a channel for each group; channels ignore databases | |
//!
//! The number of commands depends on backends, services and how often replicas
//! sync: not on requests, not on agents.

mod check;
mod events;
mod link;
mod scripts;
mod seen;
mod sync;
mod trouble;
mod url;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use breaker_core::{BackendName, Steering, Version, ids::ServiceName};
use bytes::Bytes;
use redis::{ScriptInvocation, aio::MultiplexedConnection};
use tokio::sync::broadcast;

use self::{
    link::{Link, Listener},
    scripts::Scripts,
    seen::Seen,
};
use super::{
    About, Answer, Commit, CommitService, ConfigRecord, Corrupt, EVENTS_KEPT, EventPage,
    EventQuery, HINTS_KEPT, Hint, Hints, OpenError, Presence, PutConfig, REPLICA_TTL, Record,
    ReplicaId, Store, StoreError, SyncReply, SyncRequest, codec, subject::Subject,
};

/// Groups of backends and services: enough to spread over any Cluster, few enough to list.
const GROUPS: u16 = 256;

/// Where hints are listened for. An access list must allow a pattern literally,
/// so it is the one that people write: `&rm:*`.
const CHANNELS: &str = "rm:*";

/// A group of backends and services that share a slot, or the fleet's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Group(u16);

impl Group {
    const FLEET: Self = Self(GROUPS);

    /// By FNV-1a, which is the same everywhere and for ever.
    fn of(about: &About) -> Self {
        if *about == About::Fleet {
            return Self::FLEET;
        }
        let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let hash = about.as_str().bytes().fold(0x811c_9dc5, step);
        Self((hash % u32::from(GROUPS)) as u16)
    }

    fn all() -> impl Iterator<Item = Self> {
        (0..=GROUPS).map(Self)
    }

    fn key(self, noun: &str) -> String {
        format!("rm:{{{self}}}:{noun}")
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FLEET => f.write_str("fleet"),
            Self(number) => write!(f, "p{number:03}"),
        }
    }
}

/// One replica's handle to a Redis.
pub struct RedisStore {
    replica: ReplicaId,
    link: Link,
    scripts: Arc<Scripts>,
    /// Ends every channel's name.
    db: i64,
    seen: Mutex<Seen>,
    hints: broadcast::Sender<Hint>,
}

impl RedisStore {
    /// Opens the Redis at `url`; see [`super::open`].
    pub async fn open(url: &str, replica: ReplicaId) -> Result<Arc<Self>, OpenError> {
        let target = url::parse(url)?;
        let db = target.db;
        let scripts = Arc::new(Scripts::new());
        let (hints, _) = broadcast::channel(HINTS_KEPT);
        let listener = Arc::new(Hinter {
            suffix: format!(":hints:{db}"),
            hints: hints.clone(),
        });
        let link = Link::open(target, CHANNELS, scripts.clone(), listener).await?;
        Ok(Arc::new(Self {
            replica,
            link,
            scripts,
            db,
            seen: Mutex::default(),
            hints,
        }))
    }

    fn channel(&self, group: Group) -> String {
        group.key(&format!("hints:{}", self.db))
    }

    /// Nothing here panics half-way through a change, so poison means nothing.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn invoke<T: redis::FromRedisValue>(
        &self,
        call: ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let run = |mut connection: MultiplexedConnection| async move {
            call.invoke_async(&mut connection).await
        };
        self.link.run(run).await
    }

    async fn commit_record<S: Subject>(
        &self,
        name: S,
        expected: Option<Version>,
        next: S::Record,
        events: Vec<Bytes>,
    ) -> Result<Commit<S::Record>, StoreError> {
        let about = name.into();
        let group = Group::of(&about);
        let body = S::encode(&next);
        let expect = expected.unwrap_or_default();
        let mut call = self.scripts.commit.prepare_invoke();
        for noun in ["meta", "records", "events"] {
            call.key(group.key(noun));
        }
        self.seen().header(group, self.channel(group), &mut call);
        call.arg(self.replica.as_str()).arg(about.as_str());
        call.arg(expect.epoch).arg(expect.revision).arg(&body);
        call.arg(EVENTS_KEPT);
        for event in &events {
            call.arg(&event[..]);
        }
        let answer: (String, u64, u64, Option<Vec<u8>>) = self.invoke(call).await?;
        let (outcome, epoch, revision, current) = answer;
        let version = Version { epoch, revision };
        match outcome.as_str() {
            "done" => {
                self.seen().learn(&about, version, body);
                Ok(Commit::Done(version))
            }
            "lost" => self.lost::<S>(&about, version, current),
            _ => Err(StoreError::Repairing),
        }
    }

    fn lost<S: Subject>(
        &self,
        about: &About,
        version: Version,
        body: Option<Vec<u8>>,
    ) -> Result<Commit<S::Record>, StoreError> {
        // In another epoch a sync must first bring what we know to it.
        let seen = self.seen().version(about);
        if seen.is_some_and(|seen| version < seen || version.epoch > seen.epoch) {
            return Err(StoreError::Repairing);
        }
        let Some(body) = body else {
            return Ok(Commit::Lost(None));
        };
        let record = S::decode(&body, version)
            .map_err(|reason| unreadable(Group::of(about), "records", about, &reason))?;
        self.seen().learn(about, version, body);
        Ok(Commit::Lost(Some(Box::new(record))))
    }

    async fn append_events(&self, about: About, events: Vec<Bytes>) -> Result<(), StoreError> {
        let group = Group::of(&about);
        let hint = match about {
            About::Fleet => "e".to_owned(),
            About::Backend(_) | About::Service(_) => format!("b{about}"),
        };
        let mut call = self.scripts.append.key(group.key("events"));
        call.arg(self.channel(group)).arg(hint).arg(about.as_str());
        call.arg(EVENTS_KEPT);
        for event in &events {
            call.arg(&event[..]);
        }
        self.invoke(call).await
    }

    async fn read_config(&self) -> Result<Option<ConfigRecord>, StoreError> {
        let mut get = redis::cmd("HGET");
        get.arg(Group::FLEET.key("config")).arg("body");
        let run = |mut connection| async move { get.query_async(&mut connection).await };
        let body: Option<Vec<u8>> = self.link.run(run).await?;
        body.as_deref().map(read_config).transpose()
    }

    async fn write_config(
        &self,
        expected: u64,
        next: ConfigRecord,
        events: Vec<Bytes>,
    ) -> Result<PutConfig, StoreError> {
        let group = Group::FLEET;
        let mut call = self.scripts.config.key(group.key("config"));
        call.key(group.key("events"));
        call.arg(self.channel(group)).arg(expected);
        call.arg(next.revision).arg(codec::encode_config(&next));
        call.arg(EVENTS_KEPT);
        for event in &events {
            call.arg(&event[..]);
        }
        let (outcome, current): (String, Option<Vec<u8>>) = self.invoke(call).await?;
        if outcome == "done" {
            return Ok(PutConfig::Done);
        }
        let current = current.as_deref().map(read_config).transpose()?;
        Ok(PutConfig::Lost(current.map(Box::new)))
    }

    async fn beat(&self, presence: Presence) -> Result<Vec<(ReplicaId, Presence)>, StoreError> {
        let group = Group::FLEET;
        let mut call = self.scripts.heartbeat.key(group.key("meta"));
        call.key(group.key("replicas"));
        call.arg(self.seen().clock.as_millis());
        call.arg(self.replica.as_str());
        call.arg(REPLICA_TTL.as_millis() as u64);
        call.arg(codec::encode_presence(&presence));
        let (now, live): (u64, Vec<Vec<u8>>) = self.invoke(call).await?;
        self.seen().pass(now);
        let (pairs, _) = live.as_chunks::<2>();
        let mut replicas: Vec<_> = pairs.iter().filter_map(read_replica).collect();
        replicas.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(replicas)
    }
}

/// One replica that we cannot read, perhaps a newer one, must not hide the rest.
fn read_replica([name, bytes]: &[Vec<u8>; 2]) -> Option<(ReplicaId, Presence)> {
    let name = String::from_utf8_lossy(name);
    match codec::decode_presence(bytes) {
        Ok(presence) => Some((ReplicaId::new(&name), presence)),
        Err(error) => {
            tracing::warn!(replica = %name, %error, "cannot read a replica's presence");
            None
        }
    }
}

fn read_config(body: &[u8]) -> Result<ConfigRecord, StoreError> {
    codec::decode_config(body)
        .map_err(|reason| unreadable(Group::FLEET, "config", "body", &reason).into())
}

fn unreadable(
    group: Group,
    noun: &str,
    field: impl fmt::Display,
    reason: &impl fmt::Display,
) -> Corrupt {
    Corrupt {
        key: format!("{} field {field}", group.key(noun)),
        reason: reason.to_string(),
    }
}

/// Turns what the server pushes into hints.
struct Hinter {
    /// Of the channels of our database.
    suffix: String,
    hints: broadcast::Sender<Hint>,
}

impl Listener for Hinter {
    fn connected(&self) {
        let _ = self.hints.send(Hint::Everything);
    }

    fn message(&self, channel: &[u8], payload: &[u8]) {
        if !channel.ends_with(self.suffix.as_bytes()) {
            return;
        }
        let hint = match payload.split_first() {
            Some((b'b', name)) => std::str::from_utf8(name)
                .ok()
                .and_then(|name| About::parse(name).ok())
                .map(Hint::from),
            Some((b'c', _)) => Some(Hint::Config),
            Some((b'e', _)) => Some(Hint::Events),
            Some((b'*', _)) => Some(Hint::Everything),
            _ => None,
        };
        // Nobody listening is fine.
        let _ = hint.map(|hint| self.hints.send(hint));
    }
}

impl Store for RedisStore {
    fn sync(&self, request: SyncRequest) -> Answer<'_, SyncReply> {
        Box::pin(self.sync_groups(request))
    }

    fn commit(
        &self,
        backend: BackendName,
        expected: Option<Version>,
        next: Record,
        events: Vec<Bytes>,
    ) -> Answer<'_, Commit> {
        Box::pin(self.commit_record(backend, expected, next, events))
    }

    fn commit_service(
        &self,
        service: ServiceName,
        expected: Option<Version>,
        next: Steering,
        events: Vec<Bytes>,
    ) -> Answer<'_, CommitService> {
        Box::pin(self.commit_record(service, expected, next, events))
    }

    fn append(&self, about: About, events: Vec<Bytes>) -> Answer<'_, ()> {
        Box::pin(self.append_events(about, events))
    }

    fn events(&self, query: EventQuery) -> Answer<'_, EventPage> {
        Box::pin(self.list_events(query))
    }

    fn config(&self) -> Answer<'_, Option<ConfigRecord>> {
        Box::pin(self.read_config())
    }

    fn put_config(
        &self,
        expected: u64,
        next: ConfigRecord,
        events: Vec<Bytes>,
    ) -> Answer<'_, PutConfig> {
        Box::pin(self.write_config(expected, next, events))
    }

    fn heartbeat(&self, presence: Presence) -> Answer<'_, Vec<(ReplicaId, Presence)>> {
        Box::pin(self.beat(presence))
    }

    fn hints(&self) -> Hints {
        Hints(self.hints.subscribe())
    }
}

#[cfg(test)]
mod tests;
