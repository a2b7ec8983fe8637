//! What streams get from the table.

use std::time::Duration;

use breaker_core::{
    BackendName, Breaker, BreakerPolicy, Circuit, Steering, Timestamp, Version, ids::ServiceName,
};
use bytes::Bytes;
use prost::Message;
use rampmeter_api::v1;

use super::Table;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn name(name: &str) -> BackendName {
    BackendName::parse(name).expect("a valid name")
}

fn closed(revision: u64) -> Breaker {
    let mut breaker = Breaker::new(1, NOW);
    breaker.version.revision = revision;
    breaker
}

fn open(revision: u64) -> Breaker {
    Breaker {
        version: Version { epoch: 1, revision },
        fleet: Circuit::Open {
            since: NOW,
            until: NOW + Duration::from_secs(30),
            trips: 1,
        },
        ..closed(revision)
    }
}

fn publish(table: &Table, backend: &str, breaker: &Breaker) {
    table.publish(&name(backend), breaker, &BreakerPolicy::default());
}

fn decisions(frame: Bytes) -> v1::Decisions {
    let response = v1::ConnectResponse::decode(frame).expect("our own message");
    match response.message {
        Some(v1::connect_response::Message::Decisions(decisions)) => decisions,
        other => panic!("no decisions: {other:?}"),
    }
}

fn names(decisions: &v1::Decisions) -> Vec<&str> {
    decisions
        .decisions
        .iter()
        .map(|d| d.backend.as_str())
        .collect()
}

#[test]
fn a_new_stream_gets_everything_and_an_old_one_only_what_changed() {
    let table = Table::new();
    publish(&table, "pay/east", &closed(1));
    publish(&table, "pay/west", &closed(1));
    let (frame, sequence) = table.frame(None, NOW).expect("a snapshot");
    let snapshot = decisions(frame);
    assert!(snapshot.complete);
    assert_eq!(names(&snapshot), ["pay/east", "pay/west"]);
    assert_eq!(table.frame(Some(sequence), NOW), None);
    publish(&table, "pay/east", &open(2));
    let (frame, _) = table.frame(Some(sequence), NOW).expect("a change");
    let change = decisions(frame);
    assert!(!change.complete);
    assert_eq!(names(&change), ["pay/east"]);
}

#[test]
fn a_slow_stream_gets_one_message_for_many_changes() {
    let table = Table::new();
    publish(&table, "pay/east", &closed(1));
    let (_, sequence) = table.frame(None, NOW).expect("a snapshot");
    for revision in 2..100 {
        publish(&table, "pay/east", &open(revision));
    }
    let (frame, newest) = table.frame(Some(sequence), NOW).expect("a change");
    let change = decisions(frame);
    assert_eq!(change.decisions.len(), 1);
    assert_eq!(change.decisions[0].version.expect("set").revision, 99);
    assert_eq!(table.frame(Some(newest), NOW), None);
}

#[test]
fn an_older_decision_never_replaces_a_newer_one() {
    let table = Table::new();
    publish(&table, "pay/east", &open(5));
    let sequence = table.sequence();
    publish(&table, "pay/east", &closed(4));
    assert_eq!(table.sequence(), sequence);
    let mut newer_epoch = closed(1);
    newer_epoch.version.epoch = 2;
    publish(&table, "pay/east", &newer_epoch);
    assert_eq!(table.sequence(), sequence + 1);
}

#[test]
fn a_removed_backend_is_named_until_it_comes_back() {
    let table = Table::new();
    publish(&table, "pay/east", &closed(1));
    let (_, sequence) = table.frame(None, NOW).expect("a snapshot");
    table.retain(|_| false);
    let (frame, gone) = table.frame(Some(sequence), NOW).expect("a change");
    assert_eq!(decisions(frame).removed, ["pay/east"]);
    publish(&table, "pay/east", &closed(1));
    let (frame, _) = table.frame(Some(gone), NOW).expect("a change");
    let back = decisions(frame);
    assert_eq!((names(&back), back.removed.len()), (vec!["pay/east"], 0));
}

#[test]
fn streams_that_ask_for_the_same_share_one_encoding_while_it_is_fresh() {
    let table = Table::new();
    publish(&table, "pay/east", &open(1));
    let frame = |at| table.frame(None, at).expect("a snapshot").0;
    let (first, second) = (frame(NOW), frame(NOW + Duration::from_millis(20)));
    assert_eq!(first.as_ptr(), second.as_ptr(), "one allocation");
    let later = frame(NOW + Duration::from_secs(10));
    let left = decisions(later).decisions[0].fleet.and_then(|c| c.retry_in);
    assert_eq!(
        left.expect("open").seconds,
        20,
        "times are relative to the sending"
    );
}

#[test]
fn a_store_that_goes_away_is_a_change() {
    let table = Table::new();
    let (_, sequence) = table.frame(None, NOW).expect("a snapshot");
    table.set_store_unavailable(true);
    let (frame, away) = table.frame(Some(sequence), NOW).expect("a change");
    assert!(decisions(frame).store_unavailable);
    table.set_store_unavailable(true);
    assert_eq!(table.frame(Some(away), NOW), None);
}

#[test]
fn what_is_decided_about_a_service_travels_in_the_same_message() {
    let table = Table::new();
    let pay = ServiceName::new("pay").expect("a valid name");
    let steering = |revision| Steering {
        version: Version { epoch: 1, revision },
        ..Steering::default()
    };
    table.publish_service(&pay, &steering(4));
    publish(&table, "pay/east", &closed(1));
    let (frame, sequence) = table.frame(None, NOW).expect("a snapshot");
    let snapshot = decisions(frame);
    assert_eq!(snapshot.services[0].service, "pay");
    assert_eq!(names(&snapshot), ["pay/east"]);
    table.publish_service(&pay, &steering(4));
    table.publish_service(&pay, &steering(3));
    assert_eq!(table.frame(Some(sequence), NOW), None, "nothing newer");
    table.publish_service(&pay, &steering(5));
    let (frame, _) = table.frame(Some(sequence), NOW).expect("a change");
    let change = decisions(frame);
    let version = change.services[0].version.expect("set");
    assert_eq!((version.revision, change.decisions.len()), (5, 0));
}

#[test]
fn findings_of_health_checks_are_told_when_they_change() {
    let table = Table::new();
    let found = |endpoints: &[&str]| v1::BackendHealth {
        backend: "pay/east".to_owned(),
        unhealthy: endpoints
            .iter()
            .map(|endpoint| v1::UnhealthyEndpoint {
                endpoint: (*endpoint).to_owned(),
                pops: Vec::new(),
            })
            .collect(),
    };
    table.publish_health(&name("pay/east"), found(&["http://10.0.0.1"]));
    let (frame, sequence) = table.frame(None, NOW).expect("a snapshot");
    assert_eq!(decisions(frame).health, [found(&["http://10.0.0.1"])]);
    table.publish_health(&name("pay/east"), found(&["http://10.0.0.1"]));
    assert_eq!(table.frame(Some(sequence), NOW), None);
    table.publish_health(&name("pay/east"), found(&[]));
    let (frame, _) = table.frame(Some(sequence), NOW).expect("a change");
    assert_eq!(decisions(frame).health, [found(&[])], "all are healthy");
}
