//! What agents hold, as a store that lost everything may take it over.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use breaker_core::{
    BackendName, Breaker, BreakerPolicy, Circuit, Steering, Throttle, Timestamp, ids::ServiceName,
};
use bytes::Bytes;
use rampmeter_api::convert::{self, decision::Decision};

use crate::{
    config::Fleet,
    store::{Record, plausible},
};

/// Backends whose decisions are kept while the store is away: more than a fleet
/// file within its cap describes with sense.
const HELD_KEPT: usize = 10_000;

/// What agents hold and the store was not told yet: of each backend and service
/// the newest.
#[derive(Debug, Default)]
pub struct Held {
    backends: Mutex<BTreeMap<BackendName, Decision>>,
    services: Mutex<BTreeMap<ServiceName, Steering>>,
}

impl Held {
    /// Keeps a decision until the store is told.
    pub fn keep(&self, decision: Decision) {
        let mut held = lock(&self.backends);
        let newer = match held.get(&decision.backend) {
            Some(known) => known.version < decision.version,
            None => held.len() < HELD_KEPT,
        };
        if newer && plausible(decision.version) {
            held.insert(decision.backend.clone(), decision);
        }
    }

    /// As [`keep`](Self::keep), for a service.
    pub fn keep_service(&self, name: ServiceName, steering: Steering) {
        let mut held = lock(&self.services);
        let newer = match held.get(&name) {
            Some(known) => known.version < steering.version,
            None => held.len() < HELD_KEPT,
        };
        if newer && plausible(steering.version) {
            held.insert(name, steering);
        }
    }

    /// What to tell the store; of what is not configured nothing is kept.
    pub fn records(&self, fleet: &Fleet) -> Vec<(BackendName, Record)> {
        let mut held = lock(&self.backends);
        held.retain(|name, _| fleet.config.policy(name).is_some());
        let record = |decision: &Decision| {
            let policy = fleet.config.policy(&decision.backend)?;
            Some((decision.backend.clone(), record(decision, policy)))
        };
        held.values().filter_map(record).collect()
    }

    /// As [`records`](Self::records), for services.
    pub fn services(&self, fleet: &Fleet, now: Timestamp) -> Vec<(ServiceName, Steering)> {
        let mut held = lock(&self.services);
        held.retain(|name, _| fleet.config.services.contains_key(name));
        let record = |(name, steering): (&ServiceName, &Steering)| {
            let service = fleet.config.services.get(name)?;
            let adopted = safe_steering(steering.clone(), service, now);
            Some((name.clone(), adopted))
        };
        held.iter().filter_map(record).collect()
    }

    /// The store was told.
    pub fn told(&self, records: &[(BackendName, Record)], services: &[(ServiceName, Steering)]) {
        let mut held = lock(&self.services);
        for (name, steering) in services {
            if held
                .get(name)
                .is_some_and(|s| s.version <= steering.version)
            {
                held.remove(name);
            }
        }
        let mut held = lock(&self.backends);
        for (name, record) in records {
            if held
                .get(name)
                .is_some_and(|d| d.version <= record.breaker.version)
            {
                held.remove(name);
            }
        }
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A service's record as it may be adopted: drains that still last, of regions
/// that there are. A drill ends with the store that knew its guard, so that
/// nothing fails requests on purpose that nobody watches.
fn safe_steering(
    mut steering: Steering,
    service: &fleet_config::Service,
    now: Timestamp,
) -> Steering {
    let lasts = |expires: Timestamp| expires > now;
    steering
        .drains
        .retain(|region, drain| service.backends.contains_key(region) && lasts(drain.expires));
    steering.drill = None;
    steering
}

fn record(decision: &Decision, policy: &BreakerPolicy) -> Record {
    let taken_over = convert::backend::since(&decision.fleet);
    let breaker = Breaker {
        version: decision.version,
        fleet: decision.fleet.clone(),
        pops: decision.pops.clone(),
        over: None,
        throttle: decision.throttle.map(|admission| Throttle {
            admission,
            since: taken_over,
            changed: taken_over,
            told: admission,
        }),
        mix: decision.mix,
    };
    Record {
        breaker: safe(breaker, policy),
        last_transition: Bytes::new(),
    }
}

/// A breaker as it may be adopted. A HALF_OPEN circuit may have trials out that
/// nobody here knows of, so it stays shut until the last of them has ended:
/// then there never are more than the policy allows.
pub fn safe(mut breaker: Breaker, policy: &BreakerPolicy) -> Breaker {
    breaker.fleet = safe_circuit(breaker.fleet, policy);
    for circuit in breaker.pops.values_mut() {
        *circuit = safe_circuit(circuit.clone(), policy);
    }
    breaker
}

fn safe_circuit(circuit: Circuit, policy: &BreakerPolicy) -> Circuit {
    match circuit {
        Circuit::HalfOpen { since, trips, .. } => Circuit::Open {
            since,
            until: since + policy.trial_timeout,
            trips: trips.max(1),
        },
        Circuit::Closed { .. } | Circuit::Open { .. } => circuit,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use breaker_core::Version;

    use super::*;

    #[test]
    fn an_adopted_half_open_circuit_waits_for_trials_that_may_be_out() {
        let policy = BreakerPolicy {
            trial_timeout: Duration::from_secs(7),
            ..BreakerPolicy::default()
        };
        let since = Timestamp::from_millis(5000);
        let held = Breaker {
            version: Version::default(),
            fleet: Circuit::HalfOpen {
                since,
                trips: 2,
                last_open: Duration::ZERO,
                successes: 1,
                leases: Vec::new(),
                tried: Vec::new(),
            },
            pops: BTreeMap::new(),
            over: None,
            throttle: None,
            mix: breaker_core::Mix::default(),
        };
        let adopted = safe(held, &policy).fleet;
        let until = since + Duration::from_secs(7);
        assert_eq!(
            adopted,
            Circuit::Open {
                since,
                until,
                trips: 2
            }
        );
    }
}
