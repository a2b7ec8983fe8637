//! The configuration in force: one file for the fleet, kept in the store, changed
//! whole by compare-and-swap, or refused whole.

mod candidate;
mod file;
mod steering;

use std::sync::Arc;

use breaker_core::{Timestamp, ids::ServiceName};
use bytes::Bytes;
use fleet_config::{ConfigErrors, FleetConfig};
use prost::Message;
use rampmeter_api::v1;

pub use candidate::{drop_candidate, set_candidate};
pub use file::{ConfigFile, watch};
pub use steering::settings;

use crate::{
    events,
    plane::Plane,
    store::{self, ConfigRecord, PutConfig, StoreError},
};

/// Digests kept in the store: an older file than this many changes ago counts as
/// new.
const DIGESTS_KEPT: usize = 32;

/// A configuration in force.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Rises with every change.
    pub revision: u64,
    /// As it was applied.
    pub yaml: String,
    /// What it means.
    pub config: FleetConfig,
    /// When it was applied.
    pub applied: Timestamp,
    /// Where it came from.
    pub source: String,
    /// Digests of this and earlier files, newest first.
    pub digests: Vec<String>,
    /// Runs beside it, and nothing acts on it.
    pub candidate: Option<Candidate>,
}

/// A configuration that runs beside the one in force.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// As it was handed in.
    pub yaml: String,
    /// What it means.
    pub config: FleetConfig,
    /// When it was put beside the other.
    pub applied: Timestamp,
    /// Where it came from.
    pub source: String,
}

/// Why a configuration was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// The fleet runs another revision than the caller thinks.
    #[error("the fleet runs revision {current}, not {expected}")]
    Conflict {
        /// In force.
        current: u64,
        /// What the caller thinks.
        expected: u64,
    },
    /// There is nothing beside which a candidate could run.
    #[error("the fleet has no configuration yet")]
    NothingLive,
    /// A candidate must have the backends of the configuration in force.
    #[error("it must have the backends of the configuration in force, but {0}")]
    OtherBackends(String),
    /// There is none to drop.
    #[error("there is no candidate")]
    NoCandidate,
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What applying did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The revision in force.
    pub revision: u64,
    /// One line for each change.
    pub changes: Vec<String>,
    /// Something was applied.
    pub applied: bool,
}

impl Fleet {
    fn of(record: ConfigRecord, config: FleetConfig) -> Self {
        Self {
            candidate: record.candidate.and_then(Candidate::read),
            revision: record.revision,
            yaml: record.yaml,
            config,
            applied: record.applied,
            source: record.source,
            digests: record.digests,
        }
    }
}

impl Candidate {
    fn of(record: store::Candidate, config: FleetConfig) -> Self {
        Self {
            yaml: record.yaml,
            config,
            applied: record.applied,
            source: record.source,
        }
    }

    /// Another replica, perhaps a newer one, has checked it strictly.
    fn read(record: store::Candidate) -> Option<Self> {
        match FleetConfig::parse_lenient(&record.yaml, &record.source) {
            Ok((config, _)) => Some(Self::of(record, config)),
            Err(errors) => {
                tracing::error!(%errors, "the store's candidate cannot be read: it is not judged");
                None
            }
        }
    }

    fn is(&self, record: &store::Candidate) -> bool {
        self.applied == record.applied && self.source == record.source && self.yaml == record.yaml
    }
}

impl From<&Fleet> for ConfigRecord {
    fn from(fleet: &Fleet) -> Self {
        let candidate = fleet.candidate.as_ref().map(|candidate| store::Candidate {
            yaml: candidate.yaml.clone(),
            applied: candidate.applied,
            source: candidate.source.clone(),
        });
        Self {
            revision: fleet.revision,
            yaml: fleet.yaml.clone(),
            applied: fleet.applied,
            source: fleet.source.clone(),
            digests: fleet.digests.clone(),
            candidate,
        }
    }
}

/// Puts a file in force. `expected` 0 means whatever runs now; `address` is the
/// caller's, empty for a file.
pub async fn apply(
    plane: &Plane,
    yaml: &str,
    source: &str,
    address: &str,
    expected: u64,
    validate_only: bool,
) -> Result<Applied, ApplyError> {
    let config = FleetConfig::parse(yaml, source)?;
    refresh(plane).await?;
    let current = plane.fleet();
    let revision = current.as_ref().map_or(0, |f| f.revision);
    if expected != 0 && expected != revision {
        return Err(ApplyError::Conflict {
            current: revision,
            expected,
        });
    }
    let changes = changes(current.as_deref(), &config);
    let same_text = current.as_ref().is_some_and(|f| f.yaml == yaml);
    if validate_only || same_text {
        return Ok(Applied {
            revision,
            changes,
            applied: false,
        });
    }
    let mut next = record(plane, current.as_deref(), yaml, source);
    let beside = current.as_deref().map(ConfigRecord::from);
    // What was the candidate and is in force now has nothing more to tell.
    let beside = beside.and_then(|record| record.candidate);
    next.candidate = beside.filter(|candidate| candidate.yaml != yaml);
    let summary = format!(
        "revision {} was applied from {source}: {}",
        next.revision,
        in_words(&changes)
    );
    let event = v1::Event {
        actor_address: address.to_owned(),
        ..events::of_config(plane, v1::EventKind::ConfigApplied, summary, source)
    };
    let news = vec![Bytes::from(event.encode_to_vec())];
    let put = plane.store.put_config(revision, next.clone(), news);
    match plane.ask("put_config", put).await? {
        PutConfig::Done => {
            let revision = next.revision;
            put_in_force(plane, Fleet::of(next, config));
            Ok(Applied {
                revision,
                changes,
                applied: true,
            })
        }
        PutConfig::Lost(other) => Err(ApplyError::Conflict {
            current: other.map_or(0, |o| o.revision),
            expected: revision,
        }),
    }
}

