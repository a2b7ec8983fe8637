//! Services, drains, plans and candidates from the command line.

use crate::{fake::Fake, file_with, path, rampctl};

#[tokio::test]
async fn services_are_listed_with_the_states_of_their_regions() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["services"]).await;
    insta::assert_snapshot!(outcome.out, @r"
    SERVICE  REQ/S  REFUSED/S  REGIONS                  ROUTES
    pay      0      0          first OPEN, second OPEN  path_prefix /
    ");
}

#[tokio::test]
async fn a_service_says_where_its_traffic_goes() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["service", "calm"]).await;
    assert!(
        outcome.out.starts_with("calm is served where it should be"),
        "{}",
        outcome.out
    );
    let unknown = rampctl(address, &["service", "mars"]).await;
    assert_eq!(unknown.exit_code(), 4);
}

#[tokio::test]
async fn a_drain_says_what_why_who_and_for_how_long() {
    let (fake, address) = Fake::start().await;
    let args = [
        "drain",
        "first",
        "--service",
        "pay",
        "--for",
        "10m",
        "--reason",
        "CHG-7",
        "--actor",
        "ana",
    ];
    let outcome = rampctl(address, &args).await;
    insta::assert_snapshot!(outcome.out, @"first is drained of pay, search until 1970-01-01 00:10:00.000 UTC");
    let asked = fake.asked.lock().expect("unpoisoned");
    let request = asked.drains.first().expect("it was asked");
    assert_eq!(
        (request.region.as_str(), request.service.as_str()),
        ("first", "pay")
    );
    assert_eq!(request.expires_in.map(|d| d.seconds), Some(600));
    assert_eq!(
        (request.reason.as_str(), request.actor.as_str()),
        ("CHG-7", "ana")
    );
    assert!(!request.break_glass);
}

#[tokio::test]
async fn an_unknown_region_is_exit_code_4_and_a_drain_can_be_undone() {
    let (fake, address) = Fake::start().await;
    let args = ["drain", "mars", "--for", "10m", "--reason", "x"];
    let outcome = rampctl(address, &args).await;
    assert_eq!(outcome.exit_code(), 4);
    assert!(
        outcome.message().contains("first, second"),
        "{}",
        outcome.message()
    );
    let undone = rampctl(address, &["undrain", "first", "--reason", "done"]).await;
    insta::assert_snapshot!(undone.out, @"first takes traffic of pay again");
    let asked = fake.asked.lock().expect("unpoisoned");
    assert_eq!(asked.undrained.len(), 1);
}

#[tokio::test]
async fn a_plan_is_shown_with_the_command_that_approves_it() {
    let (_, address) = Fake::start().await;
    let outcome = rampctl(address, &["plan", "pay"]).await;
    insta::assert_snapshot!(outcome.out, @r"
    in force: plan 1.7, made 1970-01-01 00:00:00.000 UTC
      plan 7
      FROM POPS THAT PREFER  DEMAND/S  GOES TO  SHED
      REGION  PLANNED/S  CAPACITY/S  ADMISSION  NOTE

    waits for approval: plan 1.8, made 1970-01-01 00:00:00.000 UTC
      plan 8
      FROM POPS THAT PREFER  DEMAND/S  GOES TO  SHED
      REGION  PLANNED/S  CAPACITY/S  ADMISSION  NOTE

    rampctl plan approve pay --version 1.8 --reason … puts it in force
    ");
}

#[tokio::test]
async fn the_plan_that_is_approved_is_named() {
    let (fake, address) = Fake::start().await;
    let approve = ["plan", "approve", "pay", "--reason", "INC-42"];
    let outcome = rampctl(address, &approve).await;
    assert_eq!(outcome.exit_code(), 0, "{}", outcome.message());
    let named = [&approve[..], &["--version", "1.5"]].concat();
    rampctl(address, &named).await;
    let nothing = rampctl(address, &["plan", "approve", "calm", "--reason", "x"]).await;
    assert_eq!(nothing.exit_code(), 5);
    assert_eq!(
        nothing.message(),
        "refused: no plan of calm waits for approval"
    );
    let asked = fake.asked.lock().expect("unpoisoned");
    let revisions = asked.approved.iter().filter_map(|a| a.version);
    let revisions: Vec<_> = revisions.map(|v| (v.epoch, v.revision)).collect();
    assert_eq!(revisions, [(1, 8), (1, 5)], "the one that waits, or this");
}

#[tokio::test]
async fn a_candidate_is_set_shown_and_dropped() {
    let (fake, address) = Fake::start().await;
    let file = file_with("pops: {}\n");
    let set = rampctl(address, &["candidate", "set", "-f", path(&file)]).await;
    insta::assert_snapshot!(set.out, @r"
    ~ services.pay.breaker.open_duration: 30s → 2s
    it runs beside revision 7 and acts on nothing: `rampctl candidate show` tells what it would have done
    ");
    let checked = ["candidate", "set", "-f", path(&file), "--dry-run"];
    let checked = rampctl(address, &checked).await;
    insta::assert_snapshot!(checked.out, @r"
    ~ services.pay.breaker.open_duration: 30s → 2s
    not set (dry run): only revision 7 runs
    ");
    let shown = rampctl(address, &["candidate", "show"]).await;
    assert_eq!(shown.out, "there is no candidate\n");
    let dropped = ["candidate", "drop", "--reason", "it opens too often"];
    let dropped = rampctl(address, &dropped).await;
    assert_eq!(dropped.exit_code(), 0, "{}", dropped.message());
    let asked = fake.asked.lock().expect("unpoisoned");
    let applied = asked.applied.iter().map(|a| (a.candidate, a.validate_only));
    assert_eq!(
        applied.collect::<Vec<_>>(),
        [(true, false), (true, true)],
        "neither is put in force"
    );
    assert_eq!(asked.dropped[0].reason, "it opens too often");
}

#[tokio::test]
async fn events_of_a_service_are_those_decided_for_all_of_it() {
    let (fake, address) = Fake::start().await;
    let args = ["events", "--service", "pay", "--follow", "-o", "json"];
    let outcome = rampctl(address, &args).await;
    let last = outcome.out.lines().last().expect("events");
    assert!(last.contains("\"id\":\"3\""), "{last}");
    let asked = fake.asked.lock().expect("unpoisoned");
    assert_eq!(asked.events[0].service, "pay");
}
