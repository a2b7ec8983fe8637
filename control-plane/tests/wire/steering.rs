//! Where a service's traffic goes: worked out, told to every agent, explained.

use std::time::{Duration, Instant};

use rampmeter_api::v1::{self, BreakerState, EventKind, connect_response::Message as Down};
use tokio::time::timeout;

use crate::harness::{Agent, EAST, Replica, Wanting, eventually};

/// 4,000 requests/s prefer the east, which takes 5,200; 1,280 the west, which
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
      us-east: {endpoints: ["http://127.0.0.1:8080"], capacity_rps: 5200}
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
        Self::over(replica, replica).await
    }

    /// Agents of two replicas.
    pub(crate) async fn over(replica: &Replica, other: &Replica) -> Self {
        let (east, west) = (
            [
                replica.agent("f1", "fra1").await,
                other.agent("i1", "iad1").await,
            ],
            other.agent("s1", "sea1").await,
        );
        let wanting = [
            east[0].wants("pay", normal(2000.0)),
            east[1].wants("pay", normal(2000.0)),
            west.wants("pay", normal(1280.0)),
        ];
        eventually("all demand is known", async || {
            let shown = replica.service("pay").await;
            let demand = shown.traffic?.demand?.normal;
            (shown.plan.is_some() && (demand / 5280.0 - 1.0).abs() < 0.03).then_some(())
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
                // Where another replica decided, its plan may be heard of first.
                let since = opened.map_or(Duration::ZERO, |opened: Instant| opened.elapsed());
                return (moved, since);
            }
        }
        panic!("400 failures and still not open");
    }

    /// As [`break_east`](Self::break_east), where no plan moves by itself.
    async fn fail_east(&mut self) {
        for _ in 0..200 {
            for agent in &mut self.east {
                agent.report(EAST, 1, 1).await;
            }
            let open = self.east[0].state(EAST, BreakerState::Open);
            if timeout(Duration::from_millis(20), open).await.is_ok() {
                return;
            }
        }
        panic!("400 failures and still not open");
    }

    /// Which agent for whom the east is home got the next trial.
    async fn next_grant(&mut self) -> (usize, v1::TrialGrant) {
        for _ in 0..500 {
            for (at, agent) in self.east.iter_mut().enumerate() {
                agent.report(EAST, 0, 0).await;
                let granted = timeout(Duration::from_millis(10), agent.grant()).await;
                if let Ok(grant) = granted {
                    return (at, grant);
                }
            }
        }
        panic!("no agent got a trial");
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

fn version_of(wire: Option<v1::Version>) -> breaker_core::Version {
    wire.expect("set").into()
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

#[tokio::test(flavor = "multi_thread")]
async fn traffic_comes_back_step_by_step_when_its_region_does() {
    let replica = Replica::alone(STEERED).await;
    let mut crew = Crew::of(&replica).await;
    crew.break_east().await;
    // Trials succeed, whoever gets them.
    for _ in 0..3 {
        let (agent, grant) = crew.next_grant().await;
        let trial = v1::TrialOutcome::Succeeded;
        crew.east[agent].answer(&grant, trial).await;
    }
    let mut homes = Vec::new();
    while homes.last() != Some(&1.0) {
        let told = crew.east[0].steered("pay", |d| !d.origins.is_empty()).await;
        homes.push(shares(&told, "us-east")[0]);
    }
    assert!(homes.windows(2).all(|pair| pair[0] <= pair[1]), "{homes:?}");
    assert!(homes.len() >= 3, "not at once: {homes:?}");
    let kinds = events_of(&replica, "pay").await;
    let ended = |e: &v1::Event| e.kind() == EventKind::ShedEnded;
    assert!(kinds.iter().any(ended), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_told_where_traffic_goes_and_why() {
    let replica = Replica::alone(STEERED).await;
    let mut crew = Crew::of(&replica).await;
    let calm = replica.service("pay").await;
    assert!(
        calm.summary.contains("go to their first region"),
        "{calm:?}"
    );
    let traffic = calm.traffic.expect("set");
    let demand = traffic.demand.expect("set").normal;
    assert!((5000.0..5600.0).contains(&demand), "{demand}");
    assert_eq!(calm.backends[0].capacity_per_second, Some(5200.0));
    crew.break_east().await;
    let request = v1::ExplainBackendRequest { name: EAST.into() };
    let explained = replica.fleet().await.explain_backend(request).await;
    let summary = explained.expect("an answer").into_inner().summary;
    for part in [
        "By plan r.",
        "us-east gets 0 % of its",
        "us-west takes",
        "/s shed",
    ] {
        assert!(summary.contains(part), "no {part:?} in {summary}");
    }
    let page = crate::ports::get(replica.http, "/metrics").await;
    let line = "rampmeter_control_plan_backend_per_second{service=\"pay\",backend=\"us-east\"} 0";
    assert!(page.lines().any(|l| l == line), "{page}");
    let both = v1::ListEventsRequest {
        backend: EAST.into(),
        service: "pay".into(),
        ..Default::default()
    };
    let refused = replica.fleet().await.list_events(both).await;
    assert_eq!(
        refused.expect_err("both").code(),
        tonic::Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_manual_mode_a_plan_waits_until_that_very_plan_is_approved() {
    let manual = STEERED.replace("mode: automatic", "mode: manual");
    let replica = Replica::alone(&manual).await;
    let mut crew = Crew::of(&replica).await;
    crew.fail_east().await;
    let (proposed, summary) = eventually("a plan is proposed", async || {
        let shown = replica.service("pay").await;
        Some((shown.proposed_plan?, shown.summary))
    })
    .await;
    assert!(summary.contains("waits for approval"), "{summary}");
    let version = proposed.version.expect("set");
    let mut operator = replica.operator().await;
    let approve = |version| v1::ApprovePlanRequest {
        service: "pay".into(),
        version,
        reason: "the east is down".into(),
        actor: "ada".into(),
    };
    let wrong = v1::Version {
        revision: version.revision + 100,
        ..version
    };
    for (request, sentence) in [
        (approve(None), "version"),
        (approve(Some(wrong)), "waits now has version"),
        (
            v1::ApprovePlanRequest {
                reason: String::new(),
                ..approve(Some(version))
            },
            "reason",
        ),
        (
            v1::ApprovePlanRequest {
                service: "payy".into(),
                ..approve(Some(version))
            },
            "did you mean \"pay\"?",
        ),
    ] {
        let refused = operator.approve_plan(request).await.expect_err(sentence);
        assert!(refused.message().contains(sentence), "{refused}");
    }
    let plan = replica.service("pay").await.plan.expect("set");
    let home = plan.origins.iter().find(|o| o.region_order[0] == "us-east");
    assert_eq!(
        home.expect("an origin").regions[0].share,
        1.0,
        "nothing moved"
    );
    let approved = eventually("the plan that waits is approved", async || {
        let waits = replica.service("pay").await.proposed_plan?.version;
        let approved = replica.operator().await.approve_plan(approve(waits)).await;
        approved.ok()?.into_inner().plan
    })
    .await;
    let told = crew.east[0].steered("pay", away).await;
    assert!(version_of(told.version) >= version_of(approved.version));
    assert_near(&shares(&told, "us-east"), &[0.0, 0.48]);
    let events = events_of(&replica, "pay").await;
    let event = events.iter().find(|e| e.kind() == EventKind::PlanApproved);
    let event = event.expect("an event");
    assert_eq!(event.actor, "ada");
    assert!(event.actor_address.starts_with("127.0.0.1:"), "{event:?}");
    assert!(
        event.summary.contains("the east is down"),
        "{}",
        event.summary
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_tell_one_plan() {
    let pair = crate::replicas::pair_of(STEERED).await;
    let mut crew = Crew::over(&pair.one, &pair.two).await;
    crew.break_east().await;
    let settled = eventually("both show the same plan", async || {
        let one = pair.one.service("pay").await.plan?;
        let two = pair.two.service("pay").await.plan?;
        (one == two && one.shed_per_second > 0.0).then_some(one)
    })
    .await;
    let demand: f64 = settled.origins.iter().map(|o| o.demand_per_second).sum();
    assert!(
        (4900.0..5600.0).contains(&demand),
        "of all agents: {settled:?}"
    );
    let mut told = Vec::new();
    for agent in [&mut crew.east[1], &mut crew.west] {
        let decision = agent.steered("pay", away).await;
        told.push(shares(&decision, "us-east"));
    }
    for shares in &told {
        assert_near(shares, &[0.0, 0.48]);
    }
}

/// As an agent holds it after another replica, or another life of this one, told
/// it.
fn held() -> v1::ServiceDecision {
    let order = ["us-east", "us-west"];
    let share = |(region, share): (&str, f64)| v1::RegionShare {
        region: region.to_owned(),
        share,
        headroom: 0.0,
    };
    v1::ServiceDecision {
        service: "pay".into(),
        version: Some(v1::Version {
            epoch: 3,
            revision: 9,
        }),
        origins: vec![v1::OriginPlan {
            region_order: order.map(str::to_owned).into(),
            regions: order.into_iter().zip([0.0, 0.5]).map(share).collect(),
            demand_per_second: 100.0,
            mix: None,
        }],
        mix: Some(normal(1.0)),
        drains: ["us-east", "gone"]
            .map(|region| v1::DrainOrder {
                region: region.to_owned(),
                actor: "ada".into(),
                reason: "the cable is cut".into(),
                expires_in: Some(prost_types::Duration {
                    seconds: 120,
                    nanos: 0,
                }),
                break_glass: false,
            })
            .into(),
        drill: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_forgot_adopts_the_plan_and_the_drains_that_agents_hold() {
    let replica = Replica::alone(STEERED).await;
    let hello = v1::Hello {
        held_services: vec![held()],
        ..crate::harness::hello("f1", "fra1")
    };
    let mut agent = replica.try_agent(hello).await.expect("let in");
    let told = agent.steered("pay", |_| true).await;
    assert!(
        told.version.expect("set").epoch > 3,
        "a higher epoch: {told:?}"
    );
    assert_near(&shares(&told, "us-east")[..1], &[0.0]);
    let drains: Vec<_> = told.drains.iter().map(|d| d.region.as_str()).collect();
    assert_eq!(drains, ["us-east"], "none of a region that is gone");
    let drain = eventually("readers see it", async || {
        replica.service("pay").await.drains.first().cloned()
    })
    .await;
    assert_eq!(
        (drain.actor.as_str(), drain.reason.as_str()),
        ("ada", "the cable is cut")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_leaves_the_configuration_leaves_the_plan_and_its_drain() {
    let replica = Replica::alone(STEERED).await;
    let _crew = Crew::of(&replica).await;
    let drain = v1::DrainRegionRequest {
        region: "us-west".into(),
        reason: "it goes away".into(),
        expires_in: Some(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        }),
        ..Default::default()
    };
    let mut operator = replica.operator().await;
    operator.drain_region(drain).await.expect("valid");
    let west = "      us-west: {endpoints: [\"http://127.0.0.1:8081\"], capacity_rps: 4000}\n";
    let yaml = STEERED.replace(west, "");
    let apply = v1::ApplyConfigRequest {
        yaml,
        ..Default::default()
    };
    operator.apply_config(apply).await.expect("valid");
    eventually("nothing is left of it", async || {
        let shown = replica.service("pay").await;
        let gone = shown.drains.is_empty() && shown.plan?.regions.len() == 1;
        gone.then_some(())
    })
    .await;
}
