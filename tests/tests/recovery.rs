//! After the heal: the backend gets what the ramp allows, no more and not much
//! less, over any second.

use std::time::{Duration, Instant, SystemTime};

use e2e::{Fleet, FleetFile, alone, eventually, settled};
use rampmeter_api::v1::{BreakerState, Event, EventKind};
use rampmeter_demo::{
    backend::{Behaviour, ScriptedBackend},
    load::{Load, Pacing},
};

const PAY: &str = "pay/us-east";
const RATE: f64 = 500.0;
const RAMP: Duration = Duration::from_secs(8);
/// Admission at which every ramp starts.
const FLOOR: f64 = 0.1;
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_healed_backend_gets_the_share_of_traffic_that_the_ramp_allows() {
    let _alone = alone().await;
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(4, &["us-east"])
        .service("pay", &[("us-east", backend.address())])
        .breaker("open_duration", "1s")
        .breaker("ramp_duration", format!("{}s", RAMP.as_secs()));
    let fleet = Fleet::start(&file, 5).await.expect("a fleet");
    let traffic = Load {
        pacing: Pacing::Even,
        ..fleet.load("pay", RATE)
    }
    .start();
    let api = fleet.control_planes[0].api().await.expect("a replica");
    let reaches = async |state| {
        eventually("the next state", Duration::from_secs(20), || async {
            settled(api.breaker(PAY).await.ok()? == state)
        })
        .await;
    };
    eventually("calm traffic", Duration::from_secs(20), || async {
        settled(backend.receipts().count() >= 1000)
    })
    .await;
    backend.behave(Behaviour::status(503));
    reaches(BreakerState::Open).await;
    backend.behave(Behaviour::ok());
    reaches(BreakerState::Closed).await;
    let closed = instant_of(&api.events(PAY).await.expect("events"), |event| {
        event.kind() == EventKind::Transition && event.to_state() == BreakerState::Closed
    });
    eventually("a second at full admission", RAMP * 3, || async {
        settled(closed.elapsed() > RAMP + 2 * SECOND)
    })
    .await;
    let records = traffic.stop().await;
    let wanted = |start: Instant, end: Instant| {
        records
            .iter()
            .filter(|r| r.at >= start && r.at < end)
            .count() as f64
    };
    for tenth in 0..(RAMP.as_secs() + 1) * 10 {
        let since = tenth as f64 / 10.0;
        let start = closed + Duration::from_secs_f64(since);
        let wanted = wanted(start, start + SECOND).max(RATE);
        let seen = backend.receipts().between(start, start + SECOND);
        let most = wanted * admission(since + 1.0) * 1.2;
        assert!(
            seen as f64 <= most,
            "{since} s after closing the backend saw {seen} requests in a second, {most:.0} allowed"
        );
    }
    // And it is given what it may have: over the whole ramp.
    let offered: f64 = (0..RAMP.as_secs() * 10)
        .map(|tenth| {
            let start = closed + Duration::from_millis(tenth * 100);
            wanted(start, start + SECOND / 10) * admission(tenth as f64 / 10.0)
        })
        .sum();
    let seen = backend.receipts().between(closed, closed + RAMP) as f64;
    println!("{seen} requests over the ramp, {offered:.0} offered");
    assert!(
        (0.8..1.2).contains(&(seen / offered)),
        "{seen} of {offered:.0} over the ramp"
    );
    let failed = records
        .iter()
        .filter(|r| r.at >= closed && r.is_failed())
        .count();
    assert_eq!(failed, 0, "requests that failed after closing");
}

/// What the ramp admits so many seconds after closing.
fn admission(seconds: f64) -> f64 {
    (seconds / RAMP.as_secs_f64()).clamp(FLOOR, 1.0)
}

fn instant_of(events: &[Event], wanted: impl Fn(&Event) -> bool) -> Instant {
    let event = events
        .iter()
        .rev()
        .find(|event| wanted(event))
        .expect("the event");
    let time: SystemTime = event
        .event_time
        .expect("a time")
        .try_into()
        .expect("after 1970");
    Instant::now() - SystemTime::now().duration_since(time).unwrap_or_default()
}
