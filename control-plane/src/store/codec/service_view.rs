//! One replica's view of one service.

use breaker_core::{ByPriority, plan::RegionOrder};
use prost::Message;
use rampmeter_api::store as stored;

use super::{
    Decoded, by_priority, finite, parse, read_by_priority, read_order,
    view::{latency, read_latency},
};
use crate::store::{CallerView, QuotaView, ServiceView};

/// Encodes a register.
pub(in crate::store) fn encode_service_view(view: &ServiceView) -> Vec<u8> {
    let origin = |(order, demand): (&RegionOrder, &ByPriority)| stored::OriginRegister {
        order: order.iter().map(|region| region.to_string()).collect(),
        demand_rps: by_priority(demand),
    };
    let quota = |(key, quota): (&u64, &QuotaView)| stored::QuotaRegister {
        key_hash: *key,
        wanted_rps: quota.wanted,
        admitted_rps: quota.admitted,
        agents: quota.agents,
    };
    let (drill_id, drill) = view.drill.clone().unwrap_or_default();
    let (rates, recent) = (view.rates, view.recent);
    let (latency_index_deltas, latency_counts) = latency(&view.latency);
    stored::ServiceRegister {
        origins: view.origins.iter().map(origin).collect(),
        succeeded_milli: milli(rates.succeeded),
        failed_milli: milli(rates.failed),
        refused_milli: milli(rates.refused),
        shed_milli: milli(rates.shed),
        shadowed_milli: milli(rates.shadowed),
        drill_id,
        drill_requests: whole(drill.succeeded + drill.failed + drill.refused),
        drill_succeeded: whole(drill.succeeded),
        drill_failed: whole(drill.failed),
        drill_shed: whole(drill.shed),
        drill_shadowed: whole(drill.shadowed),
        recent_succeeded: whole(recent.succeeded),
        recent_failed: whole(recent.failed),
        recent_refused: whole(recent.refused),
        recent_shed: whole(recent.shed),
        recent_shadowed: whole(recent.shadowed),
        latency_index_deltas,
        latency_counts,
        quotas: view.quotas.iter().map(quota).collect(),
    }
    .encode_to_vec()
}

/// Decodes a register.
pub(in crate::store) fn decode_service_view(bytes: &[u8]) -> Decoded<ServiceView> {
    let register: stored::ServiceRegister = parse("service register", bytes)?;
    let origin = |origin: &stored::OriginRegister| -> Decoded<_> {
        let demand = read_by_priority("an origin's demand", &origin.demand_rps)?;
        Ok((read_order(&origin.order)?, demand))
    };
    let quota = |quota: &stored::QuotaRegister| -> Decoded<_> {
        let read = QuotaView {
            wanted: finite("a quota's wanted rate", quota.wanted_rps)?,
            admitted: finite("a quota's admitted rate", quota.admitted_rps)?,
            agents: quota.agents,
        };
        Ok((quota.key_hash, read))
    };
    let answered = register
        .drill_succeeded
        .saturating_add(register.drill_failed);
    let drill = CallerView {
        succeeded: register.drill_succeeded as f64,
        failed: register.drill_failed as f64,
        refused: register.drill_requests.saturating_sub(answered) as f64,
        shed: register.drill_shed as f64,
        shadowed: register.drill_shadowed as f64,
    };
    Ok(ServiceView {
        origins: register
            .origins
            .iter()
            .map(origin)
            .collect::<Decoded<_>>()?,
        rates: CallerView {
            succeeded: from_milli(register.succeeded_milli),
            failed: from_milli(register.failed_milli),
            refused: from_milli(register.refused_milli),
            shed: from_milli(register.shed_milli),
            shadowed: from_milli(register.shadowed_milli),
        },
        recent: CallerView {
            succeeded: register.recent_succeeded as f64,
            failed: register.recent_failed as f64,
            refused: register.recent_refused as f64,
            shed: register.recent_shed as f64,
            shadowed: register.recent_shadowed as f64,
        },
        drill: (!register.drill_id.is_empty()).then_some((register.drill_id, drill)),
        latency: read_latency(&register.latency_index_deltas, &register.latency_counts)?,
        quotas: register.quotas.iter().map(quota).collect::<Decoded<_>>()?,
    })
}

/// Thousandths; 0 for what is no number.
fn milli(rate: f64) -> u64 {
    whole(rate * 1_000.0)
}

fn from_milli(milli: u64) -> f64 {
    milli as f64 / 1_000.0
}

fn whole(count: f64) -> u64 {
    count.round() as u64
}
