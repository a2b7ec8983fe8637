//! A backend as readers see it.

use breaker_core::{BackendName, Breaker, BreakerPolicy, Circuit, Timestamp, TrialLease, explain};

use super::{duration, timestamp};
use crate::v1;

/// Everything but traffic and endpoints, which the caller knows.
pub fn backend(
    name: &BackendName,
    breaker: &Breaker,
    policy: &BreakerPolicy,
    now: Timestamp,
) -> v1::Backend {
    let mode = breaker.mode(policy);
    let circuit = &breaker.fleet;
    let pops = breaker.pops.iter().map(|(pop, circuit)| v1::PopState {
        pop: pop.as_str().to_owned(),
        state: v1::BreakerState::from(circuit.state()).into(),
        admission: Some(breaker.admission(policy, Some(pop), now)),
        retry_time: retry_time(circuit),
    });
    let leases = match circuit {
        Circuit::HalfOpen { leases, .. } => leases.as_slice(),
        Circuit::Closed { .. } | Circuit::Open { .. } => &[],
    };
    v1::Backend {
        name: name.as_str().to_owned(),
        state: v1::BreakerState::from(circuit.state()).into(),
        mode: v1::Mode::from(mode).into(),
        admission: Some(breaker.admission(policy, None, now)),
        version: Some(breaker.version.into()),
        state_time: Some(timestamp(since(circuit))),
        retry_time: retry_time(circuit),
        trips: circuit.trips(),
        pops: pops.collect(),
        r#override: breaker.over.as_ref().map(v1::Override::from),
        traffic: None,
        trial_leases: leases.iter().map(|l| lease(l, now)).collect(),
        trial_successes: match circuit {
            Circuit::HalfOpen { successes, .. } => *successes,
            Circuit::Closed { .. } | Circuit::Open { .. } => 0,
        },
        throttle: breaker.throttle.map(|t| t.admission),
        shedding: explain::shedding(breaker.mix, breaker.admission(policy, None, now)),
        ..v1::Backend::default()
    }
}

/// Since when a circuit is in its state.
pub fn since(circuit: &Circuit) -> Timestamp {
    let (Circuit::Closed { since, .. }
    | Circuit::Open { since, .. }
    | Circuit::HalfOpen { since, .. }) = circuit;
    *since
}

fn retry_time(circuit: &Circuit) -> Option<prost_types::Timestamp> {
    match circuit {
        Circuit::Open { until, .. } => Some(timestamp(*until)),
        Circuit::Closed { .. } | Circuit::HalfOpen { .. } => None,
    }
}

fn lease(lease: &TrialLease, now: Timestamp) -> v1::TrialLease {
    v1::TrialLease {
        lease_id: lease.id.clone(),
        agent: lease.agent.as_str().to_owned(),
        expires_in: Some(duration(now.until(lease.expires))),
    }
}
