//! The cost of a decision on the request path: admission and recording, with
//! the breaker closed, and a refusal with it open.

use std::{hint::black_box, sync::Arc, time::Duration};

use breaker_core::{AgentId, OutcomeClass, PopId, Timestamp, shed::ShedKey};
use criterion::{Criterion, criterion_group, criterion_main};
use fleet_config::FleetConfig;
use gateway_agent::{
    admit::{
        gate::CoreGate,
        service::{Service, Wish},
    },
    config::configuration::ConfigSource,
    fleet::{control::Control, local::Identity},
};
use rampmeter_api::v1;

const FLEET: &str = r#"
pops: {fra1: {region_order: [us-east]}}
services:
  pay:
    routes: [{path_prefix: /}]
    backends: {us-east: {endpoints: ["http://127.0.0.1:8080"]}}
"#;

fn agent() -> (Control, CoreGate, Arc<Service>) {
    let identity = Identity {
        agent: AgentId::new("bench").expect("a name"),
        pop: PopId::new("fra1").expect("a name"),
    };
    let mut control = Control::new(identity, 1);
    let config = FleetConfig::parse(FLEET, "bench").expect("a fleet");
    control
        .install(ConfigSource::File, 1, config, Timestamp::default())
        .expect("its POP is there");
    let gate = control.gates().remove(0);
    let service = gate.snapshot().services["pay"].clone();
    (control, gate, service)
}

fn open(control: &mut Control) {
    let decision = v1::Decision {
        backend: "pay/us-east".to_owned(),
        version: Some(v1::Version {
            epoch: 1,
            revision: 1,
        }),
        mode: v1::Mode::Enforce.into(),
        throttle: None,
        mix: None,
        fleet: Some(v1::Circuit {
            state: v1::BreakerState::Open.into(),
            retry_in: Some(prost_duration(Duration::from_secs(300))),
            ramp_duration: Some(prost_duration(Duration::from_secs(30))),
            trips: 1,
            ..v1::Circuit::default()
        }),
        pops: Vec::new(),
        override_expires_in: None,
    };
    let decisions = v1::Decisions {
        decisions: vec![decision],
        ..v1::Decisions::default()
    };
    let now = control.clock.now();
    assert_eq!(control.apply(&decisions, now), 1, "the decision applies");
}

/// Everything stays where it is.
fn plan(control: &mut Control) {
    let share = v1::RegionShare {
        region: "us-east".to_owned(),
        share: 1.0,
        headroom: 0.0,
    };
    let decisions = v1::Decisions {
        services: vec![v1::ServiceDecision {
            service: "pay".to_owned(),
            version: Some(v1::Version {
                epoch: 1,
                revision: 1,
            }),
            origins: vec![v1::OriginPlan {
                region_order: vec!["us-east".to_owned()],
                regions: vec![share],
                demand_per_second: 100.0,
                mix: None,
            }],
            ..v1::ServiceDecision::default()
        }],
        ..v1::Decisions::default()
    };
    let now = control.clock.now();
    assert_eq!(control.apply(&decisions, now), 1, "the decision applies");
}

fn prost_duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().expect("in range")
}

fn admission(c: &mut Criterion) {
    let (mut control, gate, service) = agent();
    let wish = Wish {
        idempotent: true,
        key: Some(ShedKey::of(b"user-1")),
        ..Wish::default()
    };
    c.bench_function("admit and record", |b| {
        b.iter(|| {
            let permit = gate.admit(black_box(&service), &wish).expect("closed");
            permit.finish(black_box(OutcomeClass::Success), None);
        });
    });
    plan(&mut control);
    c.bench_function("admit by a plan and record", |b| {
        b.iter(|| {
            let permit = gate.admit(black_box(&service), &wish).expect("planned");
            permit.finish(black_box(OutcomeClass::Success), None);
        });
    });
    open(&mut control);
    c.bench_function("refuse", |b| {
        b.iter(|| gate.admit(black_box(&service), &wish).expect_err("open"));
    });
}

criterion_group!(benches, admission);
criterion_main!(benches);
