//! What agents hold, as a store that lost everything may take it over.

use breaker_core::{Breaker, BreakerPolicy, Circuit};

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

    use breaker_core::{Timestamp, Version};

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
