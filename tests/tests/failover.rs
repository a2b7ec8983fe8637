//! Region order: when one region is out, the next one serves.

use std::time::{Duration, Instant};

use e2e::{Fleet, FleetFile, eventually, settled};
use rampmeter_api::v1::BreakerState;
use rampmeter_demo::{
    backend::{Behaviour, ScriptedBackend},
    load::Record,
};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn when_us_east_dies_us_west_serves_everyone() {
    let east = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let west = ScriptedBackend::local("us-west")
        .await
        .expect("a free port");
    let regions = [("us-east", east.address()), ("us-west", west.address())];
    let file = FleetFile::new(2, &["us-east", "us-west"])
        .service("pay", &regions)
        .breaker("open_duration", "2s")
        .breaker("ramp_duration", "1s");
    let fleet = Fleet::start(&file, 2).await.expect("a fleet");
    let traffic = fleet.load("pay", 100.0).start();
    eventually("calm", SOON, || async {
        settled(east.receipts().count() >= 200)
    })
    .await;
    assert_eq!(
        west.receipts().count(),
        0,
        "the first region of the order serves alone"
    );

    east.behave(Behaviour::status(503));
    eventually("us-west serves", SOON, || async {
        settled(west.receipts().count() >= 100)
    })
    .await;
    let moved = Instant::now();
    eventually("us-west serves on", SOON, || async {
        settled(traffic.since(moved).len() >= 150)
    })
    .await;
    let records = traffic.since(moved);
    // A trial of us-east may meet a client's request, once every two seconds.
    let unserved: Vec<_> = records
        .iter()
        .filter(|record| !record.is_served())
        .collect();
    assert!(unserved.len() <= 2, "{unserved:?}");
    assert!(
        !unserved.iter().any(|record| record.is_refused()),
        "{unserved:?}"
    );

    east.behave(Behaviour::ok());
    let api = fleet.control_planes[0].api().await.expect("a replica");
    eventually("us-east is closed again", SOON, || async {
        settled(api.breaker("pay/us-east").await.ok()? == BreakerState::Closed)
    })
    .await;
    eventually("us-east serves alone again", SOON, || async {
        let since = Instant::now() - Duration::from_millis(500);
        settled(west.receipts().since(since).is_empty() && east.receipts().since(since).len() > 20)
    })
    .await;
    let west_state = api.breaker("pay/us-west").await.expect("a state");
    assert_eq!(
        west_state,
        BreakerState::Closed,
        "the other region never suffered"
    );
    assert!(
        traffic
            .stop()
            .await
            .iter()
            .filter(|r| r.at >= moved)
            .filter(|r| Record::is_refused(r))
            .count()
            == 0
    );
}
