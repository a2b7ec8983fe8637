//! A backend that comes and goes does not drag the fleet along.

use std::time::{Duration, Instant};

use e2e::{Fleet, FleetFile, alone, eventually, settled};
use rampmeter_api::v1::{BreakerState, EventKind};
use rampmeter_demo::backend::{Behaviour, ScriptedBackend};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_backend_is_left_alone_for_longer_each_time() {
    let _alone = alone().await;
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(3, &["us-east"])
        .service("pay", &[("us-east", backend.address())])
        .breaker("open_duration", "2s");
    let fleet = Fleet::start(&file, 2).await.expect("a fleet");
    let traffic = fleet.load("pay", 200.0).start();
    eventually("calm", 20 * SECOND, || async {
        settled(backend.receipts().count() >= 1000)
    })
    .await;
    // A second up, a second down, for a minute.
    let start = Instant::now();
    for half in 0..60_u32 {
        backend.behave(match half % 2 {
            0 => Behaviour::status(500),
            _ => Behaviour::ok(),
        });
        eventually("the next turn", 5 * SECOND, || async {
            settled(start.elapsed() >= (half + 1) * SECOND)
        })
        .await;
    }
    let sent = backend.receipts().since(start);
    let failed = sent.iter().filter(|r| r.affected).count();
    drop(traffic);
    let wanted = 60.0 * 200.0;
    println!(
        "{failed} of {wanted} requests met it down ({} were sent)",
        sent.len()
    );
    assert!(
        failed as f64 <= 0.05 * wanted,
        "{failed} requests failed in a minute"
    );

    let api = fleet.control_planes[0].api().await.expect("a replica");
    let events = api.events("pay/us-east").await.expect("events");
    let time = |event: &rampmeter_api::v1::Event| {
        let at = event.event_time.expect("a time");
        at.seconds as f64 + f64::from(at.nanos) / 1e9
    };
    let openings: Vec<_> = events
        .iter()
        .filter(|e| e.kind() == EventKind::Transition && e.to_state() == BreakerState::Open)
        .collect();
    println!("{} openings", openings.len());
    assert!(!openings.is_empty());
    // One transition to OPEN for each open period, and the periods grow.
    let periods: Vec<f64> = openings
        .iter()
        .filter_map(|e| {
            let next = e.next_time?;
            Some(next.seconds as f64 + f64::from(next.nanos) / 1e9 - time(e))
        })
        .collect();
    println!("open periods: {periods:.1?} s");
    for (at, pair) in openings.windows(2).enumerate() {
        let gap = time(pair[1]) - time(pair[0]);
        assert!(
            gap >= periods[at] * 0.95,
            "opened again {gap} s after opening for {} s",
            periods[at]
        );
    }
    assert!(
        periods.last() > periods.first() || openings.len() == 1,
        "the periods do not grow: {periods:?}"
    );
}
