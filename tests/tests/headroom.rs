//! Failover by headroom: what fits goes to the surviving region at once, the rest
//! is shed lowest priority first, and traffic comes home slowly.

use std::time::{Duration, Instant};

use e2e::{Api, Fleet, FleetFile, alone, eventually, settled};
use rampmeter_api::v1::{BreakerState, EventKind};
use rampmeter_demo::{
    backend::{Answer, Behaviour, ScriptedBackend},
    load::{Caller, Load, Pacing, Record, Running},
};

/// Requests a second that each region takes, and how much of it is filled.
const CAPACITY: f64 = 400.0;
const TARGET: f64 = 0.8;
const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(30);

/// A tenth of the requests is critical, two tenths may be lost first.
fn callers() -> Vec<Caller> {
    let caller =
        |priority: &str, weight| Caller::new(priority, "x-priority", priority).weighing(weight);
    vec![
        caller("CRITICAL", 0.2),
        caller("HIGH", 0.2),
        caller("NORMAL", 0.3),
        caller("LOW", 0.3),
    ]
}

struct Scene {
    east: ScriptedBackend,
    west: ScriptedBackend,
    fleet: Fleet,
    api: Api,
    /// From the POP that prefers us-east.
    eastern: Running,
    /// From the POP that prefers us-west, at 40 %.
    western: Running,
    /// Requests a second of both.
    wanted: f64,
}

impl Scene {
    /// `eastern_share`: what wants us-east, as a share of its capacity. Without callers,
    /// every request is as important as the next, and shares are exact.
    async fn set(eastern_share: f64, callers: &[Caller]) -> Self {
        let local = async |name| ScriptedBackend::local(name).await.expect("a free port");
        let (east, west) = (local("us-east").await, local("us-west").await);
        let regions = [("us-east", east.address()), ("us-west", west.address())];
        let file = FleetFile::default()
            .pop("iad1", &["us-east", "us-west"])
            .pop("sfo1", &["us-west", "us-east"])
            .service("pay", &regions)
            .capacity("pay", "us-east", CAPACITY)
            .capacity("pay", "us-west", CAPACITY)
            .setting("priority", "header", "x-priority")
            .breaker("open_duration", "2s")
            .breaker("ramp_duration", "1s");
        let fleet = Fleet::start(&file, 2).await.expect("a fleet");
        let from = |pop: &str, share: f64, seed| {
            let load = fleet.load("pay", share * CAPACITY);
            let targets = load.targets.iter().filter(|t| t.name.starts_with(pop));
            Load {
                targets: targets.cloned().collect(),
                callers: callers.to_vec(),
                pacing: Pacing::Even,
                seed,
                ..load
            }
            .start()
        };
        let (eastern, western) = (from("iad1", eastern_share, 1), from("sfo1", 0.4, 2));
        let api = fleet.control_planes[0].api().await.expect("a replica");
        Self {
            east,
            west,
            fleet,
            api,
            eastern,
            western,
            wanted: (eastern_share + 0.4) * CAPACITY,
        }
    }

    /// Both regions serve their own, and the control plane knows the demand.
    async fn is_calm(&self) {
        eventually("the demand is known", SOON, || async {
            let demand = self.api.service("pay").await.ok()?.traffic?.demand?;
            let known = demand.critical + demand.high + demand.normal + demand.low;
            settled(known >= 0.9 * self.wanted)
        })
        .await;
        let since = Instant::now();
        eventually("two calm seconds", SOON, || async {
            settled(since.elapsed() >= 2 * SECOND)
        })
        .await;
        assert_eq!(
            marks(&self.west, since, "iad1"),
            0,
            "us-east serves its own"
        );
        assert_eq!(
            marks(&self.east, since, "sfo1"),
            0,
            "us-west serves its own"
        );
    }

    async fn reaches(&self, state: BreakerState) {
        eventually("the next state of us-east", SOON, || async {
            settled(self.api.breaker("pay/us-east").await.ok()? == state)
        })
        .await;
    }
}

/// Requests of one POP that reached a backend.
fn marks(backend: &ScriptedBackend, since: Instant, pop: &str) -> usize {
    let receipts = backend.receipts().since(since);
    let of_pop = receipts
        .iter()
        .filter(|r| r.mark.as_deref().is_some_and(|m| m.starts_with(pop)));
    of_pop.count()
}

/// The most requests that reached a backend in any second, from tenth to tenth.
fn busiest_second(backend: &ScriptedBackend, start: Instant, end: Instant) -> usize {
    let tenths = (end - start).as_millis() as u32 / 100;
    let seen = |tenth| {
        let from = start + tenth * Duration::from_millis(100);
        backend.receipts().between(from, from + SECOND)
    };
    (0..tenths.saturating_sub(10)).map(seen).max().unwrap_or(0)
}

