//! What goes over the wire comes back, and what must not come in does not.

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    BackendName, Breaker, BreakerPolicy, ByPriority, Circuit, Mix, Mode, Plan, PopId, Ramp,
    Steering, Timestamp, Version,
    breaker::{Happening, Override},
    ids::{RegionName, ServiceName},
    plan::OriginPlan,
};

use super::{decision, duration, duration_up_to, event, histogram, steering};
use crate::v1;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn backend() -> BackendName {
    BackendName::parse("pay/us-east").expect("a valid name")
}

fn breaker(fleet: Circuit) -> Breaker {
    Breaker {
        version: Version {
            epoch: 2,
            revision: 7,
        },
        fleet,
        pops: BTreeMap::new(),
        over: None,
        throttle: None,
        mix: breaker_core::Mix::default(),
    }
}

fn open(retry_in: Duration) -> Circuit {
    Circuit::Open {
        since: NOW,
        until: NOW + retry_in,
        trips: 3,
    }
}

fn ramping() -> Circuit {
    Circuit::Closed {
        since: NOW,
        ramp: Some(Ramp {
            from: 0.25,
            from_at: NOW + Duration::from_secs(2),
            duration: Duration::from_secs(30),
        }),
        trips: 1,
        last_open: Duration::ZERO,
        served: Duration::ZERO,
        served_at: NOW,
    }
}

fn there_and_back(breaker: &Breaker, sent: Timestamp, received: Timestamp) -> decision::Decision {
    let wire = decision::decision(&backend(), breaker, &BreakerPolicy::default(), sent);
    decision::from_decision(&wire, received).expect("our own decision is valid")
}

#[test]
fn an_open_circuit_keeps_its_remaining_time_on_another_clock() {
    let there = breaker(open(Duration::from_secs(12)));
    let received = Timestamp::from_millis(50);
    let here = there_and_back(&there, NOW + Duration::from_secs(2), received);
    assert_eq!(here.version, there.version);
    assert_eq!(
        here.fleet,
        Circuit::Open {
            since: received,
            until: received + Duration::from_secs(10),
            trips: 3
        }
    );
}

#[test]
fn a_ramp_admits_the_same_share_on_both_sides() {
    let there = ramping();
    let here = there_and_back(&breaker(there.clone()), NOW, NOW).fleet;
    for seconds in [0, 1, 2, 5, 20, 60] {
        let at = NOW + Duration::from_secs(seconds);
        let (a, b) = (there.admission(at), here.admission(at));
        assert!(
            (a - b).abs() < 1e-9,
            "after {seconds} s: {a} there, {b} here"
        );
    }
}

#[test]
fn an_override_ends_on_the_other_clock_when_it_does_here() {
    let mut there = breaker(ramping());
    there.over = Some(Override {
        mode: Mode::ForcedOpen,
        actor: "ann".to_owned(),
        reason: "bad deploy".to_owned(),
        created: NOW,
        expires: NOW + Duration::from_secs(60),
    });
    let received = Timestamp::from_millis(50);
    let here = there_and_back(&there, NOW + Duration::from_secs(20), received);
    let mode = |seconds| here.mode(Mode::Enforce, received + Duration::from_secs(seconds));
    assert_eq!((mode(39), mode(40)), (Mode::ForcedOpen, Mode::Enforce));
    there.over = None;
    let here = there_and_back(&there, NOW, received);
    assert_eq!(here.override_until, None);
}

#[test]
fn a_pop_keeps_its_own_circuit() {
    let mut there = breaker(ramping());
    let pop = PopId::new("fra1").expect("a valid name");
    there.pops.insert(pop.clone(), open(Duration::from_secs(5)));
    let here = there_and_back(&there, NOW, NOW);
    assert_eq!(here.pops.get(&pop), Some(&open(Duration::from_secs(5))));
}

