//! What is seen of a drill, over all replicas, and what it leaves behind.

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    Breaker, Circuit, PopId, Timestamp,
    explain::steering::drill as in_words,
    ids::RegionName,
    steering::{Callers, Drill, DrillObservation, DrillState},
};
use rampmeter_api::convert::histogram::{self, Buckets};

use crate::{
    board::services::SeenService,
    config::Fleet,
    plane::Plane,
    store::{CallerView, ServiceView},
};

const SECOND: Duration = Duration::from_secs(1);

/// Before a drill, agents report once a second, and were looked at up to a second
/// ago: what is this old is complete.
const CALM_DELAY: Duration = Duration::from_secs(2);

/// While it runs they report ten times a second, as often as they are looked at.
const HOT_DELAY: Duration = Duration::from_millis(250);

/// Of fewer requests, one that is slow says nothing about the rest.
const SLOWEST_OF: u64 = 20;

/// For so long after its end, what a drill did to its breaker is undone. Later,
/// the breaker has come back by itself.
const UNDONE_WITHIN: Duration = Duration::from_secs(10);

/// Requests that a drill delayed fail up to this much after its end, and may open
/// the breaker once more.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// What is seen now of a drill that runs. `figures` are the service's, of all
/// replicas.
pub fn observe(
    plane: &Plane,
    fleet: &Fleet,
    drill: &Drill,
    figures: &ServiceView,
) -> DrillObservation {
    let counts = figures.drill.as_ref().filter(|(id, _)| *id == drill.id);
    let delay = match drill.report.before.is_empty() {
        true => CALM_DELAY,
        false => HOT_DELAY,
    };
    let from = plane.clock.now() - delay - SECOND;
    DrillObservation {
        open: is_open(plane, fleet, drill),
        recent: callers(&figures.recent),
        total: counts
            .map(|(_, counts)| callers(counts))
            .unwrap_or_default(),
        latency_p99: latency_p99(&figures.latency),
        rates: rates(plane, fleet, drill, from),
        rates_since: Some(from),
    }
}

/// The drill that a service had last, with a report up to now if it still runs.
pub fn shown(plane: &Plane, fleet: &Fleet, seen: &SeenService) -> Option<Drill> {
    let steering = &seen.steering;
    let Some(drill) = steering.running_drill() else {
        return steering.drill.clone();
    };
    let now = plane.clock.now();
    let seen = observe(plane, fleet, drill, &seen.figures);
    let mut drill = drill.clone();
    drill.report = drill.report_with(&seen, steering.plan.as_ref(), now);
    drill.report.summary = in_words(&drill, "");
    Some(drill)
}

/// The drill ended a moment ago, and its breaker was not reset since, or was opened
/// by the drill's last requests. It needs no memory, so any replica that looks at
/// the backend resets it, also if the one that ended the drill died.
pub fn left_behind(drill: &Drill, breaker: &Breaker, now: Timestamp) -> bool {
    let ended = drill.state != DrillState::Running && now.since(drill.ends) < UNDONE_WITHIN;
    ended
        && breaker.circuits().any(|(_, circuit)| match circuit {
            Circuit::Closed { since, .. } => *since < drill.ends,
            Circuit::Open { since, .. } | Circuit::HalfOpen { since, .. } => {
                *since < drill.ends + STRAGGLERS
            }
        })
}

/// The breaker lets nobody through where the drill is.
fn is_open(plane: &Plane, fleet: &Fleet, drill: &Drill) -> bool {
    let (Some(seen), Some(policy)) = (
        plane.board.get(&drill.backend),
        fleet.config.policy(&drill.backend),
    ) else {
        return false;
    };
    let now = plane.clock.now();
    let closed = |pop: &PopId| seen.breaker.admission(policy, Some(pop), now) > 0.0;
    match drill.pops.is_empty() {
        true => !fleet.config.pops.keys().any(closed),
        false => !drill.pops.iter().any(closed),
    }
}

