//! The decisions in force, in one table that all streams read.
//!
//! Level-triggered: a stream remembers the sequence it has sent and asks for what
//! changed since, so that a slow one gets one coalesced message and nobody keeps
//! a queue. What several streams ask for at once is encoded once and shared.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use breaker_core::{BackendName, Breaker, BreakerPolicy, Steering, Timestamp, ids::ServiceName};
use bytes::Bytes;
use prost::Message;
use rampmeter_api::{
    convert::{decision, steering},
    v1,
};
use tokio::{sync::watch, time::Instant};

/// For how long an encoded message is shared. Its times are relative to its
/// sending: this is how far they may be off.
const SHARED_FOR: Duration = Duration::from_millis(20);

/// Sequences whose time of birth is remembered, for the convergence lag: more
/// than change within the few milliseconds that an acknowledgement takes.
const BIRTHS_KEPT: usize = 256;

/// The decisions in force.
#[derive(Debug)]
pub struct Table {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    sequence: u64,
    entries: BTreeMap<BackendName, Entry>,
    /// Backends that left, with the sequence in which they did.
    removed: BTreeMap<BackendName, u64>,
    /// Decisions about services, with the sequence in which they changed. Those
    /// of services that left need no word: their backends leave, too.
    services: BTreeMap<ServiceName, (u64, Steering)>,
    /// Findings of health checks, with the sequence in which they changed.
    health: BTreeMap<BackendName, (u64, v1::BackendHealth)>,
    store_unavailable: bool,
    births: VecDeque<(u64, Instant)>,
    shared: Option<Shared>,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    breaker: Breaker,
    policy: BreakerPolicy,
}

/// The last message encoded.
#[derive(Debug)]
struct Shared {
    since: Option<u64>,
    sequence: u64,
    at: Timestamp,
    frame: Bytes,
}

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            // An agent that has acknowledged 0 has applied nothing.
            inner: Mutex::new(Inner {
                sequence: 1,
                ..Inner::default()
            }),
            changed: watch::Sender::new(1),
        }
    }

    /// Puts a decision in force. An older one than is held is dropped: a stream
    /// never sees a version decrease.
    pub fn publish(&self, name: &BackendName, breaker: &Breaker, policy: &BreakerPolicy) {
        let mut inner = self.lock();
        if let Some(held) = inner.entries.get(name) {
            let same = held.breaker == *breaker && held.policy == *policy;
            if same || breaker.version < held.breaker.version {
                return;
            }
        }
        let sequence = inner.advance();
        inner.removed.remove(name);
        let entry = Entry {
            sequence,
            breaker: breaker.clone(),
            policy: policy.clone(),
        };
        inner.entries.insert(name.clone(), entry);
        self.changed.send_replace(sequence);
    }

    /// As [`publish`](Self::publish), for a service.
    pub fn publish_service(&self, name: &ServiceName, steering: &Steering) {
        let mut inner = self.lock();
        if let Some((_, held)) = inner.services.get(name)
            && (held == steering || steering.version < held.version)
        {
            return;
        }
        let sequence = inner.advance();
        inner
            .services
            .insert(name.clone(), (sequence, steering.clone()));
        self.changed.send_replace(sequence);
    }

    /// Tells what health checks found of a backend, all of it.
    pub fn publish_health(&self, name: &BackendName, health: v1::BackendHealth) {
        let mut inner = self.lock();
        let same = inner.health.get(name).is_some_and(|(_, h)| *h == health);
        if same {
            return;
        }
        let sequence = inner.advance();
        inner.health.insert(name.clone(), (sequence, health));
        self.changed.send_replace(sequence);
    }

    /// Keeps only these services.
    pub fn retain_services(&self, keep: impl Fn(&ServiceName) -> bool) {
        self.lock().services.retain(|name, _| keep(name));
    }

    /// Keeps only these backends.
    pub fn retain(&self, keep: impl Fn(&BackendName) -> bool) {
        let mut inner = self.lock();
        inner.health.retain(|name, _| keep(name));
        let gone: Vec<_> = inner.entries.keys().filter(|n| !keep(n)).cloned().collect();
        if gone.is_empty() {
            return;
        }
        let sequence = inner.advance();
        for name in gone {
            inner.entries.remove(&name);
            inner.removed.insert(name, sequence);
        }
        self.changed.send_replace(sequence);
    }

    /// Tells the streams whether the store can be reached.
    pub fn set_store_unavailable(&self, unavailable: bool) {
        let mut inner = self.lock();
        if inner.store_unavailable != unavailable {
            inner.store_unavailable = unavailable;
            let sequence = inner.advance();
            self.changed.send_replace(sequence);
        }
    }

    /// What changed after sequence `since`, encoded, with the sequence it leads
    /// to; everything for `None`. `None` if nothing changed.
    pub fn frame(&self, since: Option<u64>, now: Timestamp) -> Option<(Bytes, u64)> {
        let mut inner = self.lock();
        let sequence = inner.sequence;
        if since == Some(sequence) {
            return None;
        }
        let shared = inner.shared.as_ref().filter(|s| {
            s.since == since && s.sequence == sequence && now.since(s.at) <= SHARED_FOR
        });
        if let Some(shared) = shared {
            return Some((shared.frame.clone(), sequence));
        }
        let frame = Bytes::from(inner.message(since, now).encode_to_vec());
        inner.shared = Some(Shared {
            since,
            sequence,
            at: now,
            frame: frame.clone(),
        });
        Some((frame, sequence))
    }

    /// Wakes when something changed; its value is the newest sequence.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The newest sequence.
    pub fn sequence(&self) -> u64 {
        self.lock().sequence
    }

    /// Time since a sequence was made, if it is recent.
    pub fn age(&self, sequence: u64) -> Option<Duration> {
        let inner = self.lock();
        let birth = inner.births.iter().find(|(s, _)| *s == sequence);
        birth.map(|(_, at)| at.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn advance(&mut self) -> u64 {
        self.sequence += 1;
        self.births.push_back((self.sequence, Instant::now()));
        if self.births.len() > BIRTHS_KEPT {
            self.births.pop_front();
        }
        self.sequence
    }

    fn message(&self, since: Option<u64>, now: Timestamp) -> v1::ConnectResponse {
        let newer = |sequence: u64| since.is_none_or(|since| sequence > since);
        let changed = self.entries.iter().filter(|(_, e)| newer(e.sequence));
        let decisions =
            changed.map(|(name, e)| decision::decision(name, &e.breaker, &e.policy, now));
        let services = self.services.iter().filter(|(_, (at, _))| newer(*at));
        let services = services.map(|(name, (_, s))| steering::service_decision(name, s, now));
        // A snapshot replaces everything, so it need not name what is gone.
        let removed = self.removed.iter().filter(|_| since.is_some());
        let removed = removed.filter(|(_, sequence)| newer(**sequence));
        let health = self.health.values().filter(|(at, _)| newer(*at));
        let message = v1::Decisions {
            sequence: self.sequence,
            decisions: decisions.collect(),
            removed: removed.map(|(name, _)| name.as_str().to_owned()).collect(),
            complete: since.is_none(),
            store_unavailable: self.store_unavailable,
            services: services.collect(),
            health: health.map(|(_, health)| health.clone()).collect(),
        };
        v1::ConnectResponse {
            message: Some(v1::connect_response::Message::Decisions(message)),
        }
    }
}

#[cfg(test)]
mod tests;