#[test]
fn a_decision_that_lacks_something_or_lies_is_refused_by_field() {
    let good = decision::decision(
        &backend(),
        &breaker(ramping()),
        &BreakerPolicy::default(),
        NOW,
    );
    let fleet = good.fleet.expect("set above");
    let ramp = fleet.ramp.expect("set above");
    let with_ramp = |ramp| v1::Decision {
        fleet: Some(v1::Circuit {
            ramp: Some(ramp),
            ..fleet
        }),
        ..good.clone()
    };
    let cases = [
        (
            v1::Decision {
                version: None,
                ..good.clone()
            },
            "decision.version must be set",
        ),
        (
            v1::Decision {
                fleet: None,
                ..good.clone()
            },
            "decision.fleet must be set",
        ),
        (
            v1::Decision {
                mode: 0,
                ..good.clone()
            },
            "decision.mode must be set",
        ),
        (
            v1::Decision {
                mode: 77,
                ..good.clone()
            },
            "decision.mode is 77: allowed is 1 to 5",
        ),
        (
            v1::Decision {
                backend: "x".to_owned(),
                ..good.clone()
            },
            "backend \"x\" must be SERVICE/REGION, for example \"payments/us-east\"",
        ),
        (
            with_ramp(v1::Ramp {
                admission: 1.5,
                ..ramp
            }),
            "ramp.admission is 1.5: allowed is 0 to 1",
        ),
        (
            with_ramp(v1::Ramp {
                admission: f64::NAN,
                ..ramp
            }),
            "ramp.admission is NaN: allowed is 0 to 1",
        ),
        (
            with_ramp(v1::Ramp {
                duration: Some(duration(Duration::ZERO)),
                ..ramp
            }),
            "ramp.duration is 0 s: allowed is more than 0 s",
        ),
    ];
    for (wire, sentence) in cases {
        let error = decision::from_decision(&wire, NOW).expect_err(sentence);
        assert_eq!(error.to_string(), sentence);
    }
}

#[test]
fn a_duration_is_bounded_and_never_negative() {
    let max = Duration::from_secs(10);
    let check = |seconds, nanos| {
        duration_up_to("x", Some(&prost_types::Duration { seconds, nanos }), max).ok()
    };
    assert_eq!(check(10, 0), Some(max));
    assert_eq!(check(10, 1), None);
    assert_eq!(check(-1, 0), None);
    assert_eq!(check(i64::MAX, 0), None);
    assert!(duration_up_to("x", None, max).is_err());
}

#[test]
fn a_histogram_survives_the_wire_and_refuses_buckets_beyond_its_end() {
    let buckets = histogram::Buckets::from([(3, 5), (4, 1), (900, 2)]);
    let (deltas, counts) = histogram::sparse(&buckets);
    assert_eq!(deltas, [3, 1, 896]);
    assert_eq!(histogram::from_sparse(&deltas, &counts), Ok(buckets));
    assert!(histogram::from_sparse(&[1, u32::MAX], &[1, 1]).is_err());
    assert!(histogram::from_sparse(&[1], &[]).is_err());
}

#[test]
fn events_of_a_ramp_name_the_pop_that_they_are_about() {
    let name = backend();
    let told = |happening| {
        let stamp = event::Stamp {
            id: String::new(),
            at: NOW,
            backend: Some(&name),
            version: None,
            actor: "cp",
        };
        let event = event::event(&happening, stamp);
        (event.scope(), event.subject, event.summary)
    };
    let pop = PopId::new("fra1").ok();
    let admission = 0.25;
    assert_eq!(
        told(Happening::RampCut {
            pop: pop.clone(),
            admission
        }),
        (
            v1::Scope::Pop,
            "fra1".into(),
            "new failures of pay/us-east cut its admission at fra1 to 25 %".into()
        )
    );
    assert_eq!(
        told(Happening::RampFinished { pop }),
        (
            v1::Scope::Pop,
            "fra1".into(),
            "pay/us-east is fully admitted again at fra1".into()
        )
    );
    assert_eq!(
        told(Happening::RampFinished { pop: None }),
        (
            v1::Scope::Fleet,
            String::new(),
            "pay/us-east is fully admitted again".into()
        )
    );
}

#[test]
fn an_origin_has_the_mix_of_its_plan_or_that_of_its_service() {
    let order = vec![RegionName::new("us-east").expect("a valid name")];
    let origin = OriginPlan {
        demand: 100.0,
        mix: Mix::of(ByPriority([1.0, 0.0, 0.0, 3.0])),
        shares: vec![0.5],
        headrooms: vec![0.0],
    };
    let sent = Steering {
        plan: Some(Plan {
            origins: BTreeMap::from([(order.clone(), origin.clone())]),
            created: NOW,
            ..Plan::default()
        }),
        mix: Mix::of(ByPriority([0.0, 1.0, 1.0, 0.0])),
        ..Steering::default()
    };
    let name = ServiceName::new("pay").expect("a valid name");
    let mut wire = steering::service_decision(&name, &sent, NOW);
    let heard = |wire: &v1::ServiceDecision| {
        let heard = steering::from_service_decision(wire, NOW).map(|(_, steering)| steering);
        heard.expect("our own decision is valid")
    };
    assert_eq!(heard(&wire), sent);
    wire.origins[0].mix = None;
    let plan = heard(&wire).plan.expect("a plan");
    assert_eq!(plan.origins[&order].mix, sent.mix);
}
