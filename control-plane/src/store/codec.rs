//! Stored bytes ⇄ domain types, and nobody else's business.
//!
//! Stored bytes outlive this process and come from replicas of other versions,
//! so decoding checks everything and never panics; unknown fields are ignored.
//! Encoding is canonical: equal values have equal bytes, by which a repeated
//! commit is recognised.

mod breaker;
mod service_view;
mod steering;
mod view;

use std::time::Duration;

use breaker_core::{
    AgentId, ByPriority, Mix, PopId, Timestamp,
    ids::{NameError, RegionName},
    plan::RegionOrder,
};
use prost::Message;
use rampmeter_api::{convert::WireError, store as stored};

use super::{AgentPresence, Candidate, ConfigRecord, Presence};
pub(super) use breaker::{decode_record, encode_record};
pub(super) use service_view::{decode_service_view, encode_service_view};
pub(super) use steering::{decode_steering, encode_steering};
pub(super) use view::{decode_view, encode_view};

/// Why stored bytes make no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("not a {what}: {source}")]
    Bytes {
        what: &'static str,
        source: prost::DecodeError,
    },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{what} is {value}, which is out of range")]
    Range { what: &'static str, value: String },
}

type Decoded<T> = Result<T, Unreadable>;

fn parse<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Decoded<M> {
    M::decode(bytes).map_err(|source| Unreadable::Bytes { what, source })
}

fn range(what: &'static str, value: impl ToString) -> Unreadable {
    let value = value.to_string();
    Unreadable::Range { what, value }
}

fn finite(what: &'static str, value: f64) -> Decoded<f64> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(range(what, value))
}

/// Four, or none for zeros.
fn by_priority(rates: &ByPriority) -> Vec<f64> {
    match *rates == ByPriority::default() {
        true => Vec::new(),
        false => rates.0.to_vec(),
    }
}

fn read_by_priority(what: &'static str, rates: &[f64]) -> Decoded<ByPriority> {
    if rates.is_empty() {
        return Ok(ByPriority::default());
    }
    let four = <[f64; 4]>::try_from(rates);
    let four = four.map_err(|_| range("the number of priorities", rates.len()))?;
    for rate in four {
        finite(what, rate)?;
    }
    Ok(ByPriority(four))
}

/// None for the default, which is what something without traffic has.
fn mix(mix: &Mix) -> Vec<f64> {
    match *mix == Mix::default() {
        true => Vec::new(),
        false => by_priority(&mix.shares()),
    }
}

fn read_mix(shares: &[f64]) -> Decoded<Mix> {
    read_by_priority("a mix's share", shares).map(Mix::of)
}

fn read_order(order: &[String]) -> Decoded<RegionOrder> {
    let region = |region: &String| Ok(RegionName::new(region)?);
    order.iter().map(region).collect()
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Encodes what a replica tells of itself.
pub(super) fn encode_presence(presence: &Presence) -> Vec<u8> {
    let agent = |a: &AgentPresence| stored::AgentRecord {
        agent: a.agent.to_string(),
        instance: a.instance.clone(),
        pop: a.pop.to_string(),
        version: a.version.clone(),
        address: a.address.clone(),
        connected_ms: a.connected.as_millis(),
        heard_ms: a.heard.as_millis(),
        round_trip_us: a.round_trip.as_micros() as u64,
        in_sync: a.in_sync,
        config_revision: a.config_revision,
        config_error: a.config_error.clone(),
    };
    stored::ReplicaRecord {
        version: presence.version.clone(),
        agents: presence.agents.iter().map(agent).collect(),
    }
    .encode_to_vec()
}

/// Decodes it.
pub(super) fn decode_presence(bytes: &[u8]) -> Decoded<Presence> {
    let agent = |a: stored::AgentRecord| -> Decoded<AgentPresence> {
        Ok(AgentPresence {
            agent: AgentId::new(&a.agent)?,
            instance: a.instance,
            pop: PopId::new(&a.pop)?,
            version: a.version,
            address: a.address,
            connected: Timestamp::from_millis(a.connected_ms),
            heard: Timestamp::from_millis(a.heard_ms),
            round_trip: Duration::from_micros(a.round_trip_us),
            in_sync: a.in_sync,
            config_revision: a.config_revision,
            config_error: a.config_error,
        })
    };
    let replica: stored::ReplicaRecord = parse("replica record", bytes)?;
    Ok(Presence {
        version: replica.version,
        agents: replica
            .agents
            .into_iter()
            .map(agent)
            .collect::<Decoded<_>>()?,
    })
}

/// Encodes the fleet file in force.
pub(super) fn encode_config(config: &ConfigRecord) -> Vec<u8> {
    stored::ConfigRecord {
        revision: config.revision,
        yaml: config.yaml.clone(),
        applied_ms: config.applied.as_millis(),
        source: config.source.clone(),
        digests: config.digests.clone(),
        candidate: config.candidate.as_ref().map(|candidate| {
            Box::new(stored::ConfigRecord {
                yaml: candidate.yaml.clone(),
                applied_ms: candidate.applied.as_millis(),
                source: candidate.source.clone(),
                ..stored::ConfigRecord::default()
            })
        }),
    }
    .encode_to_vec()
}

/// Decodes it.
pub(super) fn decode_config(bytes: &[u8]) -> Decoded<ConfigRecord> {
    let config: stored::ConfigRecord = parse("configuration record", bytes)?;
    Ok(ConfigRecord {
        revision: config.revision,
        yaml: config.yaml,
        applied: Timestamp::from_millis(config.applied_ms),
        source: config.source,
        digests: config.digests,
        candidate: config.candidate.map(|candidate| Candidate {
            yaml: candidate.yaml,
            applied: Timestamp::from_millis(candidate.applied_ms),
            source: candidate.source,
        }),
    })
}

#[cfg(test)]
mod tests;
