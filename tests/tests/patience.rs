//! What takes long to show, side by side: none of these measures milliseconds.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use e2e::{ControlPlane, Fleet, FleetFile, RedisServer, eventually, settled};
use rampmeter_api::v1::{BreakerState, EventKind, Version};
use rampmeter_demo::{
    backend::{Behaviour, ScriptedBackend},
    load::{Record, Running},
};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn one_per_cent_of_failures_for_two_minutes_changes_nothing() {
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(4, &["us-east"]).service("pay", &[("us-east", backend.address())]);
    let fleet = Fleet::start(&file, 5).await.expect("a fleet");
    backend.behave(Behaviour::flaky(0.01));
    let start = Instant::now();
    let mut load = fleet.load("pay", 500.0);
    load.duration = Duration::from_secs(120);
    let records = load.start().finish().await;
    assert!(start.elapsed() >= Duration::from_secs(119));
    let failed = records.iter().filter(|record| record.is_failed()).count();
    println!("{failed} of {} requests failed", records.len());
    assert!(
        (57_000..63_000).contains(&records.len()),
        "{} requests",
        records.len()
    );
    assert!(
        (450..750).contains(&failed),
        "{failed} failures, 600 expected"
    );
    let refused: Vec<_> = records
        .iter()
        .filter(|record| record.is_refused())
        .collect();
    assert!(refused.is_empty(), "refused without reason: {refused:?}");
    let api = fleet.control_planes[0].api().await.expect("a replica");
    let events = api.events("pay/us-east").await.expect("events");
    let moved: Vec<_> = events
        .iter()
        .filter(|event| event.kind() == EventKind::Transition)
        .collect();
    assert!(moved.is_empty(), "{moved:?}");
}

