//! Overload is metered: from 503s to a share of the requests, the lowest priority
//! shed first, and back.

use std::time::Duration;

use rampmeter_api::{
    convert::duration,
    v1::{self, BreakerState, EventKind, connect_response::Message as Down},
};
use tokio::time::timeout;

use crate::{
    harness::{Agent, EAST, FLEET, Replica, eventually, hello},
    ports::get,
};

/// What each agent's callers want in one round: a fifth CRITICAL, a fifth LOW.
const WANTED: u64 = 20;

/// A round lasts about as long as a hot report's interval.
const ROUND: Duration = Duration::from_millis(25);

/// An agent, and what it was told to let through.
struct Gate {
    agent: Agent,
    admission: Option<f64>,
}

impl Gate {
    /// Hears decisions for a while, then reports a round of which the backend
    /// takes so many.
    async fn round(&mut self, takes: u64) {
        let admission = &mut self.admission;
        let told = self.agent.find::<()>(|down| {
            if let Down::Decisions(decisions) = down {
                let mut of_east = decisions.decisions.iter().filter(|d| d.backend == EAST);
                if let Some(decision) = of_east.next_back() {
                    *admission = decision.throttle;
                }
            }
            None
        });
        // It never ends by itself: what was told is told.
        let _ = timeout(ROUND, told).await;
        let passed = (WANTED as f64 * self.admission.unwrap_or(1.0)).round() as u64;
        let taken = passed.min(takes);
        let slot = v1::Slot {
            requests: passed as u32,
            overloads: (passed - taken) as u32,
            ..v1::Slot::default()
        };
        let rejections = v1::Rejections {
            throttle: WANTED - passed,
            ..v1::Rejections::default()
        };
        let directed = v1::ByPriority {
            critical: 4.0,
            normal: 12.0,
            low: 4.0,
            ..v1::ByPriority::default()
        };
        let report = v1::BackendReport {
            backend: EAST.to_owned(),
            slots: vec![slot],
            demand: WANTED,
            rejections: Some(rejections),
            directed: Some(directed),
            ..v1::BackendReport::default()
        };
        self.agent
            .send(v1::Report {
                backends: vec![report],
                ..v1::Report::default()
            })
            .await;
    }
}

async fn gates(replica: &Replica) -> Vec<Gate> {
    let mut gates = Vec::new();
    for (name, pop) in [
        ("f1", "fra1"),
        ("f2", "fra1"),
        ("i1", "iad1"),
        ("i2", "iad1"),
    ] {
        let mut agent = replica.agent(name, pop).await;
        agent.state(EAST, BreakerState::Closed).await;
        gates.push(Gate {
            agent,
            admission: None,
        });
    }
    gates
}

/// Rounds until all gates were told what `enough` wants.
async fn until(gates: &mut [Gate], takes: u64, enough: impl Fn(Option<f64>) -> bool) {
    for _ in 0..600 {
        for gate in gates.iter_mut() {
            gate.round(takes).await;
        }
        if gates.iter().all(|gate| enough(gate.admission)) {
            return;
        }
    }
    let told: Vec<_> = gates.iter().map(|gate| gate.admission).collect();
    panic!("in a minute the throttle only came to {told:?}");
}

async fn summary(replica: &Replica) -> String {
    let request = v1::ExplainBackendRequest { name: EAST.into() };
    let answer = replica.fleet().await.explain_backend(request).await;
    answer.expect("an answer").into_inner().summary
}

