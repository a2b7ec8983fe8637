//! The gate itself: places, counts, and who was refused when.

use super::*;

#[test]
fn no_more_requests_are_in_flight_than_the_limit_and_each_frees_its_place() {
    let yaml = fleet("").replace("timeouts:", "limits: {max_concurrency: 2}\n    timeouts:");
    let mut rig = Rig::new();
    let now = rig.now();
    let text = FleetText::read(2, yaml);
    let installed = rig
        .control
        .install_text(ConfigSource::ControlPlane, text, now);
    installed.expect("a good configuration");
    let first = rig.ask(true).expect("a place");
    let second = rig.ask(true).expect("a place");
    let refused = rig.ask(true).expect_err("full");
    assert_eq!(refused.reason, RefusalReason::Limit);
    assert!(refused.retry_after >= secs(1));
    first.finish(OutcomeClass::Success, None);
    let third = rig.ask(true).expect("the first one's place");
    drop((second, third));
    assert_eq!(rig.watched().backend.in_flight(), 0);
    rig.pass(millis(20));
    assert_eq!(rig.count(Tally::RefusedLimit), 1);
    assert_eq!(rig.count(Tally::Demand), 4);
}

#[test]
fn a_request_that_is_dropped_is_its_clients_doing() {
    let mut rig = Rig::connected();
    for _ in 0..50 {
        drop(rig.ask(true).expect("admitted"));
        rig.pass(millis(20));
    }
    assert_eq!(rig.state(), StateName::Closed);
    assert_eq!(rig.count(Tally::ClientGone), 50);
    let reports = rig.reports();
    assert!(reports.iter().all(|report| report.slots.is_empty()));
    assert!(reports.iter().map(|report| report.client_gone).sum::<u64>() > 0);
}

#[test]
fn what_we_refuse_says_nothing_about_the_backend() {
    let mut rig = Rig::connected();
    rig.decide(open());
    for _ in 0..50 {
        assert_eq!(rig.reason(), Some(RefusalReason::Open));
        rig.pass(millis(20));
    }
    let reports = rig.reports();
    assert!(reports.iter().all(|report| report.slots.is_empty()));
    let refused = |report: &v1::BackendReport| report.rejections.map_or(0, |r| r.open);
    assert!(reports.iter().map(refused).sum::<u64>() > 40);
}

#[test]
fn requests_of_a_backend_that_left_the_configuration_still_find_it() {
    let mut rig = Rig::new();
    let before = rig.ask(true).expect("admitted");
    let service = rig.service();
    let now = rig.now();
    let text = FleetText::read(2, fleet("").replace("pay:", "pray:"));
    let installed = rig
        .control
        .install_text(ConfigSource::ControlPlane, text, now);
    installed.expect("a good configuration");
    before.finish(OutcomeClass::Success, None);
    rig.wish_of(&service, &Wish::default())
        .expect("routed by the snapshot before")
        .finish(FAILED, None);
    assert!(!rig.control.backends.contains_key(BACKEND));
    // It comes back with its number.
    let text = FleetText::read(3, fleet(""));
    let installed = rig
        .control
        .install_text(ConfigSource::ControlPlane, text, now);
    installed.expect("a good configuration");
    assert_eq!(rig.watched().backend.index, BackendIndex(0));
    assert_eq!(rig.count(Tally::Http5xx), 1);
}

#[test]
fn every_core_admits_its_share_of_a_ramp_from_a_phase_of_its_own() {
    let mut admitted = Vec::new();
    for _ in 0..64 {
        let mut rig = Rig::connected();
        rig.decide(ramping(0.5));
        admitted.push(rig.ask(true).is_ok());
    }
    // With one phase for all, their first requests would all pass, or none.
    let passed = admitted.iter().filter(|passed| **passed).count();
    assert!((8..=56).contains(&passed), "{passed} of 64");
}

#[test]
fn what_we_could_not_send_for_want_of_room_is_our_refusal_and_no_outcome() {
    let mut rig = Rig::connected();
    rig.decide(half_open());
    rig.grant("l1");
    let permit = rig.ask(true).expect("a trial");
    permit.withdraw(RefusalReason::Limit);
    rig.pass(millis(20));
    assert_eq!(rig.count(Tally::RefusedLimit), 1);
    assert_eq!(rig.count(Tally::ClientGone), 0);
    assert_eq!(rig.watched().backend.in_flight(), 0);
    let returned = ("l1".to_owned(), v1::TrialOutcome::Returned);
    assert_eq!(rig.results(), [returned]);
}
