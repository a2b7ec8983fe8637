//! The fleet's decisions as this agent holds them. It never goes back in their
//! order: whatever arrives late, twice or from a replica that lost its memory.

use std::{borrow::Borrow, collections::BTreeMap, time::Duration};

use breaker_core::{
    BackendName, Breaker, BreakerPolicy, Steering, Throttle, Timestamp, Version, breaker::Override,
    ids::ServiceName,
};
use rampmeter_api::{
    convert::{
        decision::{self, Decision},
        steering,
    },
    v1,
};

/// A decision and what is known about its age.
#[derive(Debug, Clone, PartialEq)]
pub struct Held<D> {
    /// On this agent's clock.
    pub decision: D,
    /// When the control plane last stood by it.
    pub heard: Timestamp,
    /// Unix time at which this version was applied, in milliseconds.
    pub applied_unix_ms: u64,
    /// The stream that is up has named it.
    confirmed: bool,
}

/// What has a place in the order of decisions.
pub trait Versioned {
    /// Its place.
    fn version(&self) -> Version;
}

impl Versioned for Decision {
    fn version(&self) -> Version {
        self.version
    }
}

impl Versioned for Steering {
    fn version(&self) -> Version {
        self.version
    }
}

/// The newest decision about each backend, or service.
#[derive(Debug)]
pub struct Decisions<N, D> {
    held: BTreeMap<N, Held<D>>,
}

impl<N, D> Default for Decisions<N, D> {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
        }
    }
}

/// What became of an offered decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Newer than what was held.
    Applied,
    /// What is held: its times were refreshed.
    Confirmed,
    /// Older than what is held, and dropped.
    Older,
}

impl<N: Ord + Borrow<str>, D: Versioned> Decisions<N, D> {
    /// Takes a decision that the control plane sent, unless a newer one is held.
    pub fn offer(&mut self, name: N, decision: D, now: Timestamp, unix_ms: u64) -> Offer {
        self.take(name, decision, now, unix_ms, true)
    }

    /// Takes a decision from the disk, last heard at `heard`.
    pub fn restore(&mut self, name: N, decision: D, heard: Timestamp, unix_ms: u64) {
        self.take(name, decision, heard, unix_ms, false);
    }

    fn take(
        &mut self,
        name: N,
        decision: D,
        heard: Timestamp,
        unix_ms: u64,
        confirmed: bool,
    ) -> Offer {
        let version = decision.version();
        let held = self.held.get(name.borrow());
        let offer = match held.map(|held| held.decision.version()) {
            Some(newer) if version < newer => return Offer::Older,
            Some(same) if version == same => Offer::Confirmed,
            _ => Offer::Applied,
        };
        let applied_unix_ms = match (offer, held) {
            (Offer::Confirmed, Some(held)) => held.applied_unix_ms,
            _ => unix_ms,
        };
        let held = Held {
            decision,
            heard,
            applied_unix_ms,
            confirmed,
        };
        self.held.insert(name, held);
        offer
    }

    /// A new stream begins: what it does not name is not confirmed by it.
    pub fn begin_stream(&mut self) {
        self.held
            .values_mut()
            .for_each(|held| held.confirmed = false);
    }

    /// The control plane was heard and stands by what it said on this stream.
    pub fn heard(&mut self, now: Timestamp) {
        let confirmed = self.held.values_mut().filter(|held| held.confirmed);
        confirmed.for_each(|held| held.heard = now);
    }

    /// It no longer exists.
    pub fn remove(&mut self, name: &str) {
        self.held.remove(name);
    }

    /// Forgets the others.
    pub fn retain(&mut self, keep: impl Fn(&N) -> bool) {
        self.held.retain(|name, _| keep(name));
    }

    /// What is held.
    pub fn get(&self, name: &str) -> Option<&Held<D>> {
        self.held.get(name)
    }
}

impl Decisions<BackendName, Decision> {
    /// All that is held, as seen at `now`: for Hello and for the disk.
    pub fn to_wire(&self, now: Timestamp) -> Vec<v1::Decision> {
        self.held
            .values()
            .map(|held| to_wire(&held.decision, now))
            .collect()
    }
}

impl Decisions<ServiceName, Steering> {
    /// All that is held, as seen at `now`: for Hello and for the disk.
    pub fn to_wire(&self, now: Timestamp) -> Vec<v1::ServiceDecision> {
        let held = self.held.iter();
        held.map(|(name, held)| steering::service_decision(name, &held.decision, now))
            .collect()
    }
}

impl<D> Held<D> {
    /// Heard within `valid_for`.
    pub fn is_fresh(&self, now: Timestamp, valid_for: Duration) -> bool {
        now.since(self.heard) < valid_for
    }
}

fn to_wire(held: &Decision, now: Timestamp) -> v1::Decision {
    let breaker = Breaker {
        version: held.version,
        fleet: held.fleet.clone(),
        pops: held.pops.clone(),
        over: held.override_until.map(|expires| Override {
            mode: held.mode,
            actor: String::new(),
            reason: String::new(),
            created: now,
            expires,
        }),
        throttle: held.throttle.map(|admission| Throttle {
            admission,
            since: now,
            changed: now,
            told: admission,
        }),
        mix: held.mix,
    };
    let policy = BreakerPolicy {
        mode: held.mode,
        ramp_duration: held.ramp_duration,
        ..BreakerPolicy::default()
    };
    decision::decision(&held.backend, &breaker, &policy, now)
}
