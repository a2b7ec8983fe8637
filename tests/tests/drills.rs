//! Rehearsed failures, from the operator's command line.

use std::{process::Output, time::Duration};

use e2e::{ControlPlane, Fleet, FleetFile, alone, binary, eventually, settled};
use rampmeter_api::v1::{BreakerState, DrillState, EventKind};
use rampmeter_demo::{
    backend::ScriptedBackend,
    load::{Load, Pacing, Running},
};

const SOON: Duration = Duration::from_secs(30);

async fn rampctl(control_plane: &ControlPlane, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(binary("rampctl").expect("rampctl is built"));
    command
        .args(["--control-plane", &control_plane.url()])
        .args(args);
    command.output().await.expect("rampctl runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Scene {
    fleet: Fleet,
    traffic: Running,
    _east: ScriptedBackend,
    west: ScriptedBackend,
}

/// Two regions with these capacities under 200 requests a second for us-east.
async fn scene(capacity_west: f64) -> Scene {
    let local = async |name| ScriptedBackend::local(name).await.expect("a free port");
    let (east, west) = (local("us-east").await, local("us-west").await);
    let regions = [("us-east", east.address()), ("us-west", west.address())];
    let file = FleetFile::new(2, &["us-east", "us-west"])
        .service("payments", &regions)
        .capacity("payments", "us-east", 400.0)
        .capacity("payments", "us-west", capacity_west)
        .breaker("open_duration", "2s")
        .breaker("ramp_duration", "1s");
    let fleet = Fleet::start(&file, 2).await.expect("a fleet");
    let traffic = Load {
        pacing: Pacing::Even,
        ..fleet.load("payments", 200.0)
    }
    .start();
    let api = fleet.control_planes[0].api().await.expect("a replica");
    eventually("the demand is known", SOON, || async {
        let demand = api.service("payments").await.ok()?.traffic?.demand?;
        settled(demand.normal > 150.0)
    })
    .await;
    Scene {
        fleet,
        traffic,
        _east: east,
        west,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_kills_the_primary_and_shows_that_traffic_flows_to_the_secondary() {
    let _alone = alone().await;
    let scene = scene(400.0).await;
    let plane = &scene.fleet.control_planes[0];
    let drill = rampctl(
        plane,
        &[
            "drill", "failover", "payments", "--region", "us-east", "--for", "8s", "--reason",
            "game day",
        ],
    )
    .await;
    let said = text(&drill.stdout);
    println!("{said}{}", text(&drill.stderr));
    assert_eq!(drill.status.code(), Some(0), "it passes");
    assert!(scene.west.receipts().count() > 200, "us-west served");
    for word in ["us-west", "passed", "detected"] {
        assert!(said.to_lowercase().contains(word), "{word} in the report");
    }
    // And the traffic is home again at once: the backend was never ill.
    let api = plane.api().await.expect("a replica");
    eventually("us-east is closed", Duration::from_secs(3), || async {
        settled(api.breaker("payments/us-east").await.ok()? == BreakerState::Closed)
    })
    .await;
    let events = api.service_events("payments").await.expect("events");
    for kind in [EventKind::DrillStarted, EventKind::DrillEnded] {
        assert!(
            events.iter().any(|e| e.kind() == kind),
            "{kind:?} in {events:?}"
        );
    }
    drop(scene.traffic);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_ends_a_drill_that_hurts_within_a_second() {
    let _alone = alone().await;
    // Next to nothing fits into us-west.
    let scene = scene(25.0).await;
    let plane = &scene.fleet.control_planes[0];
    let started = std::time::Instant::now();
    let drill = rampctl(
        plane,
        &[
            "drill",
            "failover",
            "payments",
            "--region",
            "us-east",
            "--for",
            "20s",
            "--min-success",
            "90%",
            "--grace",
            "3s",
            "--reason",
            "what if us-west is small",
        ],
    )
    .await;
    let took = started.elapsed();
    let said = text(&drill.stdout);
    println!("{said}{}", text(&drill.stderr));
    assert!(!drill.status.success(), "it does not pass");
    assert!(
        took < Duration::from_secs(6),
        "the guard needed {took:?}, 3 s of it grace"
    );
    assert!(said.to_lowercase().contains("guard"), "and says so");
    let api = plane.api().await.expect("a replica");
    let drill = api
        .service("payments")
        .await
        .expect("the service")
        .drill
        .expect("the drill");
    assert_eq!(drill.state(), DrillState::GuardTripped);
    // Callers are well again.
    eventually("everyone is served", Duration::from_secs(5), || async {
        let since = std::time::Instant::now() - Duration::from_millis(500);
        let records = scene.traffic.since(since);
        settled(records.len() > 50 && records.iter().all(|r| r.is_served()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drills_overrides_and_drains_that_make_no_sense_are_refused_and_change_nothing() {
    let scene = scene(400.0).await;
    let plane = &scene.fleet.control_planes[0];
    let api = plane.api().await.expect("a replica");
    let before = api.service("payments").await.expect("the service");
    let refused = async |args: &[&str], named: &[&str]| {
        let output = rampctl(plane, args).await;
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{args:?} was accepted");
        for word in named {
            assert!(
                said.contains(word),
                "{word:?} in the refusal of {args:?}: {said}"
            );
        }
    };
    let drill = ["drill", "failover", "payments", "--region"];
    refused(
        &[&drill[..], &["mars", "--for", "10s", "--reason", "x"]].concat(),
        &["mars", "us-east"],
    )
    .await;
    refused(
        &[&drill[..], &["us-east", "--for", "1s", "--reason", "x"]].concat(),
        &["5 s"],
    )
    .await;
    refused(
        &["drain", "mars", "--for", "10m", "--reason", "x"],
        &["mars", "us-east"],
    )
    .await;
    refused(
        &["drain", "us-east", "--for", "48h", "--reason", "x"],
        &["24 h"],
    )
    .await;
    refused(&["drain", "us-east", "--for", "10m"], &["--reason"]).await;
    refused(&["drain", "us-east", "--reason", "x"], &["--for"]).await;

    let ok = rampctl(
        plane,
        &[
            "drain",
            "us-east",
            "--for",
            "10m",
            "--reason",
            "maintenance",
        ],
    )
    .await;
    assert!(ok.status.success(), "{}", text(&ok.stderr));
    // The other one is the last: neither drained, nor opened, nor drilled.
    refused(
        &["drain", "us-west", "--for", "10m", "--reason", "x"],
        &["us-west", "last"],
    )
    .await;
    refused(
        &[
            "override",
            "payments/us-west",
            "--mode",
            "open",
            "--for",
            "10m",
            "--reason",
            "x",
        ],
        &["us-west", "last"],
    )
    .await;
    refused(
        &[&drill[..], &["us-west", "--for", "10s", "--reason", "x"]].concat(),
        &["us-west"],
    )
    .await;
    let undrained = rampctl(plane, &["undrain", "us-east", "--reason", "done"]).await;
    assert!(undrained.status.success(), "{}", text(&undrained.stderr));
    let after = api.service("payments").await.expect("the service");
    assert_eq!(after.drains, before.drains);
    assert_eq!(after.drill, before.drill);
    for backend in &after.backends {
        assert!(backend.r#override.is_none(), "{backend:?}");
    }
}
