//! Rehearsed failures: refused where they make no sense, judged by what agents
//! report, and without a trace when they are over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use control_plane::store::{ReplicaId, memory::MemoryStore};
use rampmeter_api::{
    convert::duration,
    v1::{self, BreakerState, DrillFault, DrillState, EventKind, Mode},
};
use tonic::{Code, Status};

use crate::{
    harness::{Agent, EAST, Replica, eventually},
    steering::{Crew, STEERED, events_of, shares},
};

const WEST: &str = "pay/us-west";

fn dead(seconds: u64) -> v1::StartDrillRequest {
    v1::StartDrillRequest {
        backend: EAST.into(),
        fault: DrillFault::Dead.into(),
        duration: Some(duration(Duration::from_secs(seconds))),
        reason: "game day".into(),
        actor: "ada".into(),
        ..v1::StartDrillRequest::default()
    }
}

async fn start(replica: &Replica, request: v1::StartDrillRequest) -> Result<v1::Drill, Status> {
    let started = replica.operator().await.start_drill(request).await?;
    Ok(started.into_inner().drill.expect("a drill"))
}

async fn get(replica: &Replica, id: &str) -> v1::Drill {
    let request = v1::GetDrillRequest { id: id.into() };
    let found = replica.fleet().await.get_drill(request).await;
    found.expect("known").into_inner().drill.expect("a drill")
}

async fn stop(replica: &Replica, id: &str) -> Result<v1::Drill, Status> {
    let request = v1::StopDrillRequest {
        id: id.into(),
        reason: "enough".into(),
        actor: "bob".into(),
    };
    let stopped = replica.operator().await.stop_drill(request).await?;
    Ok(stopped.into_inner().drill.expect("a drill"))
}

