//! A configuration beside the one in force: checked as if it were to be applied,
//! kept in the same record, and acted on by nobody.

use std::collections::BTreeSet;

use breaker_core::BackendName;
use bytes::Bytes;
use fleet_config::{FleetConfig, diff};
use prost::Message;
use rampmeter_api::v1;

use super::{Applied, ApplyError, Candidate, Fleet, in_words, put_in_force, refresh};
use crate::{
    events::{self, Caller},
    plane::Plane,
    store::{self, ConfigRecord, PutConfig},
};

/// Backends named in a refusal.
const NAMED: usize = 5;

/// Puts a file beside the one in force, in place of the candidate before.
/// `expected` 0 means beside whatever runs now; `address` is the caller's.
pub async fn set_candidate(
    plane: &Plane,
    yaml: &str,
    source: &str,
    address: &str,
    expected: u64,
    validate_only: bool,
) -> Result<Applied, ApplyError> {
    let config = FleetConfig::parse(yaml, source)?;
    refresh(plane).await?;
    let live = plane.fleet().ok_or(ApplyError::NothingLive)?;
    if expected != 0 && expected != live.revision {
        return Err(ApplyError::Conflict {
            current: live.revision,
            expected,
        });
    }
    check_backends(&live.config, &config)?;
    let changes = diff(&live.config, &config);
    if !validate_only {
        let record = store::Candidate {
            yaml: yaml.to_owned(),
            applied: plane.clock.now(),
            source: source.to_owned(),
        };
        let summary = format!(
            "a candidate runs beside revision {}, from {source}: {}",
            live.revision,
            in_words(&changes)
        );
        let kind = v1::EventKind::CandidateSet;
        let event = v1::Event {
            actor_address: address.to_owned(),
            ..events::of_config(plane, kind, summary, source)
        };
        put(plane, &live, Some(Candidate::of(record, config)), event).await?;
    }
    Ok(Applied {
        revision: live.revision,
        changes,
        applied: !validate_only,
    })
}

/// Runs the candidate no longer.
pub async fn drop_candidate(plane: &Plane, caller: &Caller) -> Result<(), ApplyError> {
    refresh(plane).await?;
    let live = plane.fleet().ok_or(ApplyError::NothingLive)?;
    let candidate = live.candidate.as_ref().ok_or(ApplyError::NoCandidate)?;
    let Caller { actor, reason, .. } = caller;
    let summary = format!(
        "the candidate from {} was dropped by {actor}: {reason}",
        candidate.source
    );
    let kind = v1::EventKind::CandidateDropped;
    let event = v1::Event {
        actor_address: caller.address.clone(),
        ..events::of_config(plane, kind, summary, actor)
    };
    put(plane, &live, None, event).await
}

/// The revision stays, and agents hear of nothing. Two who do this at once are
/// one after the other; a file that is put in force in the same instant wins.
async fn put(
    plane: &Plane,
    live: &Fleet,
    candidate: Option<Candidate>,
    event: v1::Event,
) -> Result<(), ApplyError> {
    let next = Fleet {
        candidate,
        ..live.clone()
    };
    let record = ConfigRecord::from(&next);
    let news = vec![Bytes::from(event.encode_to_vec())];
    let put = plane.store.put_config(live.revision, record, news);
    match plane.ask("put_config", put).await? {
        PutConfig::Done => {
            put_in_force(plane, next);
            Ok(())
        }
        PutConfig::Lost(other) => Err(ApplyError::Conflict {
            current: other.map_or(0, |other| other.revision),
            expected: live.revision,
        }),
    }
}

/// It is judged by what the live backends do, so it must have them, and no others.
fn check_backends(live: &FleetConfig, candidate: &FleetConfig) -> Result<(), ApplyError> {
    let names = |config: &FleetConfig| -> BTreeSet<BackendName> {
        config.backends().map(|(name, ..)| name.clone()).collect()
    };
    let (live, candidate) = (names(live), names(candidate));
    let missing: Vec<_> = live.difference(&candidate).collect();
    let added: Vec<_> = candidate.difference(&live).collect();
    let mut wrong = Vec::new();
    for (what, names) in [("lacks", missing), ("adds", added)] {
        if !names.is_empty() {
            let some: Vec<_> = names.iter().take(NAMED).map(|n| n.as_str()).collect();
            let more = match names.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            wrong.push(format!("{what} {}{more}", some.join(", ")));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(ApplyError::OtherBackends(wrong.join(" and "))),
    }
}
