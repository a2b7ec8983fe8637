//! What this replica has seen of the store: what the store must not fall
//! behind, and what is brought back to it when it does.

use std::{collections::BTreeMap, sync::Arc};

use breaker_core::{BackendName, Timestamp, Version};
use redis::ScriptInvocation;

use super::Group;
use crate::store::{REPAIR_GRACE, Record};

/// See the module. Grows with the backends that the fleet file ever named.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The newest clock.
    pub(super) clock: Timestamp,
    epochs: BTreeMap<Group, u64>,
    records: BTreeMap<BackendName, Arc<Known>>,
}

/// A record, decoded and as it was stored.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) record: Record,
    pub(super) body: Vec<u8>,
}

impl Seen {
    /// The first arguments of every script that looks at an epoch.
    pub(super) fn header(&self, group: Group, channel: String, call: &mut ScriptInvocation<'_>) {
        call.arg(self.clock.as_millis()).arg(channel);
        call.arg(REPAIR_GRACE.as_millis() as u64);
        call.arg(self.epochs.get(&group).copied().unwrap_or(0));
    }

    pub(super) fn pass(&mut self, now: u64) {
        self.clock = self.clock.max(Timestamp::from_millis(now));
    }

    pub(super) fn enter(&mut self, group: Group, epoch: u64) {
        let seen = self.epochs.entry(group).or_default();
        *seen = epoch.max(*seen);
    }

    /// Keeps a record, unless a newer one is known.
    pub(super) fn learn(&mut self, backend: &BackendName, record: &Record, body: Vec<u8>) {
        let version = record.breaker.version;
        self.enter(Group::of(backend), version.epoch);
        if Some(version) > self.version(backend) {
            let record = record.clone();
            let known = Arc::new(Known { record, body });
            self.records.insert(backend.clone(), known);
        }
    }

    pub(super) fn known(&self, backend: &BackendName) -> Option<&Arc<Known>> {
        self.records.get(backend)
    }

    pub(super) fn version(&self, backend: &BackendName) -> Option<Version> {
        self.known(backend)
            .map(|known| known.record.breaker.version)
    }
}
