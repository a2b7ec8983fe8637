//! A backend as readers see it.

use breaker_core::{BackendName, Breaker, BreakerPolicy, Circuit, Mode, Timestamp, TrialLease};

use super::{decision::admission, duration, timestamp, words};
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
        state: v1::BreakerState::from(words::state_of(circuit)).into(),
        admission: effective(mode, circuit, now),
        retry_time: retry_time(circuit),
    });
    let leases = match circuit {
        Circuit::HalfOpen { leases, .. } => leases.as_slice(),
        Circuit::Closed { .. } | Circuit::Open { .. } => &[],
    };
    v1::Backend {
        name: name.as_str().to_owned(),
        state: v1::BreakerState::from(words::state_of(circuit)).into(),
        mode: v1::Mode::from(mode).into(),
        admission: effective(mode, circuit, now),
        version: Some(breaker.version.into()),
        state_time: Some(timestamp(since(circuit))),
        retry_time: retry_time(circuit),
        trips: trips(circuit),
        pops: pops.collect(),
        r#override: breaker.over.as_ref().map(v1::Override::from),
        traffic: None,
        trial_leases: leases.iter().map(|l| lease(l, now)).collect(),
        trial_successes: match circuit {
            Circuit::HalfOpen { successes, .. } => *successes,
            Circuit::Closed { .. } | Circuit::Open { .. } => 0,
        },
        endpoints: Vec::new(),
    }
}

/// What agents let through under this mode, 0 to 1.
pub fn effective(mode: Mode, circuit: &Circuit, now: Timestamp) -> f64 {
    match mode {
        Mode::Enforce => admission(circuit, now),
        Mode::ForcedOpen => 0.0,
        Mode::Shadow | Mode::ForcedClosed | Mode::Disabled => 1.0,
    }
}

/// Since when a circuit is in its state.
pub fn since(circuit: &Circuit) -> Timestamp {
    let (Circuit::Closed { since, .. }
    | Circuit::Open { since, .. }
    | Circuit::HalfOpen { since, .. }) = circuit;
    *since
}

fn trips(circuit: &Circuit) -> u32 {
    let (Circuit::Closed { trips, .. }
    | Circuit::Open { trips, .. }
    | Circuit::HalfOpen { trips, .. }) = circuit;
    *trips
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
