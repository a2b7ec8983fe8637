//! Rehearsals from the command line: followed to their end, or ended.

use std::net::SocketAddr;

use rampmeter_api::v1::{DrillFault, DrillState};

use crate::{Outcome, fake::Fake, rampctl, until};

const DRILL: [&str; 9] = [
    "drill", "failover", "pay", "--region", "first", "--for", "60s", "--reason", "game day",
];

async fn drill(ends: DrillState) -> (Fake, SocketAddr, Outcome) {
    let (fake, address) = Fake::start().await;
    fake.asked.lock().expect("unpoisoned").drill_ends = Some(ends);
    let outcome = rampctl(address, &DRILL).await;
    (fake, address, outcome)
}

#[tokio::test]
async fn a_drill_is_followed_to_its_report_and_succeeds_if_it_passed() {
    let (fake, _, outcome) = drill(DrillState::Passed).await;
    assert_eq!(outcome.exit_code(), 0, "{}", outcome.message());
    insta::assert_snapshot!(outcome.out, @r"
    drill d1: pay/first is dead, until 1970-01-01 00:01:00.000 UTC at the latest; Ctrl-C ends it
    -                        pay                       -               UNSPECIFIED             event 3

    all is told

    drill        d1
    what         pay/first is dead
    result       passed, after 1m
    reason       game day, by ana
    detected     after -
    moved        no
    callers got  0 of 0 requests served, 0 failed, 0 shed
    ");
    let asked = fake.asked.lock().expect("unpoisoned");
    let request = asked.drills.first().expect("it was asked");
    assert_eq!(request.backend, "pay/first");
    assert_eq!((request.fault(), request.share), (DrillFault::Dead, 1.0));
    assert_eq!(request.duration.map(|d| d.seconds), Some(60));
    let guard = request.guard.expect("there is always a guard");
    assert_eq!(guard.min_success_rate, 0.5);
    assert_eq!(guard.grace.map(|d| d.seconds), Some(3));
    assert!(asked.stopped.is_empty());
}

#[tokio::test]
async fn a_drill_that_did_not_pass_is_exit_code_6_and_says_why() {
    for (ends, why) in [
        (DrillState::GuardTripped, "its guard ended it after 1m"),
        (DrillState::Failed, "not well by its end"),
        (DrillState::Stopped, "stopped after 1m"),
    ] {
        let (_, _, outcome) = drill(ends).await;
        assert_eq!(outcome.exit_code(), 6);
        assert!(outcome.message().contains(why), "{}", outcome.message());
        assert!(outcome.out.contains(why), "{}", outcome.out);
    }
}

#[tokio::test]
async fn ctrl_c_ends_the_drill_and_still_shows_its_report() {
    let (fake, address) = Fake::start().await;
    let at_once = Box::pin(std::future::ready(()));
    let outcome = until(address, &DRILL, at_once).await;
    assert_eq!(outcome.exit_code(), 6);
    assert_eq!(outcome.notes, "ending the drill\n");
    assert!(outcome.out.contains("all is told"), "{}", outcome.out);
    let asked = fake.asked.lock().expect("unpoisoned");
    assert_eq!(asked.stopped.len(), 1);
    assert_eq!(asked.stopped[0].id, "d1");
    assert!(!asked.stopped[0].reason.is_empty());
}

#[tokio::test]
async fn a_delay_alone_means_late_answers_and_with_another_fault_it_is_refused() {
    let (fake, address) = Fake::start().await;
    fake.asked.lock().expect("unpoisoned").drill_ends = Some(DrillState::Passed);
    let late = [
        &DRILL[..],
        &["--delay", "2s", "--share", "20%", "--pop", "fra1,iad1"],
    ]
    .concat();
    let outcome = rampctl(address, &late).await;
    assert_eq!(outcome.exit_code(), 0, "{}", outcome.message());
    let both = [&DRILL[..], &["--delay", "2s", "--fault", "dead"]].concat();
    assert_eq!(rampctl(address, &both).await.exit_code(), 5);
    let asked = fake.asked.lock().expect("unpoisoned");
    assert_eq!(asked.drills.len(), 1);
    let request = &asked.drills[0];
    assert_eq!((request.fault(), request.share), (DrillFault::Delay, 0.2));
    assert_eq!(request.delay.map(|d| d.seconds), Some(2));
    assert_eq!(request.pops, ["fra1", "iad1"]);
}

#[tokio::test]
async fn drills_are_listed_shown_and_stopped() {
    let (_, address) = Fake::start().await;
    let listed = rampctl(address, &["drill", "list"]).await;
    insta::assert_snapshot!(listed.out, @r"
    DRILL  WHAT               STATE   STARTED (UTC)            BY   REASON
    d1     pay/first is dead  PASSED  1970-01-01 00:00:00.000  ana  game day
    ");
    let unknown = rampctl(address, &["drill", "show", "d7"]).await;
    assert_eq!(unknown.exit_code(), 4);
    let stopped = ["drill", "stop", "d1", "--reason", "enough"];
    let stopped = rampctl(address, &stopped).await;
    assert_eq!(stopped.exit_code(), 0, "{}", stopped.message());
    assert!(stopped.out.contains("stopped after 1m"), "{}", stopped.out);
}

#[tokio::test]
async fn for_a_script_a_drill_is_one_document() {
    let (fake, address) = Fake::start().await;
    fake.asked.lock().expect("unpoisoned").drill_ends = Some(DrillState::Passed);
    let outcome = rampctl(address, &[&DRILL[..], &["-o", "json"]].concat()).await;
    let document: serde_json::Value = outcome.out.parse().expect("one JSON document");
    assert_eq!(document["drill"]["state"], "DRILL_STATE_PASSED");
}
