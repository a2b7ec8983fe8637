//! A quota holds for the sum of all gateways, whoever comes, goes or is cut off.

use std::time::{Duration, Instant};

use e2e::{AgentStart, Cable, Fleet, FleetFile, alone, eventually, settled};
use rampmeter_demo::{
    backend::ScriptedBackend,
    load::{Answered, Load, Pacing, Target},
};
use tempfile::TempDir;

const QUOTA: f64 = 500.0;
const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(30);

/// Requests let through in any five seconds of a stretch of time, from half
/// second to half second: least and most, a second.
fn extremes(backend: &ScriptedBackend, start: Instant, end: Instant) -> (f64, f64) {
    let halves = (end - start).as_millis() as u32 / 500;
    let rates: Vec<f64> = (0..halves.saturating_sub(10))
        .map(|half| {
            let from = start + half * (SECOND / 2);
            backend.receipts().between(from, from + 5 * SECOND) as f64 / 5.0
        })
        .collect();
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    (least, rates.iter().copied().fold(0.0, f64::max))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_over_eight_agents_holds_while_one_dies_and_one_is_cut_off() {
    let _alone = alone().await;
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(1, &["us-east"])
        .service("pay", &[("us-east", backend.address())])
        .setting("throttle", "rate", QUOTA)
        .setting("throttle", "burst", 50);
    let mut fleet = Fleet::start(&file, 7).await.expect("a fleet");
    // The eighth reaches the control plane through a cable.
    let cable = Cable::to(fleet.control_planes[0].address)
        .await
        .expect("a free port");
    let dir = TempDir::with_prefix("rampmeter-cable-").expect("a directory");
    let start = AgentStart::new("pop0-cable", "pop0", &cable.url(), dir.path());
    fleet.agents.push(start.launch().await.expect("an agent"));
    fleet.in_sync(SOON).await;

    // Skewed: the first wants ten times what the last does; 1,000/s in all.
    let weights = [10.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0, 4.0];
    let targets = fleet.targets().into_iter().zip(weights);
    let targets: Vec<_> = targets.map(|(t, weight)| Target { weight, ..t }).collect();
    let traffic = Load {
        targets,
        pacing: Pacing::Even,
        rate: 2.0 * QUOTA,
        ..fleet.load("pay", 2.0 * QUOTA)
    }
    .start();
    let api = fleet.control_planes[0].api().await.expect("a replica");
    eventually("the demand is known", SOON, || async {
        let quota = api.service("pay").await.ok()?.quotas.into_iter().next()?;
        settled(quota.agents == 8 && quota.wanted_per_second > 1.8 * QUOTA)
    })
    .await;
    let pass = async |what: &str, time: Duration| {
        let start = Instant::now();
        eventually(what, SOON, || async { settled(start.elapsed() >= time) }).await;
    };
    // What was let through before the demand was known leaves the five seconds.
    pass("a settled quota", 3 * SECOND).await;
    let start = Instant::now();
    pass("eight agents", 8 * SECOND).await;
    let all = extremes(&backend, start, Instant::now());
    println!("eight agents: {all:?} requests/s over any 5 s");

    let killed = Instant::now();
    fleet.agents[2].process.kill();
    pass("one is dead", 8 * SECOND).await;
    let dead = extremes(&backend, killed, Instant::now());
    println!("one is dead: {dead:?}");

    let cut = Instant::now();
    cable.cut();
    pass("one is cut off", 15 * SECOND).await;
    let cut_off = extremes(&backend, cut, Instant::now());
    println!("one is dead, one is cut off: {cut_off:?}");

    for (least, most) in [all, dead, cut_off] {
        assert!(least >= QUOTA * 0.9, "{least} requests/s in some 5 s");
        assert!(most <= QUOTA * 1.1, "{most} requests/s in some 5 s");
    }
    let records = traffic.stop().await;
    let throttled: Vec<_> = records
        .iter()
        .filter(|r| r.answered == Answered::Status(429))
        .collect();
    assert!(
        throttled.len() > 1000,
        "{} answers were 429",
        throttled.len()
    );
    for record in throttled {
        assert!(record.retry_after.is_some_and(|s| s >= 1), "{record:?}");
        assert_eq!(record.field("reason"), Some("quota"), "{record:?}");
    }
}
