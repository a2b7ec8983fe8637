//! One backend takes requests and never answers: whoever shares the gateway with
//! it must not notice, with breakers or without.

use std::time::{Duration, Instant};

use e2e::{Agent, AgentStart, FleetFile, alone, eventually, settled};
use rampmeter_demo::{
    backend::{Answer, Behaviour, ScriptedBackend},
    load::{Load, Pacing, Record, Running},
};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(60);

/// How long each part is looked at.
const LONG: Duration = Duration::from_secs(12);

/// Resident memory in MiB.
fn memory(agent: &Agent) -> u64 {
    let path = format!("/proc/{}/status", agent.process.id());
    let status = std::fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("a size")
        .trim()
        .parse::<u64>()
        .expect("a number")
        / 1024
}

fn p99(records: &[Record]) -> Duration {
    let mut latencies: Vec<_> = records.iter().map(|record| record.latency).collect();
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

async fn watched(healthy: &Running, from: Instant) -> Vec<Record> {
    eventually("it was watched for long enough", SOON, || async {
        settled(from.elapsed() >= LONG)
    })
    .await;
    healthy.since(from)
}

async fn a_black_hole_is_nobody_else_s_trouble(mode: &str) {
    let _alone = alone().await;
    let pay = ScriptedBackend::local("pay").await.expect("a free port");
    let hole = ScriptedBackend::local("hole").await.expect("a free port");
    let file = FleetFile::new(1, &["us-east"])
        .service("pay", &[("us-east", pay.address())])
        .service("hole", &[("us-east", hole.address())])
        .breaker("mode", mode);
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("fleet.yaml");
    file.write(&config).expect("it is written");
    let start = AgentStart::alone("a", "pop0", &config, folder.path());
    let agent = start.launch().await.expect("an agent");
    let load = |path: &str| Load {
        rate: 500.0,
        pacing: Pacing::Even,
        path: path.to_owned(),
        timeout: 30 * SECOND,
        ..Load::new(vec![agent.target()])
    };
    let healthy = load("/pay/").start();
    eventually("it is warm", SOON, || async {
        settled(pay.receipts().count() >= 1000)
    })
    .await;
    let baseline = p99(&watched(&healthy, Instant::now()).await);
    let (before, from) = (memory(&agent), Instant::now());
    hole.behave(Behaviour::all(Answer::Hang));
    let swallowed = load("/hole/").start();
    let beside = watched(&healthy, from).await;
    let after = memory(&agent);
    drop(swallowed);
    let served = beside.iter().filter(|record| record.is_served()).count();
    let now = p99(&beside);
    println!(
        "{mode}: {served} of {} served; p99 {now:?} after {baseline:?}; {after} MiB after {before} MiB; \
         {} requests in the hole",
        beside.len(),
        hole.receipts().count()
    );
    assert!(beside.len() >= 5000, "{}", beside.len());
    assert_eq!(served, beside.len());
    // A machine that does other things besides is late now and then; figures of a
    // quiet one are in docs/benchmarks.md.
    assert!(now < SECOND, "{now:?} after {baseline:?}");
    assert!(after <= before + 128, "{after} MiB after {before} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_nobody_else_s_trouble_while_breakers_watch() {
    a_black_hole_is_nobody_else_s_trouble("ENFORCE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_nobody_else_s_trouble_while_breakers_are_off() {
    a_black_hole_is_nobody_else_s_trouble("DISABLED").await;
}
