//! Requests that wait for a place in flight.

use std::time::{Duration, Instant};

use super::{
    GET, OK,
    rig::{Rig, Scripted, Wire, field},
};
use crate::admit::recorder::Tally;

const LOW: &str = "GET /low HTTP/1.1\r\nhost: a\r\nx-priority: LOW\r\n\r\n";
const CRITICAL: &str = "GET /critical HTTP/1.1\r\nhost: a\r\nx-priority: CRITICAL\r\n\r\n";

fn settings(queue: &str) -> String {
    format!("limits: {{max_concurrency: 1, {queue}}}\n    priority: {{header: x-priority}}")
}

/// A client whose request has the only place, and that request at the backend.
async fn holding(rig: &Rig, backend: &Scripted) -> (Wire, Wire) {
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    (client, upstream)
}

#[tokio::test]
async fn a_request_waits_for_a_place_and_the_most_important_goes_first() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(
        backend.address,
        &settings("max_queue: 9, queue_timeout: 10s"),
    );
    let (mut first, mut upstream) = holding(&rig, &backend).await;
    let mut waiting = Vec::new();
    for request in [LOW, LOW, CRITICAL] {
        let mut client = rig.client().await;
        client.write(request).await;
        waiting.push(client);
        rig.queued(waiting.len() as u32).await;
    }
    upstream.write(OK).await;
    first.until("ok").await;
    for (path, left) in [("/critical", 2), ("/low", 1), ("/low", 0)] {
        let head = upstream.head().await;
        assert!(head.starts_with(&format!("get {path} ")), "{head}");
        rig.queued(left).await;
        upstream.write(OK).await;
    }
    for client in &mut waiting {
        assert!(client.head().await.starts_with("http/1.1 200"));
    }
    rig.in_flight(0).await;
    assert_eq!(rig.count("r", Tally::Demand), 4, "each once");
    assert_eq!(rig.served(Tally::Success), 4);
    assert_eq!(rig.served(Tally::Refused), 0);
}

#[tokio::test]
async fn a_wait_ends_in_time_and_a_full_queue_refuses_at_once() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(
        backend.address,
        &settings("max_queue: 1, queue_timeout: 200ms"),
    );
    let _held = holding(&rig, &backend).await;
    let started = Instant::now();
    let mut client = rig.client().await;
    client.write(GET).await;
    rig.queued(1).await;
    let mut surplus = rig.client().await;
    surplus.write(GET).await;
    let refused = surplus.head().await;
    assert!(refused.contains("reason=limit;"), "{refused}");
    assert!(started.elapsed() < Duration::from_millis(200), "at once");
    let late = client.head().await;
    assert!(late.starts_with("http/1.1 503"), "{late}");
    assert!(late.contains("reason=queue_timeout;"), "{late}");
    assert!(field(&late, "retry-after").parse::<u64>().expect("seconds") >= 1);
    assert!(started.elapsed() >= Duration::from_millis(200));
    rig.queued(0).await;
    assert_eq!(rig.served(Tally::Refused), 2);
    assert_eq!(rig.count("r", Tally::RefusedLimit), 1);
    assert_eq!(rig.count("r", Tally::RefusedQueueTimeout), 1);
}

#[tokio::test]
async fn a_client_that_leaves_leaves_the_queue() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(
        backend.address,
        &settings("max_queue: 9, queue_timeout: 10s"),
    );
    let (mut first, mut upstream) = holding(&rig, &backend).await;
    let mut gone = rig.client().await;
    gone.write(CRITICAL).await;
    rig.queued(1).await;
    let mut stays = rig.client().await;
    stays.write(LOW).await;
    rig.queued(2).await;
    drop(gone);
    rig.queued(1).await;
    upstream.write(OK).await;
    first.until("ok").await;
    assert!(upstream.head().await.starts_with("get /low "));
    upstream.write(OK).await;
    stays.until("ok").await;
}

#[tokio::test]
async fn without_a_queue_nobody_waits() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, &settings("queue_timeout: 10s"));
    let _held = holding(&rig, &backend).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    assert!(client.head().await.contains("reason=limit;"));
    assert_eq!(rig.served(Tally::Refused), 1);
}
