//! Not all may pass: the same users pass at every gateway, and what a backend
//! takes is found out by metering it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use e2e::{Fleet, FleetFile, alone, eventually, settled};
use rampmeter_api::v1::{BreakerState, EventKind};
use rampmeter_demo::{
    backend::{Behaviour, ScriptedBackend},
    load::{Caller, Load, Pacing},
};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_one_answer_at_every_gateway() {
    let _alone = alone().await;
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    // Half of the demand fits.
    let file = FleetFile::new(2, &["us-east"])
        .service("pay", &[("us-east", backend.address())])
        .capacity("pay", "us-east", 250.0)
        .setting("priority", "shed_key", "header:x-user");
    let fleet = Fleet::start(&file, 5).await.expect("a fleet");
    let users = 1000;
    let caller =
        |user: usize| Caller::new(&format!("user-{user}"), "x-user", &format!("user-{user}"));
    let traffic = Load {
        callers: (0..users).map(caller).collect(),
        pacing: Pacing::Even,
        ..fleet.load("pay", 500.0)
    }
    .start();
    let api = fleet.control_planes[0].api().await.expect("a replica");
    let share = || async {
        let plan = api.service("pay").await.ok()?.plan?;
        Some(plan.origins.first()?.regions.first()?.share)
    };
    eventually("half is admitted", SOON, || async {
        settled((0.4..0.6).contains(&share().await?))
    })
    .await;
    // The mean of ten seconds: the rate is what it is from here on.
    let since = Instant::now();
    eventually("the plan has settled", SOON, || async {
        settled(since.elapsed() >= 4 * SECOND)
    })
    .await;
    let start = Instant::now();
    eventually("each user has asked ten times", SOON, || async {
        settled(traffic.since(start).len() >= users * 10)
    })
    .await;
    let mut answers: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for record in traffic.stop().await.iter().filter(|r| r.at >= start) {
        let (passed, refused) = answers.entry(record.caller.to_string()).or_default();
        match record.is_served() {
            true => *passed += 1,
            false => *refused += 1,
        }
    }
    let torn = answers.values().filter(|(p, r)| *p > 0 && *r > 0).count();
    let passed = answers.values().filter(|(p, _)| *p > 0).count();
    println!(
        "{passed} of {} users pass, {torn} get both answers",
        answers.len()
    );
    assert!(
        (300..700).contains(&passed),
        "{passed} of {users} users pass"
    );
    assert!(
        torn * 100 <= answers.len(),
        "{torn} of {} users get both answers",
        answers.len()
    );
}

/// A backend loses capacity under 400 requests a second: it takes so many a second
/// and answers 503 to the excess. Returns what it served in each second after that.
async fn less_capacity(capacity: u32, throttle: bool) -> (Vec<usize>, Fleet) {
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(2, &["us-east"])
        .service("pay", &[("us-east", backend.address())])
        .breaker("overload_throttle", throttle)
        .breaker("open_duration", "2s")
        .breaker("ramp_duration", "2s");
    let fleet = Fleet::start(&file, 3).await.expect("a fleet");
    let traffic = Load {
        pacing: Pacing::Even,
        ..fleet.load("pay", 400.0)
    }
    .start();
    eventually("calm", SOON, || async {
        settled(backend.receipts().count() >= 2000)
    })
    .await;
    backend.behave(Behaviour::capacity(capacity));
    let halved = Instant::now();
    eventually("25 s of overload", 2 * SOON, || async {
        settled(halved.elapsed() >= 25 * SECOND)
    })
    .await;
    let records = traffic.stop().await;
    let served = (0..25).map(|second| {
        let from = halved + second * SECOND;
        let within = records
            .iter()
            .filter(|r| r.at >= from && r.at < from + SECOND);
        within.filter(|r| r.is_served()).count()
    });
    (served.collect(), fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_metered_and_what_the_backend_takes_is_served() {
    let _alone = alone().await;
    let (served, fleet) = less_capacity(180, true).await;
    println!("with the throttle, served each second: {served:?}");
    let settled: f64 = served[10..].iter().map(|n| *n as f64).sum::<f64>() / 15.0;
    assert!(
        settled >= 0.9 * 180.0,
        "{settled} of 180 requests/s were served"
    );
    let api = fleet.control_planes[0].api().await.expect("a replica");
    let backend = api.backend("pay/us-east").await.expect("the backend");
    assert_eq!(backend.state(), BreakerState::Closed, "metered, not broken");
    let throttle = backend.throttle.expect("it is metered");
    assert!(
        (0.4..0.7).contains(&throttle),
        "180 of 400 is 0.45, not {throttle}"
    );
    let events = api.events("pay/us-east").await.expect("events");
    assert!(
        events.iter().any(|e| e.kind() == EventKind::ThrottleSet),
        "{events:?}"
    );
    let opened = events.iter().filter(|e| e.kind() == EventKind::Transition);
    assert_eq!(opened.count(), 0, "{events:?}");
    let why = api.explain("pay/us-east").await.expect("an explanation");
    println!("{}", why.summary);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_throttle_the_breaker_flaps() {
    let _alone = alone().await;
    let (served, fleet) = less_capacity(100, false).await;
    println!("without the throttle, served each second: {served:?}");
    let api = fleet.control_planes[0].api().await.expect("a replica");
    let events = api.events("pay/us-east").await.expect("events");
    let opened = events
        .iter()
        .filter(|e| e.kind() == EventKind::Transition && e.to_state() == BreakerState::Open);
    let mean: f64 = served[10..].iter().map(|n| *n as f64).sum::<f64>() / 15.0;
    assert!(
        opened.count() >= 2 || mean < 0.8 * 100.0,
        "the comparison shows nothing: {mean} requests/s served"
    );
}
