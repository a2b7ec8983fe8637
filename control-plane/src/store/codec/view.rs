//! One replica's view of one backend: written and read several times a second,
//! so it is kept small (slots as differences, empty fields cost nothing).

use std::time::Duration;

use breaker_core::{
    AgentId, Counts, FleetView, PopId, PopView, Timestamp, Window, Witness,
    breaker::TrialCandidate, evidence::Baseline, window::SLOT,
};
use prost::Message;
use rampmeter_api::store as stored;

use super::{Decoded, by_priority, finite, millis, parse, range, read_by_priority};
use crate::store::{EndpointView, ReplicaView};

/// Encodes a register.
pub(in crate::store) fn encode_view(view: &ReplicaView) -> Vec<u8> {
    let (deltas, counts) = latency(&view.latency);
    stored::Register {
        pops: view.fleet.pops.iter().map(pop).collect(),
        baseline_requests: view.fleet.baseline.requests,
        baseline_failures: view.fleet.baseline.failures,
        baseline_overloads: view.fleet.baseline.overloads,
        max_retry_after_ms: view.max_retry_after.map(millis),
        demand_milli: view.demand_milli,
        rejected_milli: view.rejected_milli,
        in_flight: view.in_flight,
        latency_index_deltas: deltas,
        latency_counts: counts,
        agents_known: view.fleet.agents_known,
        agents_reporting: view.fleet.agents_reporting,
        candidates: view.candidates.iter().map(candidate).collect(),
        directed_rps: by_priority(&view.directed),
        accepted_rps: view.accepted,
        endpoints: view.endpoints.iter().map(endpoint).collect(),
        metered: slots(&view.metered),
    }
    .encode_to_vec()
}

/// Decodes a register.
pub(in crate::store) fn decode_view(bytes: &[u8]) -> Decoded<ReplicaView> {
    let register: stored::Register = parse("register", bytes)?;
    let pops = register.pops.into_iter().map(read_pop);
    Ok(ReplicaView {
        fleet: FleetView {
            pops: pops.collect::<Decoded<_>>()?,
            baseline: Baseline {
                requests: register.baseline_requests,
                failures: register.baseline_failures,
                overloads: register.baseline_overloads,
            },
            agents_known: register.agents_known,
            agents_reporting: register.agents_reporting,
        },
        max_retry_after: register.max_retry_after_ms.map(Duration::from_millis),
        demand_milli: register.demand_milli,
        rejected_milli: register.rejected_milli,
        in_flight: register.in_flight,
        latency: read_latency(&register.latency_index_deltas, &register.latency_counts)?,
        candidates: register
            .candidates
            .into_iter()
            .map(read_candidate)
            .collect::<Decoded<_>>()?,
        directed: read_by_priority("directed demand", &register.directed_rps)?,
        accepted: finite("accepted requests", register.accepted_rps)?,
        metered: read_slots(&register.metered)?,
        endpoints: register
            .endpoints
            .into_iter()
            .map(read_endpoint)
            .collect::<Decoded<_>>()?,
    })
}

/// A sparse histogram as deltas of its buckets, and counts.
pub(super) fn latency(sparse: &[(u32, u32)]) -> (Vec<u32>, Vec<u32>) {
    let mut previous = 0;
    let delta = |(bucket, count): &(u32, u32)| {
        let delta = bucket.wrapping_sub(previous);
        previous = *bucket;
        (delta, *count)
    };
    sparse.iter().map(delta).unzip()
}

pub(super) fn read_latency(deltas: &[u32], counts: &[u32]) -> Decoded<Vec<(u32, u32)>> {
    if deltas.len() != counts.len() {
        return Err(range("the number of latency counts", counts.len()));
    }
    let mut bucket = 0_u32;
    let read = |(delta, count): (&u32, &u32)| {
        bucket = bucket
            .checked_add(*delta)
            .ok_or_else(|| range("a latency bucket's delta", delta))?;
        Ok((bucket, *count))
    };
    deltas.iter().zip(counts).map(read).collect()
}

