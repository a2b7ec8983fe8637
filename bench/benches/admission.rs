//! The cost of a decision on the request path: admission and recording, with
//! the breaker closed, and a refusal with it open.

use std::{hint::black_box, time::Duration};

use breaker_core::{AgentId, OutcomeClass, PopId, Timestamp};
use criterion::{Criterion, criterion_group, criterion_main};
use fleet_config::FleetConfig;
use gateway_agent::{
    admit::gate::{BackendIndex, CoreGate},
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

fn agent() -> (Control, CoreGate, BackendIndex) {
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
    let backend = gate.snapshot().backends().next().expect("one").index;
    (control, gate, backend)
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

fn prost_duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().expect("in range")
}

fn admission(c: &mut Criterion) {
    let (mut control, gate, backend) = agent();
    c.bench_function("admit and record", |b| {
        b.iter(|| {
            let permit = gate.admit(black_box(backend), true).expect("closed");
            permit.finish(black_box(OutcomeClass::Success), None);
        });
    });
    open(&mut control);
    c.bench_function("refuse", |b| {
        b.iter(|| gate.admit(black_box(backend), true).expect_err("open"));
    });
}

criterion_group!(benches, admission);
criterion_main!(benches);
