//! Without a control plane, or one without its store.

use super::*;
use crate::config::state_dir::Saved;

#[test]
fn a_stale_open_runs_out_as_if_it_had_been_local() {
    let mut rig = Rig::connected();
    let open_for = |wait| v1::Circuit {
        retry_in: Some(prost(wait)),
        ..open()
    };
    rig.decide(open_for(secs(40)));
    rig.control.disconnected(None);
    rig.pass(secs(29));
    assert_eq!(rig.reason(), Some(RefusalReason::Open));
    rig.pass(secs(2));
    assert_eq!(
        rig.reason(),
        Some(RefusalReason::Local),
        "stale, but not over"
    );
    rig.pass(secs(10));
    for _ in 0..3 {
        assert!(rig.ask(true).expect("a trial of our own").is_trial());
        assert_eq!(rig.state(), StateName::HalfOpen);
        rig.pass(millis(20));
        rig.serve(1, OutcomeClass::Success);
    }
    assert_eq!(rig.state(), StateName::Closed);
}

#[test]
fn a_stale_ramp_goes_on() {
    let mut rig = Rig::connected();
    rig.decide(ramping(0.1));
    rig.control.disconnected(None);
    rig.pass(secs(4));
    let admission = rig.watched().stance().admission(rig.now());
    assert!((0.45..=0.55).contains(&admission), "{admission}");
    rig.pass(secs(40));
    assert_eq!(rig.reason(), None);
}

#[test]
fn a_control_plane_without_its_store_stands_by_nothing() {
    let mut rig = Rig::connected();
    rig.decide(open());
    rig.apply(v1::Decisions {
        store_unavailable: true,
        ..v1::Decisions::default()
    });
    for _ in 0..31 {
        rig.pass(secs(1));
        rig.heard();
    }
    rig.pass(millis(20));
    assert_eq!(rig.watched().local.state(), StateName::HalfOpen);
}

#[test]
fn a_decision_that_is_heard_of_again_binds_again() {
    let mut rig = Rig::connected();
    rig.decide(open());
    rig.control.disconnected(None);
    rig.pass(secs(31));
    assert_eq!(rig.state(), StateName::HalfOpen);
    rig.connect();
    let same = decision(1, open());
    rig.apply(v1::Decisions {
        decisions: vec![same],
        complete: true,
        ..v1::Decisions::default()
    });
    assert_eq!(rig.reason(), Some(RefusalReason::Open));
}

#[test]
fn an_override_holds_until_the_control_plane_lifts_it() {
    let mut rig = Rig::connected();
    let forced = v1::Decision {
        mode: v1::Mode::ForcedOpen.into(),
        ..decision(1, closed())
    };
    rig.apply(v1::Decisions {
        decisions: vec![forced],
        ..v1::Decisions::default()
    });
    rig.control.disconnected(None);
    rig.pass(secs(3600));
    assert_eq!(rig.reason(), Some(RefusalReason::Override));
    rig.connect();
    rig.decide_as(2, closed());
    assert_eq!(rig.reason(), None);
}

#[test]
fn an_override_ends_when_it_expires_also_when_nobody_is_there_to_say_so() {
    for (mode, then) in [
        (v1::Mode::ForcedOpen, None),
        (v1::Mode::Disabled, Some(RefusalReason::Local)),
    ] {
        let mut rig = Rig::connected();
        let forced = v1::Decision {
            mode: mode.into(),
            override_expires_in: Some(prost(secs(600))),
            ..decision(1, closed())
        };
        rig.apply(v1::Decisions {
            decisions: vec![forced],
            ..v1::Decisions::default()
        });
        rig.control.disconnected(None);
        rig.pass(secs(599));
        let forced = (mode == v1::Mode::ForcedOpen).then_some(RefusalReason::Override);
        assert_eq!(rig.reason(), forced, "{mode:?}");
        rig.pass(secs(2));
        assert_eq!(rig.reason(), None, "{mode:?}: the configured mode");
        while then.is_some() && rig.reason().is_none() {
            rig.ask(true).expect("admitted").finish(FAILED, None);
            rig.pass(millis(20));
            assert!(rig.elapsed < secs(700), "its own breaker acts again");
        }
        assert_eq!(rig.reason(), then, "{mode:?}");
    }
}

#[test]
fn an_override_keeps_its_expiry_over_a_restart() {
    let mut rig = Rig::connected();
    let forced = v1::Decision {
        mode: v1::Mode::ForcedOpen.into(),
        override_expires_in: Some(prost(secs(600))),
        ..decision(1, closed())
    };
    rig.apply(v1::Decisions {
        decisions: vec![forced],
        ..v1::Decisions::default()
    });
    rig.pass(secs(100));
    let saved = Saved {
        unix_ms: 1_000_000,
        message: v1::Decisions {
            decisions: rig.control.decisions.to_wire(rig.now()),
            ..v1::Decisions::default()
        },
    };
    let mut rig = Rig::new();
    let now = rig.now();
    rig.control.restore(&saved, 1_000_000 + 300_000, now);
    rig.control.refresh_all(now);
    assert_eq!(rig.reason(), Some(RefusalReason::Override));
    rig.pass(secs(199));
    assert_eq!(rig.reason(), Some(RefusalReason::Override));
    rig.pass(secs(2));
    assert_eq!(rig.reason(), None);
}

#[test]
fn decisions_of_an_earlier_run_keep_their_age() {
    for (age_ms, reason) in [
        (5_000, RefusalReason::Open),
        // Stale, but its 20 s are over: our own trial.
        (40_000, RefusalReason::Local),
    ] {
        let mut rig = Rig::new();
        let saved = Saved {
            unix_ms: 1_000_000,
            message: v1::Decisions {
                decisions: vec![decision(1, open())],
                ..v1::Decisions::default()
            },
        };
        let now = rig.now();
        rig.control.restore(&saved, 1_000_000 + age_ms, now);
        rig.control.refresh_all(now);
        let asked = rig.ask(false);
        match reason {
            RefusalReason::Open => assert_eq!(asked.err().map(|r| r.reason), Some(reason)),
            _ => assert!(asked.expect("a trial").is_trial()),
        }
    }
}
