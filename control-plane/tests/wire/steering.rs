//! Where a service's traffic goes: worked out, told to every agent, explained.

use std::time::{Duration, Instant};

use rampmeter_api::v1::{self, BreakerState, EventKind, connect_response::Message as Down};
use tokio::time::timeout;

use crate::harness::{Agent, EAST, Replica, Wanting, eventually};

/// 4,000 requests/s prefer the east, which takes 5,000; 1,280 the west, which
/// takes 4,000 and so has room for 1,920 more at a target of 80 %.
pub(crate) const STEERED: &str = r#"
pops:
  fra1: {region_order: [us-east, us-west]}
  iad1: {region_order: [us-east, us-west]}
  sea1: {region_order: [us-west, us-east]}
services:
  pay:
    routes: [{path_prefix: /}]
    timeouts: {connect: 500ms, response_headers: 500ms, total: 500ms}
    breaker: {open_duration: 500ms, ramp_duration: 1s}
    failover: {mode: automatic, target_utilization: 0.8, failback_percent_per_second: 50}
    backends:
      us-east: {endpoints: ["http://127.0.0.1:8080"], capacity_rps: 5000}
      us-west: {endpoints: ["http://127.0.0.1:8081"], capacity_rps: 4000}
"#;

/// Two agents for whom the east is home, one for whom the west is, and what their
/// callers want.
pub(crate) struct Crew {
    pub(crate) east: [Agent; 2],
    pub(crate) west: Agent,
    _wanting: [Wanting; 3],
}

impl Crew {
    /// Returns once there is a plan.
    pub(crate) async fn of(replica: &Replica) -> Self {
        let (east, west) = (
            [
                replica.agent("f1", "fra1").await,
                replica.agent("i1", "iad1").await,
            ],
            replica.agent("s1", "sea1").await,
        );
        let wanting = [
            east[0].wants("pay", normal(2000.0)),
            east[1].wants("pay", normal(2000.0)),
            west.wants("pay", normal(1280.0)),
        ];
        eventually("all demand is known", async || {
            let plan = replica.service("pay").await.plan?;
            let near = |order: &str, rate: f64| {
                let mut origins = plan.origins.iter();
                let found = origins.find(|o| o.region_order[0] == order);
                found.is_some_and(|o| (o.demand_per_second / rate - 1.0).abs() < 0.05)
            };
            (near("us-east", 4000.0) && near("us-west", 1280.0)).then_some(())
        })
        .await;
        Self {
            east,
            west,
            _wanting: wanting,
        }
    }

    /// Every agent sees the east fail until it opens. The first plan without it,
    /// and how long after the opening it came.
    pub(crate) async fn break_east(&mut self) -> (v1::ServiceDecision, Duration) {
        let mut opened = None;
        let [first, second] = &mut self.east;
        for _ in 0..200 {
            first.report(EAST, 1, 1).await;
            second.report(EAST, 1, 1).await;
            let moved = first.find(|down| {
                let Down::Decisions(decisions) = down else {
                    return None;
                };
                let open = |d: &v1::Decision| {
                    let fleet = d.fleet.as_ref();
                    d.backend == EAST && fleet.is_some_and(|f| f.state() == BreakerState::Open)
                };
                if decisions.decisions.iter().any(open) {
                    opened.get_or_insert_with(Instant::now);
                }
                decisions.services.iter().find(|d| away(d)).cloned()
            });
            if let Ok(moved) = timeout(Duration::from_millis(20), moved).await {
                let opened = opened.expect("not before it opened");
                return (moved, opened.elapsed());
            }
        }
        panic!("400 failures and still not open");
    }
}

pub(crate) fn normal(normal: f64) -> v1::ByPriority {
    v1::ByPriority {
        normal,
        ..v1::ByPriority::default()
    }
}

/// The shares of the origin whose first region is this one.
pub(crate) fn shares(decision: &v1::ServiceDecision, home: &str) -> Vec<f64> {
    let mut origins = decision.origins.iter();
    let origin = origins.find(|o| o.region_order[0] == home);
    let regions = origin.map(|o| o.regions.as_slice()).unwrap_or_default();
    regions.iter().map(|r| r.share).collect()
}

/// Nothing for the east any more.
fn away(decision: &v1::ServiceDecision) -> bool {
    shares(decision, "us-east").first() == Some(&0.0)
}

fn assert_near(found: &[f64], expected: &[f64]) {
    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 0.03;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(near),
        "{found:?}, not {expected:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_opens_loses_its_traffic_at_once_and_no_more_moves_than_fits() {
    let replica = Replica::alone(STEERED).await;
    let mut crew = Crew::of(&replica).await;
    let (told, after) = crew.break_east().await;
    assert!(after < Duration::from_millis(500), "{after:?}");
    // 1,920 of 4,000 fit, the rest is shed.
    assert_near(&shares(&told, "us-east"), &[0.0, 0.48]);
    assert_near(&shares(&told, "us-west"), &[1.0, 0.0]);
    let same = crew.west.steered("pay", away).await;
    assert_eq!(same.version, told.version, "the same plan for everybody");
    let shown = replica.service("pay").await;
    let plan = shown.plan.as_ref().expect("set");
    assert!((1900.0..2300.0).contains(&plan.shed_per_second), "{plan:?}");
    assert!(
        shown.summary.contains("us-east admits nothing"),
        "{shown:?}"
    );
    let events = eventually("it is told", async || {
        let events = events_of(&replica, "pay").await;
        let kinds: Vec<_> = events.iter().map(v1::Event::kind).collect();
        let told =
            kinds.contains(&EventKind::PlanChanged) && kinds.contains(&EventKind::ShedStarted);
        told.then_some(events)
    })
    .await;
    let changed = events.iter().find(|e| e.kind() == EventKind::PlanChanged);
    let changed = changed.expect("found above");
    assert_eq!(
        (changed.service.as_str(), changed.backend.as_str()),
        ("pay", "")
    );
    assert!(changed.plan.is_some(), "with its numbers");
}

pub(crate) async fn events_of(replica: &Replica, service: &str) -> Vec<v1::Event> {
    let request = v1::ListEventsRequest {
        service: service.into(),
        ..Default::default()
    };
    let response = replica.fleet().await.list_events(request).await;
    response.expect("an answer").into_inner().events
}
