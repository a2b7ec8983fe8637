//! A restart that no client notices: a new agent takes over from the one that
//! runs, under traffic of every kind.

mod traffic;
mod websocket;

use std::{path::Path, sync::Arc, time::Duration};

use e2e::{AgentStart, ControlPlane, eventually, settled};
use rampmeter_demo::{
    backend::ScriptedBackend,
    load::{Load, Record},
};
use tempfile::TempDir;
use traffic::{Traffic, grpc_backend};

const SOON: Duration = Duration::from_secs(20);

/// A drain's deadline, and some.
const DRAIN: Duration = Duration::from_secs(40);

/// Exchanges of each kind before, between and after restarts.
const ENOUGH: u64 = 100;

/// Backends of every kind, and a fleet file with them.
struct Behind {
    pay: ScriptedBackend,
    dir: TempDir,
}

impl Behind {
    async fn start() -> Self {
        let pay = ScriptedBackend::local("pay").await.expect("a free port");
        let (chat, grpc) = (websocket::echo().await, grpc_backend().await);
        let dir = TempDir::with_prefix("rampmeter-restart-").expect("a directory");
        let service = |name: &str, prefix: &str, more: &str, address| {
            format!(
                "  {name}:\n    routes: [{{path_prefix: {prefix}}}]\n{more}    \
                 backends: {{us-east: {{endpoints: ['http://{address}']}}}}\n"
            )
        };
        let text = [
            "pops: {pop0: {region_order: [us-east]}}\nservices:\n".to_owned(),
            service("pay", "/pay", "", pay.address()),
            service("chat", "/chat", "    upgrades: [websocket]\n", chat),
            service("health", "/grpc.health.v1.Health", "", grpc),
        ];
        std::fs::write(dir.path().join("fleet.yaml"), text.concat()).expect("written");
        Self { pay, dir }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("fleet.yaml")
    }

    fn agent(&self, start: AgentStart) -> AgentStart {
        AgentStart {
            handover: Some(self.dir.path().join("handover")),
            ..start
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_an_agent_is_replaced_under_mixed_load() {
    let behind = Behind::start().await;
    let start = AgentStart::alone("solo", "pop0", &behind.file(), behind.path());
    let mut agent = behind
        .agent(start.clone())
        .launch()
        .await
        .expect("an agent");
    let kept_alive = Load {
        rate: 200.0,
        path: "/pay/".to_owned(),
        ..Load::new(vec![agent.target()])
    }
    .start();
    let traffic = Arc::new(Traffic::default());
    traffic.start(agent.address);

    for stop_the_old_one in [false, true] {
        traffic.more(ENOUGH).await;
        let successor = behind.agent(start.clone()).launch().await;
        let successor = successor.expect("it takes over");
        assert_eq!(
            (successor.address, successor.admin),
            (agent.address, agent.admin)
        );
        if stop_the_old_one {
            // It drains already; whoever supervises it may not know.
            agent.process.signal("TERM").expect("it drains");
        }
        traffic.more(ENOUGH).await;
        let status = agent.process.exit(DRAIN).await.expect("it ends");
        assert!(status.success(), "{status}: {}", agent.process.last_words());
        agent = successor;
    }
    traffic.more(ENOUGH).await;

    let records = kept_alive.stop().await;
    let failed: Vec<_> = records.iter().filter(|r| !r.is_served()).collect();
    assert!(failed.is_empty(), "of {}: {failed:?}", records.len());
    assert!(records.len() > 500, "{}", records.len());
    assert!(records.iter().all(Record::is_served));
    traffic.stop();
    let (served, failed) = traffic.result();
    assert!(failed.is_empty(), "{failed:?} beside {served:?}");
    assert!(
        traffic.goodbyes() > 0,
        "WebSockets are told to go elsewhere"
    );
    println!("{} kept alive; {served:?}", records.len());
    let seen = behind.pay.receipts().count();
    assert!(seen > records.len() as u64, "{seen} of both kinds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_takes_the_place_in_the_fleet_without_a_long_gap() {
    let behind = Behind::start().await;
    let plane = ControlPlane::start(&behind.file(), "memory").await;
    let plane = plane.expect("a control plane");
    let start = AgentStart::new("pop0-0", "pop0", &plane.url(), behind.path());
    let mut agent = behind
        .agent(start.clone())
        .launch()
        .await
        .expect("an agent");
    eventually("it has its configuration", SOON, || async {
        settled(agent.is_ready().await && agent.is_connected().await)
    })
    .await;
    eventually("and keeps it", SOON, || async {
        settled(agent.start.state_dir.join("config").exists())
    })
    .await;
    let traffic = Arc::new(Traffic::default());
    traffic.start(agent.address);
    traffic.more(ENOUGH).await;

    let mut successor = behind.agent(start).launch().await.expect("it takes over");
    let took = successor.process.line("connected to the control plane");
    let since = tokio::time::Instant::now();
    took.await.expect("it is let in");
    let gap = since.elapsed();
    // One attempt that is refused would cost a second and its jitter.
    assert!(gap < Duration::from_secs(3), "{gap:?}");
    let said = successor.process.output();
    assert!(!said.contains("in use by another"), "{said}");
    let status = agent.process.exit(DRAIN).await.expect("it ends");
    assert!(status.success(), "{status}");
    traffic.more(ENOUGH).await;
    traffic.stop();
    let (served, failed) = traffic.result();
    assert!(failed.is_empty(), "{failed:?} beside {served:?}");
    eventually("one agent, in sync", SOON, || async {
        let agents = plane.api().await.ok()?.agents().await.ok()?;
        settled(agents.len() == 1 && agents[0].in_sync)
    })
    .await;
    println!("connected {gap:?} after it listened; {served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_start_leaves_everything_as_it_was() {
    let behind = Behind::start().await;
    let start = AgentStart::alone("solo", "pop0", &behind.file(), behind.path());
    let agent = behind
        .agent(start.clone())
        .launch()
        .await
        .expect("an agent");
    let traffic = Arc::new(Traffic::default());
    traffic.start(agent.address);
    traffic.more(ENOUGH).await;
    let elsewhere = AgentStart {
        pop: "mars".to_owned(),
        ..start
    };
    let wrong = behind.agent(elsewhere).launch().await;
    let why = wrong.expect_err("there is no such POP").to_string();
    assert!(why.contains("mars"), "{why}");
    traffic.more(ENOUGH).await;
    assert!(agent.is_ready().await);
    traffic.stop();
    let (served, failed) = traffic.result();
    assert!(failed.is_empty(), "{failed:?} beside {served:?}");
    assert_eq!(traffic.goodbyes(), 0);
}
