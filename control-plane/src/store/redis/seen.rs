//! What this replica has seen of the store: what the store must not fall
//! behind, and what is brought back to it when it does.

use std::{collections::BTreeMap, sync::Arc};

use breaker_core::{Timestamp, Version};
use redis::ScriptInvocation;

use super::Group;
use crate::store::{About, REPAIR_GRACE};

/// See the module. Grows with what the fleet file ever named.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The newest clock.
    pub(super) clock: Timestamp,
    epochs: BTreeMap<Group, u64>,
    records: BTreeMap<About, Arc<Known>>,
}

/// A record as it was stored. It could be read.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) version: Version,
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
    pub(super) fn learn(&mut self, about: &About, version: Version, body: Vec<u8>) {
        self.enter(Group::of(about), version.epoch);
        if Some(version) > self.version(about) {
            let known = Arc::new(Known { version, body });
            self.records.insert(about.clone(), known);
        }
    }

    pub(super) fn known(&self, about: &About) -> Option<&Arc<Known>> {
        self.records.get(about)
    }

    pub(super) fn version(&self, about: &About) -> Option<Version> {
        self.known(about).map(|known| known.version)
    }
}
