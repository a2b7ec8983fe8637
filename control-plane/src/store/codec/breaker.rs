//! A backend's committed record.

use std::time::Duration;

use breaker_core::{
    AgentId, Breaker, Circuit, Mode, PopId, Ramp, Throttle, Timestamp, TrialLease, Version,
    breaker::Override,
};
use prost::Message;
use rampmeter_api::store::{self as stored, circuit::State};

use super::{Decoded, Unreadable, finite, millis, mix, parse, range, read_mix};
use crate::store::Record;

/// Encodes a record without its version.
pub(in crate::store) fn encode_record(record: &Record) -> Vec<u8> {
    let breaker = &record.breaker;
    let pops = breaker.pops.iter().map(|(pop, c)| stored::PopCircuit {
        pop: pop.to_string(),
        circuit: Some(circuit(c)),
    });
    stored::BackendRecord {
        fleet: Some(circuit(&breaker.fleet)),
        pops: pops.collect(),
        r#override: breaker.over.as_ref().map(over),
        last_transition: record.last_transition.to_vec(),
        throttle: breaker.throttle.as_ref().map(throttle),
        mix: mix(&breaker.mix),
    }
    .encode_to_vec()
}

/// Decodes a record that is kept in `version`.
pub(in crate::store) fn decode_record(bytes: &[u8], version: Version) -> Decoded<Record> {
    let record: stored::BackendRecord = parse("breaker record", bytes)?;
    let pop = |p: stored::PopCircuit| -> Decoded<_> {
        Ok((PopId::new(&p.pop)?, read_circuit(p.circuit)?))
    };
    let breaker = Breaker {
        version,
        fleet: read_circuit(record.fleet)?,
        pops: record.pops.into_iter().map(pop).collect::<Decoded<_>>()?,
        over: record.r#override.map(read_over).transpose()?,
        throttle: record.throttle.map(read_throttle).transpose()?,
        mix: read_mix(&record.mix)?,
    };
    let last_transition = record.last_transition.into();
    Ok(Record {
        breaker,
        last_transition,
    })
}

fn circuit(circuit: &Circuit) -> stored::Circuit {
    let state = match circuit {
        Circuit::Closed {
            since,
            ramp,
            trips,
            last_open,
            served,
            served_at,
        } => State::Closed(stored::Closed {
            since_ms: since.as_millis(),
            ramp: ramp.as_ref().map(|ramp| stored::Ramp {
                from: ramp.from,
                from_ms: ramp.from_at.as_millis(),
                duration_ms: millis(ramp.duration),
            }),
            trips: *trips,
            last_open_ms: millis(*last_open),
            served_ms: millis(*served),
            served_at_ms: served_at.as_millis(),
        }),
        Circuit::Open {
            since,
            until,
            trips,
        } => State::Open(stored::Open {
            since_ms: since.as_millis(),
            until_ms: until.as_millis(),
            trips: *trips,
        }),
        Circuit::HalfOpen {
            since,
            trips,
            last_open,
            successes,
            leases,
            tried,
        } => State::HalfOpen(stored::HalfOpen {
            since_ms: since.as_millis(),
            trips: *trips,
            successes: *successes,
            leases: leases.iter().map(lease).collect(),
            tried_agents: tried.iter().map(AgentId::to_string).collect(),
            last_open_ms: millis(*last_open),
        }),
    };
    stored::Circuit { state: Some(state) }
}

