//! The fleet's decisions as this agent holds them. It never goes back in their
//! order: whatever arrives late, twice or from a replica that lost its memory.

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{BackendName, Breaker, BreakerPolicy, Throttle, Timestamp, breaker::Override};
use rampmeter_api::{
    convert::decision::{self, Decision},
    v1,
};

/// A decision and what is known about its age.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// On this agent's clock.
    pub decision: Decision,
    /// When the control plane last stood by it.
    pub heard: Timestamp,
    /// Unix time at which this version was applied, in milliseconds.
    pub applied_unix_ms: u64,
    /// The stream that is up has named it.
    confirmed: bool,
}

/// The newest decision of each backend.
#[derive(Debug, Default)]
pub struct Decisions {
    held: BTreeMap<BackendName, Held>,
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

impl Decisions {
    /// Takes a decision that the control plane sent, unless a newer one is held.
    pub fn offer(&mut self, decision: Decision, now: Timestamp, unix_ms: u64) -> Offer {
        let held = self.held.get(&decision.backend);
        let offer = match held.map(|held| held.decision.version) {
            Some(version) if decision.version < version => return Offer::Older,
            Some(version) if decision.version == version => Offer::Confirmed,
            _ => Offer::Applied,
        };
        let applied_unix_ms = match (offer, held) {
            (Offer::Confirmed, Some(held)) => held.applied_unix_ms,
            _ => unix_ms,
        };
        let held = Held {
            heard: now,
            applied_unix_ms,
            confirmed: true,
            decision,
        };
        self.held.insert(held.decision.backend.clone(), held);
        offer
    }

    /// Takes a decision from the disk, last heard at `heard`.
    pub fn restore(&mut self, decision: Decision, heard: Timestamp, unix_ms: u64) {
        self.offer(decision.clone(), heard, unix_ms);
        if let Some(held) = self.held.get_mut(&decision.backend) {
            held.confirmed = false;
        }
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

    /// The backend no longer exists.
    pub fn remove(&mut self, backend: &str) {
        self.held.remove(backend);
    }

    /// Forgets the others.
    pub fn retain(&mut self, keep: impl Fn(&BackendName) -> bool) {
        self.held.retain(|name, _| keep(name));
    }

    /// What is held for a backend.
    pub fn get(&self, backend: &str) -> Option<&Held> {
        self.held.get(backend)
    }

    /// All that is held, as seen at `now`: for Hello and for the disk.
    pub fn to_wire(&self, now: Timestamp) -> Vec<v1::Decision> {
        self.held
            .values()
            .map(|held| to_wire(&held.decision, now))
            .collect()
    }
}

impl Held {
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