fn callers(view: &CallerView) -> Callers {
    Callers {
        succeeded: view.succeeded,
        failed: view.failed,
        refused: view.refused,
    }
}

fn latency_p99(latency: &[(u32, u32)]) -> Option<Duration> {
    let counts = latency.iter().map(|(b, n)| (*b, u64::from(*n)));
    let buckets: Buckets = counts.collect();
    let enough = buckets.values().sum::<u64>() >= SLOWEST_OF;
    let micros = enough.then(|| histogram::quantile(&buckets, 0.99))??;
    Some(Duration::from_micros(micros))
}

/// Requests a second that each region of the service got within the second that
/// began at `from`; those that the drill failed are among them.
fn rates(
    plane: &Plane,
    fleet: &Fleet,
    drill: &Drill,
    from: Timestamp,
) -> BTreeMap<RegionName, f64> {
    let service = fleet.config.services.get(drill.backend.service());
    let backends = service.into_iter().flat_map(|service| &service.backends);
    let rate = |(region, backend): (&RegionName, &fleet_config::Backend)| {
        let seen = plane.board.get(&backend.name)?;
        let pops = seen.figures.fleet.pops.iter();
        let requests: u64 = pops
            .map(|pop| {
                let since = pop.total.total_since(from);
                let later = pop.total.total_since(from + SECOND);
                since.saturating_sub(later).requests
            })
            .sum();
        Some((region.clone(), requests as f64 / SECOND.as_secs_f64()))
    };
    backends.filter_map(rate).collect()
}

#[cfg(test)]
mod tests {
    use breaker_core::{
        BackendName, BreakerPolicy,
        breaker::Input,
        steering::{DrillReport, Fault, Guard},
    };

    use super::*;

    const ENDED: Timestamp = Timestamp::from_millis(1_000_000);

    fn drill(state: DrillState) -> Drill {
        Drill {
            id: "d".to_owned(),
            backend: BackendName::parse("pay/us-east").expect("a valid name"),
            fault: Fault::Dead,
            share: 1.0,
            pops: [].into(),
            guard: Guard {
                min_success_rate: 0.5,
                max_latency_p99: None,
                grace: SECOND,
            },
            success_rate: 0.99,
            state,
            actor: String::new(),
            reason: String::new(),
            started: ENDED - SECOND,
            ends: ENDED,
            report: DrillReport::default(),
        }
    }

    fn in_state(fleet: Circuit) -> Breaker {
        let mut breaker = Breaker::new(1, Timestamp::default());
        breaker.fleet = fleet;
        breaker
    }

    fn open(since: Timestamp) -> Breaker {
        in_state(Circuit::Open {
            since,
            until: since + SECOND * 60,
            trips: 1,
        })
    }

    #[test]
    fn what_a_drill_opened_is_reset_once_and_what_fails_afterwards_is_not() {
        let (ended, now) = (drill(DrillState::Passed), ENDED + SECOND);
        let opened = open(ENDED - SECOND);
        assert!(left_behind(&ended, &opened, now));
        assert!(!left_behind(&drill(DrillState::Running), &opened, now));
        assert!(!left_behind(&ended, &opened, now + SECOND * 60));
        let step = opened.step(Input::Reset, &BreakerPolicy::default(), now);
        let reset = step.next.expect("a change");
        assert!(!left_behind(&ended, &reset, now));
        let straggler = open(ENDED + SECOND);
        assert!(left_behind(&ended, &straggler, now));
        let ill = open(ENDED + SECOND * 3);
        assert!(!left_behind(&ended, &ill, ENDED + SECOND * 4));
        // Failures of a drill that nobody noticed must not count later.
        let unnoticed = Breaker::new(1, ENDED - SECOND * 9);
        assert!(left_behind(&ended, &unnoticed, now));
    }

    #[test]
    fn a_p99_needs_requests() {
        assert_eq!(latency_p99(&[]), None);
        assert_eq!(latency_p99(&[(40, 10)]), None);
        assert!(latency_p99(&[(40, 1000)]).is_some());
    }
}
