//! What the fleet decided is done.

use super::*;

#[test]
fn an_open_of_the_fleet_refuses_at_once_and_says_when_to_come_back() {
    let mut rig = Rig::connected();
    rig.decide(open());
    let refusal = rig.ask(true).expect_err("OPEN");
    assert_eq!(refusal.reason, RefusalReason::Open);
    assert_eq!((refusal.version.epoch, refusal.version.revision), (1, 1));
    // 20 s until the trial, up to 10 s of ramp and 1 s of spread behind it.
    for _ in 0..100 {
        let wait = rig.ask(true).expect_err("OPEN").retry_after;
        assert!((secs(20)..=secs(31)).contains(&wait), "{wait:?}");
    }
}

#[test]
fn of_a_pops_circuit_and_the_fleets_the_stricter_binds() {
    let mut rig = Rig::connected();
    let with_pop = |revision, fleet, own| {
        let mut decision = decision(revision, fleet);
        decision.pops.push(v1::PopCircuit {
            pop: "fra1".to_owned(),
            circuit: Some(own),
        });
        v1::Decisions {
            decisions: vec![decision],
            ..v1::Decisions::default()
        }
    };
    rig.apply(with_pop(1, closed(), open()));
    assert_eq!(rig.reason(), Some(RefusalReason::Open));
    rig.apply(with_pop(2, half_open(), closed()));
    assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
    rig.apply(with_pop(3, open(), closed()));
    assert_eq!(rig.reason(), Some(RefusalReason::Open));
    rig.apply(with_pop(4, closed(), half_open()));
    assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
    for (revision, fleet, own) in [(5, ramping(0.2), closed()), (6, closed(), ramping(0.2))] {
        rig.apply(with_pop(revision, fleet, own));
        let admission = rig.watched().stance().admission(rig.now());
        assert!((admission - 0.2).abs() < 1e-9, "{revision}: {admission}");
    }
}

#[test]
fn an_override_is_obeyed_either_way() {
    let mut rig = Rig::connected();
    let forced = |revision, mode: v1::Mode, fleet| v1::Decisions {
        decisions: vec![v1::Decision {
            mode: mode.into(),
            ..decision(revision, fleet)
        }],
        ..v1::Decisions::default()
    };
    rig.apply(forced(1, v1::Mode::ForcedOpen, closed()));
    assert_eq!(rig.reason(), Some(RefusalReason::Override));
    rig.apply(forced(2, v1::Mode::ForcedClosed, open()));
    assert_eq!(rig.reason(), None);
    rig.serve(50, FAILED);
    assert_eq!(rig.reason(), None, "the local breaker is silenced, too");
}

#[test]
fn a_ramp_admits_its_share_of_any_second() {
    let mut rig = Rig::connected();
    rig.decide(ramping(0.3));
    let mut admitted = 0;
    for _ in 0..200 {
        if let Ok(permit) = rig.ask(true) {
            admitted += 1;
            permit.finish(OutcomeClass::Success, None);
        }
        rig.elapsed += millis(5);
    }
    // It rises from 30 % to 40 % within the second.
    assert!((67..=73).contains(&admitted), "{admitted} of 200");
    let reasons: Vec<_> = (0..10).filter_map(|_| rig.reason()).collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|r| *r == RefusalReason::Ramp));
}

#[test]
fn the_local_breaker_acts_beside_a_closed_fleet() {
    let mut rig = Rig::connected();
    rig.decide(closed());
    while rig.state() == StateName::Closed {
        rig.serve(1, FAILED);
    }
    assert_eq!(rig.reason(), Some(RefusalReason::Local));
}

#[test]
fn while_the_fleet_holds_a_backend_open_nobody_tries_without_a_lease() {
    let mut rig = Rig::connected();
    rig.decide(open());
    for _ in 0..60 {
        rig.pass(secs(1));
        rig.heard();
        assert_eq!(rig.reason(), Some(RefusalReason::Open));
    }
    rig.decide(half_open());
    for _ in 0..60 {
        rig.pass(secs(1));
        rig.heard();
        assert_eq!(rig.reason(), Some(RefusalReason::HalfOpen));
    }
    assert_eq!(rig.count(Tally::Success) + rig.count(Tally::ClientGone), 0);
}

#[test]
fn what_the_local_breaker_learned_is_forgotten_when_the_fleet_closes() {
    let mut rig = Rig::connected();
    rig.serve(6, FAILED);
    rig.decide(open());
    rig.pass(millis(20));
    rig.decide(closed());
    rig.serve(2, FAILED);
    assert_eq!(rig.state(), StateName::Closed, "six before do not count");
}