fn read_circuit(circuit: Option<stored::Circuit>) -> Decoded<Circuit> {
    let state = circuit.and_then(|circuit| circuit.state);
    Ok(
        match state.ok_or(Unreadable::Missing("a circuit's state"))? {
            State::Closed(closed) => Circuit::Closed {
                since: Timestamp::from_millis(closed.since_ms),
                ramp: closed.ramp.map(read_ramp).transpose()?,
                trips: closed.trips,
                last_open: Duration::from_millis(closed.last_open_ms),
                served: Duration::from_millis(closed.served_ms),
                served_at: Timestamp::from_millis(closed.served_at_ms),
            },
            State::Open(open) => Circuit::Open {
                since: Timestamp::from_millis(open.since_ms),
                until: Timestamp::from_millis(open.until_ms),
                trips: open.trips,
            },
            State::HalfOpen(half) => Circuit::HalfOpen {
                since: Timestamp::from_millis(half.since_ms),
                trips: half.trips,
                last_open: Duration::from_millis(half.last_open_ms),
                successes: half.successes,
                leases: half
                    .leases
                    .into_iter()
                    .map(read_lease)
                    .collect::<Decoded<_>>()?,
                tried: half
                    .tried_agents
                    .iter()
                    .map(|agent| Ok(AgentId::new(agent)?))
                    .collect::<Decoded<_>>()?,
            },
        },
    )
}

fn read_ramp(ramp: stored::Ramp) -> Decoded<Ramp> {
    Ok(Ramp {
        from: finite("a ramp's admission", ramp.from)?,
        from_at: Timestamp::from_millis(ramp.from_ms),
        duration: Duration::from_millis(ramp.duration_ms),
    })
}

fn throttle(throttle: &Throttle) -> stored::Throttle {
    stored::Throttle {
        admission: throttle.admission,
        since_ms: throttle.since.as_millis(),
        changed_ms: throttle.changed.as_millis(),
        told: throttle.told,
    }
}

fn read_throttle(throttle: stored::Throttle) -> Decoded<Throttle> {
    Ok(Throttle {
        admission: share("a throttle's admission", throttle.admission)?,
        since: Timestamp::from_millis(throttle.since_ms),
        changed: Timestamp::from_millis(throttle.changed_ms),
        told: share("a throttle's admission as told", throttle.told)?,
    })
}

fn share(what: &'static str, value: f64) -> Decoded<f64> {
    if value <= 1.0 {
        return finite(what, value);
    }
    Err(range(what, value))
}

fn lease(lease: &TrialLease) -> stored::Lease {
    stored::Lease {
        id: lease.id.clone(),
        agent: lease.agent.to_string(),
        pop: lease.pop.to_string(),
        expires_ms: lease.expires.as_millis(),
    }
}

fn read_lease(lease: stored::Lease) -> Decoded<TrialLease> {
    Ok(TrialLease {
        id: lease.id,
        agent: AgentId::new(&lease.agent)?,
        pop: PopId::new(&lease.pop)?,
        expires: Timestamp::from_millis(lease.expires_ms),
    })
}

fn over(over: &Override) -> stored::Override {
    let mode = match over.mode {
        Mode::Enforce => stored::Mode::Enforce,
        Mode::Shadow => stored::Mode::Shadow,
        Mode::ForcedOpen => stored::Mode::ForcedOpen,
        Mode::ForcedClosed => stored::Mode::ForcedClosed,
        Mode::Disabled => stored::Mode::Disabled,
    };
    stored::Override {
        mode: mode.into(),
        actor: over.actor.clone(),
        reason: over.reason.clone(),
        created_ms: over.created.as_millis(),
        expires_ms: over.expires.as_millis(),
    }
}

fn read_over(over: stored::Override) -> Decoded<Override> {
    let mode = match over.mode() {
        stored::Mode::Enforce => Mode::Enforce,
        stored::Mode::Shadow => Mode::Shadow,
        stored::Mode::ForcedOpen => Mode::ForcedOpen,
        stored::Mode::ForcedClosed => Mode::ForcedClosed,
        stored::Mode::Disabled => Mode::Disabled,
        stored::Mode::Unspecified => return Err(range("an override's mode", over.mode)),
    };
    Ok(Override {
        mode,
        actor: over.actor,
        reason: over.reason,
        created: Timestamp::from_millis(over.created_ms),
        expires: Timestamp::from_millis(over.expires_ms),
    })
}