fn record(plane: &Plane, current: Option<&Fleet>, yaml: &str, source: &str) -> ConfigRecord {
    let mut digests = vec![digest(yaml)];
    let earlier = current.map(|f| f.digests.as_slice()).unwrap_or_default();
    digests.extend(
        earlier
            .iter()
            .filter(|d| **d != digests[0])
            .cloned()
            .collect::<Vec<_>>(),
    );
    digests.truncate(DIGESTS_KEPT);
    ConfigRecord {
        revision: current.map_or(0, |f| f.revision) + 1,
        yaml: yaml.to_owned(),
        applied: plane.clock.now(),
        source: source.to_owned(),
        digests,
        candidate: None,
    }
}

fn changes(current: Option<&Fleet>, next: &FleetConfig) -> Vec<String> {
    match current {
        Some(fleet) => fleet_config::diff(&fleet.config, next),
        None => next
            .backends()
            .map(|(name, ..)| format!("+ {name}"))
            .collect(),
    }
}

fn in_words(changes: &[String]) -> String {
    const NAMED: usize = 5;
    let named = changes
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    match changes.len() {
        0 => "nothing that has an effect changed".to_owned(),
        n if n > NAMED => format!("{named}; and {} more", n - NAMED),
        _ => named,
    }
}

/// Takes over what another replica has put in force.
pub async fn refresh(plane: &Plane) -> Result<(), StoreError> {
    let Some(record) = plane.ask("config", plane.store.config()).await? else {
        return restore(plane).await;
    };
    if plane.fleet().is_some_and(|fleet| is_known(&fleet, &record)) {
        return Ok(());
    }
    // Another replica, perhaps a newer one, has checked it strictly.
    match FleetConfig::parse_lenient(&record.yaml, &record.source) {
        Ok((config, _)) => put_in_force(plane, Fleet::of(record, config)),
        Err(errors) => {
            let revision = record.revision;
            tracing::error!(revision, %errors, "the store's configuration cannot be read; the one before stays");
        }
    }
    Ok(())
}

fn is_known(fleet: &Fleet, record: &ConfigRecord) -> bool {
    let candidate = match (&fleet.candidate, &record.candidate) {
        (Some(known), Some(record)) => known.is(record),
        (known, record) => known.is_none() && record.is_none(),
    };
    let newer = fleet.revision > record.revision && fleet.yaml == record.yaml;
    let same = fleet.revision == record.revision && fleet.yaml == record.yaml && candidate;
    newer || same
}

/// Gives a store that lost its configuration the one in force back, for replicas
/// that start later.
async fn restore(plane: &Plane) -> Result<(), StoreError> {
    let Some(fleet) = plane.fleet() else {
        return Ok(());
    };
    let record = ConfigRecord::from(&*fleet);
    let put = plane.store.put_config(0, record, Vec::new());
    // Lost: another replica gave its own back first; the next refresh takes it.
    if plane.ask("put_config", put).await? == PutConfig::Done {
        tracing::warn!(
            revision = fleet.revision,
            "the store had lost the configuration and has it back"
        );
    }
    Ok(())
}

fn put_in_force(plane: &Plane, fleet: Fleet) {
    for warning in &fleet.config.warnings {
        tracing::warn!(source = %fleet.source, "{warning}");
    }
    let configured = |name: &breaker_core::BackendName| fleet.config.backend(name).is_some();
    plane.table.retain(configured);
    plane.board.retain(configured);
    plane.figures.retain(configured);
    let service = |name: &ServiceName| fleet.config.services.contains_key(name);
    plane.table.retain_services(service);
    plane.board.services.retain(service);
    plane.figures.services.retain(service);
    plane.candidates.retain(configured);
    let backends: Vec<_> = fleet
        .config
        .backends()
        .map(|(name, ..)| name.clone())
        .collect();
    tracing::info!(
        revision = fleet.revision, source = %fleet.source, backends = backends.len(),
        "a configuration is in force"
    );
    let services: Vec<_> = fleet.config.services.keys().cloned().collect();
    plane.fleet.send_replace(Some(Arc::new(fleet)));
    plane.mailbox.urge(backends);
    plane.mailbox.urge_services(services);
}

/// Identifies a file, not against a forger: FNV-1a, 128 bits.
fn digest(yaml: &str) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = yaml.bytes().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    });
    format!("{hash:032x}")
}