fn pop(pop: &PopView) -> stored::PopRegister {
    let witness = |witness: &Witness| stored::Witness {
        agent: witness.agent.to_string(),
        slots: slots(&witness.window),
    };
    stored::PopRegister {
        pop: pop.pop.to_string(),
        agents: pop.agents,
        total: slots(&pop.total),
        worst: pop.worst.iter().map(witness).collect(),
        heard_ms: Some(pop.heard.as_millis()).filter(|heard| *heard < u64::MAX),
    }
}

fn read_pop(pop: stored::PopRegister) -> Decoded<PopView> {
    let witness = |witness: stored::Witness| -> Decoded<Witness> {
        Ok(Witness {
            agent: AgentId::new(&witness.agent)?,
            window: read_slots(&witness.slots)?,
        })
    };
    Ok(PopView {
        pop: PopId::new(&pop.pop)?,
        agents: pop.agents,
        total: read_slots(&pop.total)?,
        worst: pop.worst.into_iter().map(witness).collect::<Decoded<_>>()?,
        heard: Timestamp::from_millis(pop.heard_ms.unwrap_or(u64::MAX)),
    })
}

fn slots(window: &Window) -> Vec<stored::Slot> {
    let mut previous = 0;
    let slot = |(index, counts): (u64, Counts)| {
        let index_delta = index - previous;
        previous = index;
        stored::Slot {
            index_delta,
            requests: counts.requests,
            failures: counts.failures,
            overloads: counts.overloads,
            slow_calls: counts.slow,
        }
    };
    window.slots().map(slot).collect()
}

fn read_slots(slots: &[stored::Slot]) -> Decoded<Window> {
    let mut window = Window::default();
    let mut index = 0_u64;
    for slot in slots {
        let start = index
            .checked_add(slot.index_delta)
            .inspect(|next| index = *next)
            .and_then(|index| index.checked_mul(SLOT.as_millis() as u64));
        let start = start.ok_or_else(|| range("a slot's delta", slot.index_delta))?;
        let counts = Counts {
            requests: plausible(slot.requests)?,
            failures: plausible(slot.failures)?,
            overloads: plausible(slot.overloads)?,
            slow: plausible(slot.slow_calls)?,
        };
        window.record(Timestamp::from_millis(start), counts);
    }
    Ok(window)
}

/// Sums over a thousand replicas' slots must not overflow.
fn plausible(count: u64) -> Decoded<u64> {
    if count <= 1 << 48 {
        return Ok(count);
    }
    Err(range("a slot's count", count))
}

fn endpoint(view: &EndpointView) -> stored::EndpointRegister {
    stored::EndpointRegister {
        endpoint: view.endpoint.clone(),
        pop: view.pop.to_string(),
        healthy: view.healthy,
        unhealthy: view.unhealthy,
        probers: view.probers.iter().map(AgentId::to_string).collect(),
        error: view.error.clone(),
        probes_milli: (view.probes * 1000.0).round() as u64,
    }
}

fn read_endpoint(view: stored::EndpointRegister) -> Decoded<EndpointView> {
    let prober = |agent: &String| Ok(AgentId::new(agent)?);
    Ok(EndpointView {
        endpoint: view.endpoint,
        pop: PopId::new(&view.pop)?,
        healthy: view.healthy,
        unhealthy: view.unhealthy,
        probers: view.probers.iter().map(prober).collect::<Decoded<_>>()?,
        error: view.error,
        probes: view.probes_milli as f64 / 1000.0,
    })
}

fn candidate(candidate: &TrialCandidate) -> stored::Candidate {
    stored::Candidate {
        agent: candidate.agent.to_string(),
        pop: candidate.pop.to_string(),
        demand: candidate.demand,
        idempotent: candidate.idempotent,
    }
}

fn read_candidate(candidate: stored::Candidate) -> Decoded<TrialCandidate> {
    Ok(TrialCandidate {
        agent: AgentId::new(&candidate.agent)?,
        pop: PopId::new(&candidate.pop)?,
        demand: finite("a candidate's demand", candidate.demand)?,
        idempotent: finite("a candidate's idempotent demand", candidate.idempotent)?,
    })
}