async fn kinds(replica: &Replica) -> Vec<EventKind> {
    let events = replica.events(EAST).await;
    events.iter().map(v1::Event::kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_takes_half_is_metered_everyone_is_told_and_it_ends() {
    let replica = Replica::alone(FLEET).await;
    let mut gates = gates(&replica).await;
    until(&mut gates, 10, |told| told.is_some_and(|a| a < 0.6)).await;
    for _ in 0..40 {
        for gate in &mut gates {
            gate.round(10).await;
        }
    }
    let backend = replica.backend(EAST).await;
    assert_eq!(backend.state(), BreakerState::Closed);
    let throttle = backend.throttle.expect("metered");
    assert!((0.4..0.7).contains(&throttle), "settled at {throttle}");
    assert_eq!(backend.admission(), throttle);
    assert!(
        backend.shedding.starts_with("LOW wholly, NORMAL "),
        "{}",
        backend.shedding
    );
    let mix = backend.mix.expect("set");
    assert!(mix.critical > 0.0 && mix.high == 0.0, "{mix:?}");
    assert!((mix.normal / mix.low - 3.0).abs() < 0.01, "{mix:?}");
    let summary = summary(&replica).await;
    for part in [
        "the throttle lets ",
        "pay/us-east took ",
        "it sheds LOW wholly",
    ] {
        assert!(summary.contains(part), "{part:?} is missing in {summary:?}");
    }
    let page = get(replica.http, "/metrics").await;
    let gauge = "rampmeter_control_backend_throttle{service=\"pay\",backend=\"us-east\"} 0.";
    assert!(page.contains(gauge), "{page}");

    until(&mut gates, WANTED, |told| told.is_none()).await;
    let backend = replica.backend(EAST).await;
    assert_eq!((backend.throttle, backend.admission()), (None, 1.0));
    assert_eq!(backend.shedding, "");
    let kinds = eventually("the end is an event", async || {
        let kinds = kinds(&replica).await;
        kinds.contains(&EventKind::ThrottleEnded).then_some(kinds)
    })
    .await;
    assert!(kinds.contains(&EventKind::ThrottleSet), "{kinds:?}");
    assert!(!kinds.contains(&EventKind::Transition), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_that_one_agent_alone_sees_meters_nobody() {
    let replica = Replica::alone(FLEET).await;
    let mut gates = gates(&replica).await;
    for _ in 0..60 {
        for (index, gate) in gates.iter_mut().enumerate() {
            gate.round(if index == 0 { 4 } else { WANTED }).await;
        }
    }
    let backend = eventually("the overloads are seen", async || {
        let backend = replica.backend(EAST).await;
        let seen = backend.traffic.as_ref()?.outcomes.as_ref()?.overloads();
        (seen > 200).then_some(backend)
    })
    .await;
    assert_eq!((backend.throttle, backend.admission()), (None, 1.0));
    assert!(!kinds(&replica).await.contains(&EventKind::ThrottleSet));
}

/// Reports one request to the east that it refused.
async fn refused(agent: &mut Agent) {
    let slot = v1::Slot {
        requests: 1,
        overloads: 1,
        ..v1::Slot::default()
    };
    let report = v1::BackendReport {
        backend: EAST.to_owned(),
        slots: vec![slot],
        demand: 1,
        ..v1::BackendReport::default()
    };
    let backends = vec![report];
    let report = v1::Report {
        backends,
        ..v1::Report::default()
    };
    agent.send(report).await;
}

/// What an agent is asked about until it has heard two heartbeats.
async fn asked(agent: &mut Agent) -> Vec<Vec<String>> {
    let (mut asked, mut beats) = (Vec::new(), 0);
    let two_beats = agent.find(|down| {
        match down {
            Down::ReportNow(ask) => asked.push(ask.backends.clone()),
            Down::Heartbeat(_) => beats += 1,
            _ => {}
        }
        (beats == 2).then_some(())
    });
    two_beats.await;
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_is_asked_once_about_a_backend_that_begins_to_refuse() {
    let replica = Replica::alone(FLEET).await;
    let mut first = replica.agent("f1", "fra1").await;
    let mut second = replica.agent("i1", "iad1").await;
    for _ in 0..5 {
        refused(&mut first).await;
    }
    assert_eq!(asked(&mut second).await, [[EAST]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_where_nothing_is_metered_or_nothing_was_refused() {
    let unmetered = FLEET.replace("breaker: {", "breaker: {overload_throttle: false, ");
    let replica = Replica::alone(&unmetered).await;
    let mut first = replica.agent("f1", "fra1").await;
    let mut second = replica.agent("i1", "iad1").await;
    refused(&mut first).await;
    assert!(asked(&mut second).await.is_empty());

    let replica = Replica::alone(FLEET).await;
    let mut first = replica.agent("f1", "fra1").await;
    let mut second = replica.agent("i1", "iad1").await;
    first.report(EAST, 1, 1).await;
    assert!(asked(&mut second).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_forgot_takes_over_the_throttle_that_agents_hold() {
    let replica = Replica::alone(FLEET).await;
    let circuit = v1::Circuit {
        state: BreakerState::Closed.into(),
        ramp_duration: Some(duration(Duration::from_secs(1))),
        ..Default::default()
    };
    let decision = v1::Decision {
        backend: EAST.into(),
        version: Some(v1::Version {
            epoch: 3,
            revision: 11,
        }),
        mode: v1::Mode::Enforce.into(),
        fleet: Some(circuit),
        throttle: Some(0.3),
        ..v1::Decision::default()
    };
    let hello = v1::Hello {
        held: vec![decision],
        ..hello("holds", "fra1")
    };
    let mut agent = replica.try_agent(hello).await.expect("let in");
    let told = agent.state(EAST, BreakerState::Closed).await;
    let throttle = told.throttle.expect("never everything in between");
    assert!((0.3..0.6).contains(&throttle), "{throttle}");
}