fn served(records: &[Record], caller: &str) -> f64 {
    let of_caller: Vec<_> = records.iter().filter(|r| &*r.caller == caller).collect();
    let served = of_caller.iter().filter(|r| r.is_served()).count();
    served as f64 / of_caller.len().max(1) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_fails_over_and_the_rest_is_shed_lowest_priority_first() {
    let _alone = alone().await;
    let scene = Scene::set(0.8, &callers()).await;
    scene.is_calm().await;

    let killed = Instant::now();
    scene.east.behave(Behaviour::all(Answer::Refuse));
    let outage = 8 * SECOND;
    eventually("eight seconds of outage", SOON, || async {
        settled(killed.elapsed() >= outage)
    })
    .await;
    let end = Instant::now();

    // The survivor is not overrun, in any second since the death of the other.
    let most = busiest_second(&scene.west, killed, end) as f64;
    let limit = TARGET * CAPACITY;
    println!("us-west: {most} requests in its busiest second, u·C is {limit}");
    assert!(
        most <= limit * 1.1,
        "us-west got {most} in a second, u·C is {limit}"
    );

    // Half a second in, everything that fits flows.
    let settled_at = killed + Duration::from_millis(500);
    let flowing = scene.west.receipts().between(settled_at, end) as f64;
    let flowing = flowing / (end - settled_at).as_secs_f64();
    println!("us-west: {flowing:.0} requests/s from 0.5 s on");
    assert!(
        flowing >= limit * 0.9,
        "only {flowing:.0}/s flow, {limit} would fit"
    );

    let records = scene.eastern.since(settled_at);
    let shares: Vec<_> = ["CRITICAL", "HIGH", "NORMAL", "LOW"]
        .map(|priority| (priority, served(&records, priority)))
        .to_vec();
    println!("served from 0.5 s on: {shares:?}");
    assert!(served(&records, "CRITICAL") >= 0.995, "{shares:?}");
    assert!(served(&records, "LOW") <= 0.02, "{shares:?}");
    for record in records.iter().filter(|r| !r.is_served()) {
        // But for a trial that us-east failed.
        if record.is_refused() {
            assert!(record.retry_after.is_some_and(|s| s >= 1), "{record:?}");
        }
    }
    let failed = records.iter().filter(|r| r.is_failed()).count();
    assert!(failed <= 5, "{failed} requests failed after the failover");
    // Those of the surviving region's own POP never suffer.
    let western = scene.western.since(killed);
    let lost = western.iter().filter(|r| !r.is_served()).count();
    assert!(
        lost as f64 <= 0.35 * western.len() as f64,
        "{lost} of {} requests of us-west's own POP lost",
        western.len()
    );
    assert!(served(&western, "CRITICAL") >= 0.995);

    let service = scene.api.service("pay").await.expect("the service");
    println!("{}", service.summary);
    let plan = service.plan.expect("a plan");
    let events = scene.api.service_events("pay").await.expect("events");
    let moved = events
        .iter()
        .find(|e| e.kind() == EventKind::PlanChanged && e.plan.is_some());
    assert!(moved.is_some(), "the plan is an event: {events:?}");
    assert!(
        plan.shed_per_second > 0.0,
        "the plan says what it sheds: {plan:?}"
    );
    drop(scene.fleet);
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_comes_home_slowly_and_nothing_is_lost_on_the_way() {
    let _alone = alone().await;
    // All of it fits into us-west, so only the failback says how fast it comes home.
    let eastern = 0.4;
    let scene = Scene::set(eastern, &[]).await;
    scene.is_calm().await;
    scene.east.behave(Behaviour::all(Answer::Refuse));
    scene.reaches(BreakerState::Open).await;
    scene.east.behave(Behaviour::ok());
    scene.reaches(BreakerState::Closed).await;
    let closed = Instant::now();
    let demand = eastern * CAPACITY;
    eventually("all is home again", SOON, || async {
        let since = Instant::now() - SECOND;
        settled(marks(&scene.east, since, "iad1") as f64 >= demand * 0.95)
    })
    .await;
    let home = Instant::now();
    println!("home after {:.1} s", (home - closed).as_secs_f64());
    // At most a tenth of the demand a second, and what the spacing of plans adds.
    let share =
        |at: Instant| scene.east.receipts().between(at, at + SECOND / 2) as f64 * 2.0 / demand;
    let mut at = closed;
    while at + 2 * SECOND < home {
        let (before, after) = (share(at), share(at + SECOND));
        assert!(
            after - before <= 0.16,
            "from {before:.2} to {after:.2} within a second"
        );
        at += SECOND / 2;
    }
    let records = scene.eastern.since(closed);
    let failed = records.iter().filter(|r| r.is_failed()).count();
    assert_eq!(failed, 0, "requests that failed on the way home");
    let lost = records.iter().filter(|r| !r.is_served()).count();
    assert_eq!(lost, 0, "requests that were refused on the way home");
    let events = scene.api.events("pay/us-east").await.expect("events");
    let opened = events.iter().filter(|e| {
        e.kind() == EventKind::Transition
            && e.to_state() == BreakerState::Open
            && e.from_state() == BreakerState::Closed
    });
    assert_eq!(opened.count(), 1, "no second trip");
}
