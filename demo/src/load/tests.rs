//! The traffic keeps to its schedule and its records to the truth.

use std::time::{Duration, Instant};

use super::*;
use crate::backend::{Answer, Behaviour, ScriptedBackend};

async fn pair() -> (ScriptedBackend, ScriptedBackend) {
    let backend = async |name| ScriptedBackend::local(name).await.expect("a free port");
    (backend("a").await, backend("b").await)
}

fn targets(backends: &[&ScriptedBackend]) -> Vec<Target> {
    let names = ["a", "b"];
    backends
        .iter()
        .zip(names)
        .map(|(backend, name)| Target::new(name, backend.address()))
        .collect()
}

#[tokio::test]
async fn it_sends_at_its_rate_and_spreads_by_weight() {
    let (a, b) = pair().await;
    let mut targets = targets(&[&a, &b]);
    targets[0].weight = 3.0;
    let start = Instant::now();
    let load = Load {
        rate: 400.0,
        count: Some(400),
        pacing: Pacing::Even,
        ..Load::new(targets)
    };
    let records = load.start().finish().await;
    let took = start.elapsed().as_secs_f64();
    assert!(
        (0.9..1.5).contains(&took),
        "400 requests at 400/s took {took} s"
    );
    assert_eq!(
        Tally::of(&records),
        Tally {
            served: 400,
            ..Tally::default()
        }
    );
    assert_eq!((a.receipts().count(), b.receipts().count()), (300, 100));
}

#[tokio::test]
async fn slow_answers_do_not_slow_the_schedule() {
    let (a, _) = pair().await;
    a.behave(Behaviour::all(Answer::Slow(Duration::from_millis(400))));
    let load = Load {
        rate: 200.0,
        duration: Duration::from_millis(500),
        ..Load::new(targets(&[&a]))
    };
    let start = Instant::now();
    let records = load.start().finish().await;
    let sent = records.len();
    assert!(
        (60..150).contains(&sent),
        "{sent} requests in half a second at 200/s"
    );
    assert!(
        records
            .iter()
            .all(|r| r.at < start + Duration::from_millis(800))
    );
    assert!(
        records
            .iter()
            .all(|r| r.latency >= Duration::from_millis(400))
    );
}

#[tokio::test]
async fn a_stopped_load_waits_for_its_answers() {
    let (a, _) = pair().await;
    a.behave(Behaviour::all(Answer::Slow(Duration::from_millis(100))));
    let running = Load::new(targets(&[&a])).start();
    while a.receipts().count() < 5 {
        tokio::task::yield_now().await;
    }
    let records = running.stop().await;
    assert_eq!(records.len() as u64, a.receipts().count());
    assert!(records.iter().all(Record::is_served), "{records:?}");
}