/// What callers of an agent got just now.
async fn got(agent: &mut Agent, succeeded: u64, failed: u64) {
    let service = v1::ServiceReport {
        service: "pay".into(),
        succeeded,
        failed,
        ..v1::ServiceReport::default()
    };
    let report = v1::Report {
        services: vec![service],
        ..v1::Report::default()
    };
    agent.send(report).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_is_noticed_moves_traffic_passes_and_leaves_nothing_behind() {
    let replica = Replica::alone(STEERED).await;
    let mut crew = Crew::of(&replica).await;
    eventually("the east has traffic", async || {
        crew.east[0].report(EAST, 100, 0).await;
        let traffic = replica.backend(EAST).await.traffic?;
        // Over ten seconds, of at most 5,000/s: it has had it for three.
        (traffic.requests_per_second > 1500.0).then_some(())
    })
    .await;
    let drill = start(&replica, dead(5)).await.expect("it makes sense");
    assert_eq!(drill.state(), DrillState::Running);
    assert_eq!(drill.guard.expect("set").min_success_rate, 0.5);
    let order = crew.west.steered("pay", |d| d.drill.is_some()).await;
    let order = order.drill.expect("set");
    assert_eq!((order.drill_id, order.share), (drill.id.clone(), 1.0));

    crew.break_east().await;
    eventually("the west has the traffic", async || {
        crew.west.report(WEST, 300, 0).await;
        let report = get(&replica, &drill.id).await.report?;
        report.moved_after
    })
    .await;
    let metrics = crate::ports::get(replica.http, "/metrics").await;
    let line = "rampmeter_control_drill_running{service=\"pay\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    let ended = eventually("it is over", async || {
        crew.west.report(WEST, 300, 0).await;
        let shown = replica.service("pay").await.drill?;
        (shown.state() != DrillState::Running).then_some(shown)
    })
    .await;
    let over = Instant::now();
    eventually("the east has its traffic back", async || {
        let plan = replica.service("pay").await.plan?;
        let mut origins = plan.origins.iter();
        let east = origins.find(|o| o.region_order[0] == "us-east")?;
        (east.regions.first()?.share == 1.0).then_some(())
    })
    .await;
    let took = over.elapsed();
    assert!(took < Duration::from_secs(1), "at once, not in {took:?}");
    assert_eq!(replica.backend(EAST).await.state(), BreakerState::Closed);
    let events = replica.events(EAST).await;
    let closed = events.iter().find(|e| e.to_state() == BreakerState::Closed);
    let closed = &closed.expect("told").summary;
    assert!(!closed.contains("ramp"), "{closed}");
    let told = crew.east[0].steered("pay", |d| shares(d, "us-east") == [1.0, 0.0]);
    assert_eq!(told.await.drill, None);

    assert_eq!(ended.state(), DrillState::Passed, "{ended:?}");
    let report = ended.report.expect("set");
    assert!(
        report.detected && report.moved_after.is_some(),
        "{report:?}"
    );
    assert!(report.requests > 5_000, "{report:?}");
    assert!(report.succeeded > 5_000 && report.failed == 0, "{report:?}");
    let rate = |rates: &[v1::RegionRate], region: &str| {
        let found = rates.iter().find(|rate| rate.region == region);
        found.map_or(0.0, |rate| rate.per_second)
    };
    assert!(rate(&report.before, "us-east") > 500.0, "{report:?}");
    assert!(rate(&report.at_end, "us-east") < 100.0, "{report:?}");
    assert!(rate(&report.at_end, "us-west") > 2_500.0, "{report:?}");
    assert!(report.summary.contains("passed"), "{}", report.summary);
    let events = events_of(&replica, "pay").await;
    let of = |kind| events.iter().find(|event| event.kind() == kind);
    let started = of(EventKind::DrillStarted).expect("told");
    assert_eq!(
        (started.actor.as_str(), started.backend.as_str()),
        ("ada", EAST)
    );
    assert!(started.actor_address.starts_with("127.0.0.1:"));
    let told = of(EventKind::DrillEnded).expect("told").drill.clone();
    assert_eq!(told.expect("with it").report.expect("set"), report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_ends_a_drill_within_a_second_and_says_so() {
    let replica = Replica::alone(STEERED).await;
    let mut crew = Crew::of(&replica).await;
    let guard = v1::DrillGuard {
        min_success_rate: 0.9,
        grace: Some(duration(Duration::ZERO)),
        ..v1::DrillGuard::default()
    };
    let drill = v1::StartDrillRequest {
        guard: Some(guard),
        ..dead(60)
    };
    let drill = start(&replica, drill).await.expect("it makes sense");
    let hurt = Instant::now();
    let ended = eventually("it is over", async || {
        got(&mut crew.east[0], 0, 2000).await;
        let shown = get(&replica, &drill.id).await;
        (shown.state() != DrillState::Running).then_some(shown)
    })
    .await;
    let took = hurt.elapsed();
    assert_eq!(ended.state(), DrillState::GuardTripped);
    assert!(took < Duration::from_secs(1), "{took:?}");
    let summary = ended.report.expect("set").summary;
    assert!(summary.contains("the guard needs 90.0 %"), "{summary}");
    crew.west.steered("pay", |d| d.drill.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_is_stopped_at_any_replica_and_its_breaker_closes_at_once() {
    let store = MemoryStore::new(ReplicaId::new("one"));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, STEERED).expect("a file");
    let two = Arc::new(store.join(ReplicaId::new("two")));
    let one = Replica::start("one", Arc::new(store), Some(&file)).await;
    let two = Replica::start("two", two, Some(&file)).await;
    let mut crew = Crew::of(&one).await;
    let drill = start(&one, dead(60)).await.expect("it makes sense");
    crew.break_east().await;
    eventually("the other one sees it", async || {
        let shown = two.service("pay").await.drill?;
        let report = shown.report.filter(|_| shown.id == drill.id)?;
        (report.detected && report.requests > 0).then_some(())
    })
    .await;
    let another = start(&two, dead(60)).await.expect_err("one at a time");
    assert_eq!(another.code(), Code::FailedPrecondition, "{another}");
    let said = format!("pay has a drill already, {}", drill.id);
    assert!(another.message().contains(&said), "{another}");
    let stopped = stop(&two, &drill.id).await.expect("it runs");
    assert_eq!(stopped.state(), DrillState::Stopped);
    assert!(
        stopped.report.expect("set").requests > 0,
        "with its numbers"
    );
    crew.east[1].state(EAST, BreakerState::Closed).await;
    let again = stop(&two, &drill.id).await.expect_err("it is over");
    assert_eq!(again.code(), Code::FailedPrecondition, "{again}");
    let events = events_of(&one, "pay").await;
    let ended = events.iter().find(|e| e.kind() == EventKind::DrillEnded);
    let ended = ended.expect("told");
    assert_eq!(ended.actor, "bob");
    assert!(ended.summary.ends_with("by bob: enough"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_by_field_and_changes_nothing() {
    let replica = Replica::alone(STEERED).await;
    let _crew = Crew::of(&replica).await;
    let of = |millis| Some(duration(Duration::from_millis(millis)));
    let guarded = |guard| v1::StartDrillRequest {
        guard: Some(guard),
        ..dead(10)
    };
    let with = |change: fn(&mut v1::StartDrillRequest)| {
        let mut request = dead(10);
        change(&mut request);
        request
    };
    let delayed = |delay| v1::StartDrillRequest {
        fault: DrillFault::Delay.into(),
        delay,
        ..dead(10)
    };
    let invalid = [
        (with(|r| r.backend.clear()), "backend: must be set"),
        (with(|r| r.reason.clear()), "reason: must say why"),
        (
            with(|r| r.fault = 0),
            "fault: is 0: allowed are DRILL_FAULT_ERROR",
        ),
        (
            with(|r| r.share = 1.5),
            "share: is 1.5: allowed is above 0, at most 1",
        ),
        (with(|r| r.share = f64::NAN), "share: is NaN"),
        (
            with(|r| r.duration = None),
            "duration: must be set: allowed are 5 s to 1 h",
        ),
        (dead(1), "duration: is 1 s: allowed are 5 s to 1 h"),
        (dead(3601), "duration: is 3601 s"),
        (with(|r| r.success_rate = -0.5), "success_rate: is -0.5"),
        (
            delayed(None),
            "delay: must be set: allowed are 1 ms to 60 s",
        ),
        (delayed(of(61_000)), "delay: is 61 s"),
        (
            v1::StartDrillRequest {
                delay: of(100),
                ..dead(10)
            },
            "delay: is 100 ms: only DRILL_FAULT_DELAY",
        ),
        (
            guarded(v1::DrillGuard {
                min_success_rate: 2.0,
                ..Default::default()
            }),
            "guard.min_success_rate: is 2",
        ),
        (
            guarded(v1::DrillGuard {
                max_latency_p99: of(0),
                ..Default::default()
            }),
            "guard.max_latency_p99: is 0 s: allowed are 1 ms to 60 s",
        ),
        (
            guarded(v1::DrillGuard {
                grace: of(10_000),
                ..Default::default()
            }),
            "guard.grace: is 10 s: it must be shorter than the drill",
        ),
    ];
    for (request, said) in invalid {
        let refused = start(&replica, request).await.expect_err(said);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(said), "{said:?}: {refused}");
    }
    let unknown = [
        (
            with(|r| r.backend = "pay/mars".into()),
            "pay/us-east, pay/us-west",
        ),
        (
            with(|r| r.backend = "pya/us-east".into()),
            "did you mean \"pay/us-east\"?",
        ),
        (
            with(|r| r.pops = vec!["fra2".into()]),
            "did you mean \"fra1\"?",
        ),
    ];
    for (request, said) in unknown {
        let refused = start(&replica, request).await.expect_err(said);
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        assert!(refused.message().contains(said), "{said:?}: {refused}");
    }
    assert_untouched(&replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_would_hurt_or_show_nothing_is_refused() {
    let replica = Replica::alone(STEERED).await;
    let mut crew = Crew::of(&replica).await;
    let refused = async |said: &[&str]| {
        let refused = start(&replica, dead(10)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        for said in said {
            assert!(refused.message().contains(said), "{said:?}: {refused}");
        }
    };
    let mut operator = replica.operator().await;
    let drain = |region: &str| v1::DrainRegionRequest {
        region: region.into(),
        reason: "maintenance".into(),
        expires_in: Some(duration(Duration::from_secs(600))),
        actor: "ada".into(),
        ..v1::DrainRegionRequest::default()
    };
    let undrain = |region: &str| v1::ClearDrainRequest {
        region: region.into(),
        reason: "done".into(),
        ..v1::ClearDrainRequest::default()
    };
    operator.drain_region(drain("us-west")).await.expect("fine");
    refused(&[
        "us-east is the last admitted region of pay",
        "us-west is drained by ada",
    ])
    .await;
    operator
        .clear_drain(undrain("us-west"))
        .await
        .expect("fine");
    operator.drain_region(drain("us-east")).await.expect("fine");
    refused(&["us-east is drained for pay by ada"]).await;
    operator
        .clear_drain(undrain("us-east"))
        .await
        .expect("fine");
    let over = v1::OverrideBackendRequest {
        name: EAST.into(),
        mode: Mode::Shadow.into(),
        reason: "a look".into(),
        expires_in: Some(duration(Duration::from_secs(600))),
        actor: "ada".into(),
        break_glass: false,
    };
    operator.override_backend(over).await.expect("fine");
    refused(&["pay/us-east has an override by ada"]).await;
    let clear = v1::ClearOverrideRequest {
        name: EAST.into(),
        reason: "done".into(),
        ..v1::ClearOverrideRequest::default()
    };
    operator.clear_override(clear).await.expect("fine");
    assert_untouched(&replica).await;
    eventually("the east is ill", async || {
        for agent in &mut crew.east {
            agent.report(EAST, 1, 1).await;
        }
        (replica.backend(EAST).await.state() != BreakerState::Closed).then_some(())
    })
    .await;
    refused(&["a drill starts from a CLOSED breaker"]).await;
    assert_untouched(&replica).await;
}

async fn assert_untouched(replica: &Replica) {
    assert_eq!(replica.service("pay").await.drill, None);
    let events = events_of(replica, "pay").await;
    let told = events.iter().find(|e| e.kind() == EventKind::DrillStarted);
    assert_eq!(told, None);
    let mut fleet = replica.fleet().await;
    let listed = fleet.list_drills(v1::ListDrillsRequest::default());
    let listed = listed.await.expect("an answer").into_inner();
    assert_eq!(listed.drills, []);
}