/// Two replicas on one Redis, three agents each, a healthy service and one
/// that is dead for good.
struct Shared {
    redis: RedisServer,
    fleet: Fleet,
    pay: ScriptedBackend,
    dead: ScriptedBackend,
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_on_one_redis_tell_one_story() {
    let shared = Shared::start().await;
    let traffic = shared.fleet.load("pay", 100.0).start();
    eventually("calm", SOON, || async {
        settled(shared.pay.receipts().count() >= 200)
    })
    .await;
    shared.pay.behave(Behaviour::status(503));
    shared.everywhere("pay/us-east", BreakerState::Open).await;
    shared.pay.behave(Behaviour::ok());
    shared.everywhere("pay/us-east", BreakerState::Closed).await;
    shared.agrees("pay/us-east", Duration::from_secs(10)).await;
    drop(traffic);
    let mut histories = BTreeSet::new();
    for replica in &shared.fleet.control_planes {
        let events = replica
            .api()
            .await
            .expect("a replica")
            .events("pay/us-east")
            .await
            .expect("events");
        let moved = events
            .iter()
            .filter(|event| event.kind() == EventKind::Transition);
        let story: Vec<_> = moved
            .map(|e| format!("{} {:?} {:?}", e.id, e.to_state(), e.version))
            .collect();
        assert!(story.len() >= 3, "open, half-open, closed: {story:?}");
        histories.insert(story);
    }
    assert_eq!(histories.len(), 1, "one history: {histories:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_one_replica_or_both_fails_no_request() {
    let mut shared = Shared::start().await;
    let traffic = shared.fleet.load("pay", 100.0).start();
    shared.open_the_dead_one().await;
    let witness = Witness::watch(&shared.fleet, "dead/us-east");
    let unserved = shared.serves(&traffic, 200).await;
    shared.fleet.control_planes[0].process.kill();
    let one_left = shared.serves(&traffic, 500).await;
    eventually("the agents moved over", SOON, || async {
        settled(
            shared.heard_by(&shared.fleet.control_planes[1]).await? == shared.fleet.agents.len(),
        )
    })
    .await;
    shared.fleet.control_planes[1].process.kill();
    let none_left = shared.serves(&traffic, 500).await;
    for replica in &mut shared.fleet.control_planes {
        replica.restart().await.expect("the replica starts again");
    }
    let returned = Instant::now();
    eventually(
        "all are connected and agree",
        Duration::from_secs(2),
        || async {
            for agent in &shared.fleet.agents {
                settled(agent.is_connected().await)?;
            }
            shared.common_version("dead/us-east").await
        },
    )
    .await;
    println!("all agree {:?} after both returned", returned.elapsed());
    let back = shared.serves(&traffic, 200).await;
    let failed = [unserved, one_left, none_left, back].concat();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(witness.went_back(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_seconds_without_redis_fail_no_request() {
    let mut shared = Shared::start().await;
    let traffic = shared.fleet.load("pay", 100.0).start();
    shared.open_the_dead_one().await;
    let before = shared.version_of("dead/us-east").await;
    let witness = Witness::watch(&shared.fleet, "dead/us-east");
    shared.redis.kill();
    let lost = Instant::now();
    let mut failed = Vec::new();
    while lost.elapsed() < Duration::from_secs(20) {
        failed.extend(shared.serves(&traffic, 200).await);
    }
    shared.redis.restart().await.expect("Redis starts again");
    let returned = Instant::now();
    eventually(
        "every replica has its store and its decisions back",
        Duration::from_secs(2),
        || async {
            let after = shared.common_version("dead/us-east").await?;
            settled(shared.stores_available().await && after >= before)
        },
    )
    .await;
    println!(
        "all agree {:?} after Redis returned, empty",
        returned.elapsed()
    );
    failed.extend(shared.serves(&traffic, 200).await);
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(witness.went_back(), Vec::<String>::new());
    // And it decides again.
    shared.pay.behave(Behaviour::status(503));
    shared.everywhere("pay/us-east", BreakerState::Open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_fails_no_request() {
    let shared = Shared::start().await;
    let traffic = shared.fleet.load("pay", 100.0).start();
    shared.open_the_dead_one().await;
    shared.redis.freeze().expect("it runs");
    let frozen = Instant::now();
    let mut failed = Vec::new();
    while frozen.elapsed() < Duration::from_secs(5) {
        failed.extend(shared.serves(&traffic, 100).await);
    }
    assert!(
        !shared.stores_available().await,
        "the replicas know that their store is away"
    );
    shared.redis.thaw().expect("it runs");
    let thawed = Instant::now();
    eventually(
        "every replica has its store back",
        Duration::from_secs(2),
        || async {
            shared.common_version("dead/us-east").await?;
            settled(shared.stores_available().await)
        },
    )
    .await;
    println!("all agree {:?} after Redis went on", thawed.elapsed());
    failed.extend(shared.serves(&traffic, 100).await);
    assert!(failed.is_empty(), "{failed:?}");
}

impl Shared {
    async fn start() -> Self {
        let redis = RedisServer::start().await.expect("a Redis");
        let pay = ScriptedBackend::local("pay").await.expect("a free port");
        let dead = ScriptedBackend::local("dead").await.expect("a free port");
        let file = FleetFile::new(3, &["us-east"])
            .service("pay", &[("us-east", pay.address())])
            .service("dead", &[("us-east", dead.address())])
            .service("idle0", &[("us-east", dead.address())])
            .service("idle1", &[("us-east", dead.address())])
            .breaker("open_duration", "2s")
            .breaker("ramp_duration", "1s");
        let fleet = Fleet::start_with(&file, 2, 2, &redis.url())
            .await
            .expect("a fleet");
        Self {
            redis,
            fleet,
            pay,
            dead,
        }
    }

    /// Sends enough to a dead backend for every replica to know it as open.
    async fn open_the_dead_one(&self) {
        self.dead.behave(Behaviour::status(503));
        let traffic = self.fleet.load("dead", 50.0).start();
        self.everywhere("dead/us-east", BreakerState::Open).await;
        drop(traffic);
    }

    /// Watches so many more requests to the healthy service and returns those
    /// that it was not allowed to serve.
    async fn serves(&self, traffic: &Running, count: usize) -> Vec<Record> {
        let (_, cursor) = traffic.next(usize::MAX);
        eventually("requests answered", SOON, || async {
            settled(traffic.next(cursor).0.len() >= count)
        })
        .await;
        let (mut records, _) = traffic.next(cursor);
        records.retain(|record| !record.is_served());
        records
    }

    async fn everywhere(&self, backend: &str, state: BreakerState) {
        for replica in &self.fleet.control_planes {
            eventually(&format!("{backend} is {state:?}"), SOON, || async {
                settled(replica.api().await.ok()?.breaker(backend).await.ok()? == state)
            })
            .await;
        }
    }

    async fn agrees(&self, backend: &str, within: Duration) {
        eventually("one version everywhere", within, || {
            self.common_version(backend)
        })
        .await;
    }

    async fn version_of(&self, backend: &str) -> (u64, u64) {
        eventually("one version everywhere", SOON, || {
            self.common_version(backend)
        })
        .await
    }

    /// The version every replica and every agent holds, if it is one.
    async fn common_version(&self, backend: &str) -> Option<(u64, u64)> {
        let mut versions = BTreeSet::new();
        for replica in &self.fleet.control_planes {
            let Version { epoch, revision } = replica
                .api()
                .await
                .ok()?
                .backend(backend)
                .await
                .ok()?
                .version?;
            versions.insert((epoch, revision));
        }
        for agent in &self.fleet.agents {
            versions.insert(agent.version(backend).await.ok()?);
        }
        (versions.len() == 1).then(|| versions.into_iter().next())?
    }

    async fn stores_available(&self) -> bool {
        for replica in &self.fleet.control_planes {
            let Ok(api) = replica.api().await else {
                return false;
            };
            let fleet = api
                .fleet
                .clone()
                .get_fleet(rampmeter_api::v1::GetFleetRequest {})
                .await;
            if !fleet.is_ok_and(|fleet| fleet.into_inner().store_available) {
                return false;
            }
        }
        true
    }

    /// Agents whose stream this replica serves.
    async fn heard_by(&self, replica: &ControlPlane) -> Option<usize> {
        let agents = replica.api().await.ok()?.agents().await.ok()?;
        Some(
            agents
                .iter()
                .filter(|agent| agent.replica == replica.name)
                .count(),
        )
    }
}

/// Looks at every agent's applied versions again and again, from its start to
/// its end: none may ever go back.
struct Witness {
    watching: JoinHandle<()>,
    went_back: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    fn watch(fleet: &Fleet, backend: &'static str) -> Self {
        let went_back = Arc::new(Mutex::new(Vec::new()));
        let agents: Vec<_> = fleet
            .agents
            .iter()
            .map(|agent| (agent.start.id.clone(), agent.admin))
            .collect();
        let found = went_back.clone();
        let watching = tokio::spawn(async move {
            let mut highest = vec![(0, 0); agents.len()];
            loop {
                for ((id, admin), highest) in agents.iter().zip(&mut highest) {
                    let Ok(version) = e2e::applied_version(*admin, backend).await else {
                        continue;
                    };
                    if version < *highest {
                        found
                            .lock()
                            .expect("no panic holds it")
                            .push(format!("{id}: {highest:?} then {version:?}"));
                    }
                    *highest = version;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self {
            watching,
            went_back,
        }
    }

    /// What it saw.
    fn went_back(self) -> Vec<String> {
        self.watching.abort();
        self.went_back.lock().expect("no panic holds it").clone()
    }
}
