//! By itself: local breakers, modes, configurations.

use super::*;

#[test]
fn a_backend_that_fails_is_opened_half_opened_tried_and_ramped_closed() {
    let mut rig = Rig::new();
    rig.serve(20, OutcomeClass::Success);
    let mut failed = 0;
    while rig.state() == StateName::Closed {
        rig.serve(1, FAILED);
        failed += 1;
    }
    assert!((5..=8).contains(&failed), "opened after {failed} failures");
    assert_eq!(rig.reason(), Some(RefusalReason::Local));

    rig.pass(secs(13));
    assert_eq!(rig.state(), StateName::HalfOpen);
    for trial in 0..3 {
        let permit = rig.ask(true).expect("a trial");
        assert!(permit.is_trial());
        let second = rig.ask(true).expect_err("only one at a time");
        assert_eq!(second.reason, RefusalReason::Local, "beside trial {trial}");
        permit.finish(OutcomeClass::Success, None);
        rig.pass(millis(20));
    }
    assert_eq!(rig.state(), StateName::Closed);
    let admission = |rig: &Rig| rig.watched().stance().admission(rig.now());
    assert!(admission(&rig) < 0.2, "it ramps");
    rig.pass(secs(5));
    assert!((0.4..0.7).contains(&admission(&rig)));
    rig.pass(secs(6));
    assert!(admission(&rig) >= 1.0);
}

#[test]
fn a_request_sent_before_the_breaker_opened_says_nothing_after_it_closed() {
    let mut rig = Rig::new();
    let slow: Vec<_> = (0..20).map(|_| rig.ask(true).expect("closed")).collect();
    while rig.state() == StateName::Closed {
        rig.serve(1, FAILED);
    }
    rig.pass(secs(13));
    rig.serve(1, OutcomeClass::Success);
    rig.serve(1, OutcomeClass::Success);
    rig.serve(1, OutcomeClass::Success);
    assert_eq!(rig.state(), StateName::Closed);
    let failures = rig.count(Tally::Timeout);
    for permit in slow {
        permit.finish(OutcomeClass::Failure(FailureKind::Timeout), None);
    }
    rig.pass(millis(100));
    assert_eq!(rig.state(), StateName::Closed);
    assert_eq!(rig.count(Tally::Straggler), 20);
    assert_eq!(rig.count(Tally::Timeout), failures);
}

#[test]
fn a_failed_trial_opens_for_longer() {
    let mut rig = Rig::new();
    while rig.state() == StateName::Closed {
        rig.serve(1, FAILED);
    }
    rig.pass(secs(13));
    rig.serve(1, FAILED);
    assert_eq!(rig.state(), StateName::Open);
    rig.pass(secs(13));
    assert_eq!(rig.state(), StateName::Open, "twice as long");
    rig.pass(secs(13));
    assert_eq!(rig.state(), StateName::HalfOpen);
}

#[test]
fn a_trial_whose_client_goes_away_frees_its_lease() {
    let mut rig = Rig::new();
    while rig.state() == StateName::Closed {
        rig.serve(1, FAILED);
    }
    rig.pass(secs(13));
    drop(rig.ask(true).expect("a trial"));
    rig.pass(millis(20));
    assert_eq!(rig.state(), StateName::HalfOpen);
    assert!(rig.ask(true).expect("another trial").is_trial());
}

#[test]
fn shadow_lets_everything_through_and_counts_what_it_would_not_have() {
    let mut rig = Rig::with(", mode: SHADOW");
    rig.serve(12, FAILED);
    assert!(rig.count(Tally::Shadowed) >= 3);
    assert_eq!(rig.count(Tally::RefusedLocal), 0);
    assert_eq!(rig.count(Tally::Http5xx), 12);
}

#[test]
fn disabled_never_opens() {
    let mut rig = Rig::with(", mode: DISABLED");
    rig.serve(50, FAILED);
    assert_eq!(rig.state(), StateName::Closed);
}

#[test]
fn a_configuration_without_this_agents_pop_is_refused_by_name() {
    let mut rig = Rig::new();
    let text = FleetText::read(2, fleet("").replace("fra1", "iad1"));
    let now = rig.now();
    let refused = rig
        .control
        .install_text(ConfigSource::ControlPlane, text, now);
    let error = refused.expect_err("fra1 is not in it");
    assert!(error.contains("fra1") && error.contains("iad1"), "{error}");
    assert_eq!(rig.control.config_revision(), 1, "the one before stays");
}

#[test]
fn a_new_configuration_keeps_counts_and_state_of_what_stays() {
    let mut rig = Rig::new();
    while rig.state() == StateName::Closed {
        rig.serve(1, FAILED);
    }
    let failed = rig.count(Tally::Http5xx);
    let text = FleetText::read(2, fleet("").replace("10s", "11s"));
    let now = rig.now();
    let installed = rig
        .control
        .install_text(ConfigSource::ControlPlane, text, now);
    installed.expect("a good configuration");
    assert_eq!(rig.state(), StateName::Open);
    assert_eq!(rig.count(Tally::Http5xx), failed);
    assert_eq!(rig.reason(), Some(RefusalReason::Local));
}
