//! Trial leases: claimed once, told once, or given back.

use super::*;

fn waiting() -> Rig {
    let mut rig = Rig::connected();
    rig.decide(half_open());
    // Someone wants it, so that idempotent requests go first.
    assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
    rig.pass(millis(20));
    rig.sent();
    rig
}

#[test]
fn a_lease_lets_one_request_through_and_its_outcome_is_told() {
    for (class, outcome) in [
        (OutcomeClass::Success, v1::TrialOutcome::Succeeded),
        (FAILED, v1::TrialOutcome::Failed),
        (OutcomeClass::Overload, v1::TrialOutcome::Failed),
        (OutcomeClass::ClientGone, v1::TrialOutcome::Returned),
    ] {
        let mut rig = waiting();
        rig.grant("l1");
        let permit = rig.ask(true).expect("a trial");
        assert!(permit.is_trial());
        assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
        rig.pass(millis(20));
        assert_eq!(rig.results(), [], "it is still out");
        permit.finish(class, None);
        rig.pass(millis(20));
        assert_eq!(rig.results(), [("l1".to_owned(), outcome)]);
        assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
    }
}

#[test]
fn idempotent_requests_have_a_lease_to_themselves_for_half_of_its_time() {
    let mut rig = waiting();
    rig.grant("l1");
    assert!(rig.ask(false).is_err());
    rig.pass(millis(600));
    assert!(rig.ask(false).expect("any may now").is_trial());
}

#[test]
fn without_idempotent_demand_any_request_may_have_it_at_once() {
    let mut rig = waiting();
    rig.pass(secs(3));
    rig.grant("l1");
    assert!(rig.ask(false).expect("any may").is_trial());
}

#[test]
fn a_lease_that_nobody_wants_goes_back_while_its_request_could_still_end_in_time() {
    let mut rig = waiting();
    rig.grant("l1");
    rig.pass(millis(990));
    assert_eq!(rig.results(), []);
    rig.pass(millis(20));
    let returned = ("l1".to_owned(), v1::TrialOutcome::Returned);
    assert_eq!(rig.results(), [returned]);
    assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
}

#[test]
fn a_lease_is_void_once_the_fleet_has_decided_otherwise() {
    for next in [open(), closed()] {
        let mut rig = waiting();
        rig.grant("l1");
        rig.decide(next);
        rig.pass(millis(20));
        let returned = ("l1".to_owned(), v1::TrialOutcome::Returned);
        assert_eq!(rig.results(), [returned], "{next:?}");
    }
}

#[test]
fn a_lease_that_came_before_the_news_of_its_round_is_kept() {
    let mut rig = Rig::connected();
    rig.decide(open());
    rig.grant("l1");
    rig.decide(half_open());
    assert!(rig.ask(true).expect("a trial").is_trial());
}

#[test]
fn a_lease_without_use_goes_straight_back() {
    let mut rig = Rig::connected();
    rig.decide(closed());
    rig.grant("l1");
    rig.pass(millis(20));
    let returned = ("l1".to_owned(), v1::TrialOutcome::Returned);
    assert_eq!(rig.results(), [returned]);
}

#[test]
fn a_result_waits_for_a_stream() {
    let mut rig = waiting();
    rig.grant("l1");
    let permit = rig.ask(true).expect("a trial");
    rig.control.disconnected(None);
    permit.finish(OutcomeClass::Success, None);
    rig.pass(millis(20));
    rig.connect();
    rig.pass(millis(20));
    let succeeded = ("l1".to_owned(), v1::TrialOutcome::Succeeded);
    assert_eq!(rig.results(), [succeeded]);
}
