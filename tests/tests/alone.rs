//! Agents without a control plane.

use std::time::{Duration, Instant};

use e2e::{AgentStart, Fleet, FleetFile, eventually, settled};
use gateway_agent::config::{memory::DECISIONS, state_dir::StateDir};
use rampmeter_api::v1::{self, BreakerState};
use rampmeter_demo::{
    backend::{Behaviour, ScriptedBackend},
    load::{Load, Record},
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_starts_from_its_state_directory_while_the_control_plane_is_away() {
    let pay = ScriptedBackend::local("pay").await.expect("a free port");
    let dead = ScriptedBackend::local("dead").await.expect("a free port");
    let file = FleetFile::new(1, &["us-east"])
        .service("pay", &[("us-east", pay.address())])
        .service("dead", &[("us-east", dead.address())])
        .service("idle", &[("us-east", dead.address())]);
    let mut fleet = Fleet::start(&file, 2).await.expect("a fleet");
    dead.behave(Behaviour::status(503));
    let traffic = fleet.load("dead", 100.0).start();
    let api = fleet.control_planes[0].api().await.expect("a replica");
    eventually("open", SOON, || async {
        settled(api.breaker("dead/us-east").await.ok()? == BreakerState::Open)
    })
    .await;
    drop(traffic);
    let agent = fleet.agent("pop0-0");
    eventually("the agent refuses", SOON, || async {
        settled(
            agent
                .get("/dead/")
                .await
                .ok()?
                .header("x-rampmeter")
                .contains("reason="),
        )
    })
    .await;
    let dir = StateDir::open(&agent.start.state_dir).expect("its state directory");
    eventually("the decision is on disk", SOON, || async {
        let saved = dir.load::<v1::Decisions>(DECISIONS)?.message.decisions;
        let dead = saved
            .iter()
            .find(|decision| decision.backend == "dead/us-east")?;
        settled(dead.fleet.as_ref()?.state() == BreakerState::Open)
    })
    .await;
    let held = agent.version("dead/us-east").await.expect("a version");
    fleet.control_planes[0].process.kill();

    let agent = fleet.agent("pop0-0");
    agent
        .restart()
        .await
        .expect("it starts without its control plane");
    eventually("it serves", SOON, || async {
        settled(agent.get("/pay/").await.ok()?.status == 200)
    })
    .await;
    assert!(agent.is_ready().await);
    let refused = agent.get("/dead/").await.expect("an answer");
    assert_eq!(
        refused.status, 503,
        "what was open is still refused: {refused:?}"
    );
    assert!(
        refused
            .header("x-rampmeter")
            .contains("backend=dead/us-east"),
        "{refused:?}"
    );
    assert_eq!(
        agent.version("dead/us-east").await.expect("a version"),
        held
    );

    fleet.control_planes[0]
        .restart()
        .await
        .expect("the control plane returns, empty");
    fleet.in_sync(SOON).await;
    let agent = fleet.agent("pop0-0");
    assert!(
        agent.version("dead/us-east").await.expect("a version") >= held,
        "never back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_alone_protects_itself_and_recovers() {
    let dir = TempDir::with_prefix("rampmeter-alone-").expect("a directory");
    let config = dir.path().join("fleet.yaml");
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    FleetFile::new(1, &["us-east"])
        .service("pay", &[("us-east", backend.address())])
        .breaker("open_duration", "1s")
        .breaker("ramp_duration", "1s")
        .write(&config)
        .expect("a file");
    let agent = AgentStart::alone("lonely", "pop0", &config, dir.path())
        .launch()
        .await
        .expect("an agent");
    eventually("ready", SOON, || async { settled(agent.is_ready().await) }).await;
    let traffic = Load {
        rate: 100.0,
        path: "/pay/".to_owned(),
        ..Load::new(vec![agent.target()])
    }
    .start();
    eventually("calm", SOON, || async {
        settled(backend.receipts().count() >= 100)
    })
    .await;
    let broken = Instant::now();
    backend.behave(Behaviour::status(503));
    eventually("it refuses", SOON, || async {
        settled(
            traffic
                .since(broken)
                .iter()
                .filter(|r| r.is_refused())
                .count()
                >= 20,
        )
    })
    .await;
    let reached = backend.receipts().since(broken).len();
    assert!(reached <= 15, "{reached} requests reached the dead backend");
    backend.behave(Behaviour::ok());
    eventually("it serves again, fully", SOON, || async {
        let lately = traffic.since(Instant::now() - Duration::from_millis(500));
        settled(lately.len() > 20 && lately.iter().all(Record::is_served))
    })
    .await;
    let records = traffic.stop().await;
    let first_refusal = records
        .iter()
        .find(|record| record.is_refused())
        .expect("a refusal");
    assert!(first_refusal.retry_after >= Some(1), "{first_refusal:?}");
}
