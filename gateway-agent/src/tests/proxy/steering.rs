//! Plans, quotas and drills, as clients meet them.

use std::time::Duration;

use breaker_core::{Mix, Timestamp, shed::ByPriority, steering::Fault};

use super::{
    GET, OK,
    rig::{Rig, Scripted, field, fleet},
};
use crate::admit::{
    recorder::Tally,
    steer::Bands,
    way::{Course, Injection, Way},
};

/// As a call of gRPC, over HTTP/1: what decides is the content type.
const CALL: &str = "POST /x.S/M HTTP/1.1\r\nhost: a.example\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n";

/// Only CRITICAL and HIGH have room.
fn half_of_all(way: &mut Way) {
    way.mix = Mix::of(ByPriority([1.0; 4]));
    way.course = Course::Planned(Bands::new([(0.5, 0.0)]));
}

pub(super) fn drill(rig: &Rig, fault: Fault) {
    rig.steer(|service, way| {
        way.drill = Some(Injection {
            id: "d1".to_owned(),
            backend: service.regions[0].index,
            fault,
            share: 1.0,
            until: Timestamp::from_millis(u64::MAX),
        });
    });
}

#[tokio::test]
async fn what_has_no_room_is_shed_by_priority_and_told_so() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "priority: {header: x-priority}");
    rig.steer(|_, way| half_of_all(way));
    let mut client = rig.client().await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nx-priority: LOW\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(
        head.contains("x-rampmeter: reason=shed; service=s; decision=3.42\r\n"),
        "{head}"
    );
    assert!(head.contains("retry-after: "), "{head}");
    let body = client.until("}\n").await;
    let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&problem["reason"], &problem["service"]),
        (&"shed".into(), &"s".into())
    );
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nx-priority: critical\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    assert!(client.head().await.starts_with("http/1.1 200"));
    assert_eq!(
        (rig.served(Tally::Shed), rig.count("r", Tally::RefusedOpen)),
        (1, 0)
    );
}

#[tokio::test]
async fn a_route_lowers_what_its_requests_say_of_themselves() {
    let backend = Scripted::start().await;
    let settings = "routes: [{path_prefix: /, priority: LOW}]\n    priority: {header: x-priority}";
    let rig = Rig::in_front_of(backend.address, settings);
    rig.steer(|_, way| half_of_all(way));
    let mut client = rig.client().await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\nx-priority: CRITICAL\r\n\r\n")
        .await;
    assert!(client.head().await.contains("reason=shed"));
}

#[tokio::test]
async fn over_the_quota_is_too_many_requests_with_when_and_how_many() {
    let backend = Scripted::start().await;
    let quota = "throttle: {rate: 0.5, burst: 1, key: \"header:x-api-key\"}";
    let rig = Rig::in_front_of(backend.address, quota);
    let mut client = rig.client().await;
    let ask = |key: &str| format!("GET / HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n");
    client.write(&ask("ann")).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    client.until("ok").await;

    client.write(&ask("ann")).await;
    let head = client.head().await;
    assert!(
        head.starts_with("http/1.1 429 too many requests\r\n"),
        "{head}"
    );
    let wait: u64 = field(&head, "retry-after").parse().expect("whole seconds");
    assert!((2..=4).contains(&wait), "{wait}");
    assert_eq!(field(&head, "ratelimit-policy"), "\"quota\";q=1;w=2");
    assert_eq!(field(&head, "ratelimit"), format!("\"quota\";r=0;t={wait}"));
    assert_eq!(field(&head, "x-rampmeter"), "reason=quota; service=s");
    let body = client.until("}\n").await;
    let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&problem["status"], &problem["reason"]),
        (&429.into(), &"quota".into())
    );

    client.write(&ask("bob")).await;
    upstream.head().await;
    upstream.write(OK).await;
    assert!(
        client.head().await.starts_with("http/1.1 200"),
        "another caller"
    );
    assert_eq!(rig.count("r", Tally::Demand), 2);
    assert_eq!(rig.served(Tally::OverQuota), 1);
}

#[tokio::test]
async fn over_the_quota_is_resource_exhausted_for_grpc() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "throttle: {rate: 0.001, burst: 1}");
    drill(&rig, Fault::Error);
    let mut client = rig.client().await;
    client.write(CALL).await;
    let head = client.head().await;
    assert!(head.contains("grpc-status: 14\r\n"), "within it: {head}");
    client.write(CALL).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("grpc-status: 8\r\n"), "{head}");
    assert!(head.contains("grpc-retry-pushback-ms: "), "{head}");
    assert!(
        head.contains("ratelimit-policy: \"quota\";q=1;w=1000\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_drill_looks_like_a_failing_backend_and_counts_as_one() {
    for (fault, status, tally) in [
        (Fault::Error, 503, Tally::Http5xx),
        (Fault::Dead, 502, Tally::Connect),
        (Fault::Delay(Duration::from_secs(60)), 504, Tally::Timeout),
    ] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, "timeouts: {response_headers: 50ms}");
        drill(&rig, fault);
        let mut client = rig.client().await;
        client.write(GET).await;
        let head = client.head().await;
        assert!(
            head.starts_with(&format!("http/1.1 {status} ")),
            "{fault:?}: {head}"
        );
        assert!(
            head.contains("reason=drill; backend=s/r; decision="),
            "{head}"
        );
        rig.settled(tally).await;
        assert_eq!(
            (rig.served(Tally::Drilled), rig.served(Tally::Failed)),
            (1, 1)
        );
    }
}

#[tokio::test]
async fn a_drill_may_only_delay() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "breaker: {slow_call_duration: 60ms}");
    drill(&rig, Fault::Delay(Duration::from_millis(60)));
    let started = std::time::Instant::now();
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    assert!(client.head().await.starts_with("http/1.1 200"));
    assert!(started.elapsed() >= Duration::from_millis(60));
    rig.settled(Tally::Success).await;
    assert_eq!(rig.count("r", Tally::Slow), 1, "as slow as it looked");
    assert_eq!(rig.served(Tally::Success), 1);
}

#[tokio::test]
async fn a_plan_moves_requests_to_another_region() {
    let (first, second) = (Scripted::start().await, Scripted::start().await);
    let rig = Rig::start(&fleet(&[("r", first.address), ("q", second.address)], ""));
    rig.steer(|_, way| way.course = Course::Planned(Bands::new([(0.0, 0.0), (1.0, 0.0)])));
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = second.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    assert!(client.head().await.starts_with("http/1.1 200"));
    assert_eq!(
        (
            rig.count("r", Tally::Demand),
            rig.count("r", Tally::WantedNormal)
        ),
        (1, 0)
    );
}
