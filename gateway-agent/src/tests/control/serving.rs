//! What callers of a service want and get, and what a drill does to it.

use breaker_core::steering::Fault;

use super::*;

fn rig() -> Rig {
    let mut rig = Rig::of(three_regions(""));
    rig.connect();
    rig
}

fn drill(fault: v1::DrillFault, share: f64, pops: &[&str]) -> v1::ServiceDecision {
    v1::ServiceDecision {
        drill: Some(v1::DrillOrder {
            drill_id: "d1".to_owned(),
            backend: "pay/a".to_owned(),
            fault: fault.into(),
            share,
            delay: Some(prost(millis(70))),
            pops: pops.iter().map(|pop| (*pop).to_owned()).collect(),
            expires_in: Some(prost(secs(10))),
        }),
        ..plan([(1.0, 0.0), (0.0, 0.0), (0.0, 0.0)])
    }
}

#[test]
fn a_service_report_says_what_callers_wanted_and_got() {
    let mut rig = rig();
    rig.steer(v1::ServiceDecision {
        mix: Some(v1::ByPriority {
            critical: 0.5,
            low: 0.5,
            ..v1::ByPriority::default()
        }),
        ..plan([(0.5, 0.0), (0.0, 0.0), (0.0, 0.0)])
    });
    for (count, priority, class) in [
        (3, Priority::Critical, OutcomeClass::Success),
        (2, Priority::Critical, OutcomeClass::Overload),
        (1, Priority::Critical, FAILED),
        (4, Priority::Critical, OutcomeClass::ClientGone),
    ] {
        for _ in 0..count {
            let permit = rig.wish(&of_priority(priority)).expect("admitted");
            permit.finish(class, None);
        }
    }
    let shed = (0..5).filter(|_| rig.wish(&of_priority(Priority::Low)).is_err());
    assert_eq!(shed.count(), 5);
    rig.decide_for("a", decision(0, open()));
    rig.wish(&of_priority(Priority::Critical))
        .expect_err("OPEN");
    rig.pass(secs(1));
    let served = rig.served();
    let demand = served.demand.expect("some");
    assert_eq!((demand.critical, demand.low), (11.0, 5.0));
    assert_eq!((served.succeeded, served.failed), (3, 3));
    assert_eq!((served.refused, served.shed), (6, 5));
}

#[test]
fn a_service_is_reported_once_a_second_and_more_often_while_it_refuses() {
    let mut rig = rig();
    let mut reports = |rig: &mut Rig, turns| {
        let mut reports = 0;
        for _ in 0..turns {
            rig.send(1, &Wish::default());
            let sent = rig.sent().into_iter();
            let services = sent.filter(|up| matches!(up, Up::Report(r) if !r.services.is_empty()));
            reports += services.count();
        }
        reports
    };
    assert_eq!(reports(&mut rig, 100), 2, "in two seconds");
    rig.steer(plan([(0.5, 0.0), (0.0, 0.0), (0.0, 0.0)]));
    let hot = reports(&mut rig, 100);
    assert!((18..=24).contains(&hot), "{hot} in two seconds");
}

#[test]
fn shadow_serves_what_it_would_have_shed_and_counts_it() {
    let yaml = three_regions("").replace("breaker: {", "breaker: {mode: SHADOW, ");
    let mut rig = Rig::of(yaml);
    rig.connect();
    rig.steer(plan([(0.25, 0.0), (0.0, 0.0), (0.0, 0.0)]));
    assert_eq!(rig.send(100, &Wish::default())[3], 0);
    rig.pass(secs(1));
    let served = rig.served();
    assert!((73..=77).contains(&served.shadowed), "{served:?}");
    assert_eq!((served.refused, served.succeeded), (0, 100));
}

#[test]
fn a_throttle_holds_as_long_as_somebody_stands_by_it_and_is_reported() {
    let mut rig = Rig::connected();
    let throttled = v1::Decision {
        throttle: Some(0.25),
        ..decision(1, closed())
    };
    rig.apply(v1::Decisions {
        decisions: vec![throttled],
        ..v1::Decisions::default()
    });
    let admitted = rig.send(100, &Wish::default())[0];
    assert!((23..=27).contains(&admitted), "{admitted}");
    let reports = rig.reports();
    let refused = reports[0].rejections.expect("some").throttle;
    assert_eq!(refused, 100 - admitted as u64);
    let directed = reports[0].directed.expect("some").normal;
    assert_eq!(directed, 100.0, "what is wanted is also what is refused");
    rig.control.disconnected(None);
    rig.pass(secs(31));
    assert_eq!(rig.send(100, &Wish::default())[0], 100);
}

#[test]
fn alone_a_ramp_cuts_by_the_mix_that_this_agent_sees() {
    let mut rig = Rig::new();
    let critical = of_priority(Priority::Critical);
    rig.send(20, &critical);
    while rig.state() == StateName::Closed {
        rig.wish(&critical).expect("closed").finish(FAILED, None);
        rig.pass(millis(20));
    }
    rig.pass(secs(13));
    for _ in 0..3 {
        rig.wish(&critical)
            .expect("a trial")
            .finish(OutcomeClass::Success, None);
        rig.pass(millis(20));
    }
    let admitted = rig.send(100, &critical)[0];
    assert!((5..=20).contains(&admitted), "{admitted} of 100 at 10 %");
}

#[test]
fn a_drill_takes_its_share_here_and_ends_by_itself() {
    let mut rig = rig();
    rig.steer(drill(v1::DrillFault::Dead, 0.3, &[]));
    let faults = |rig: &Rig| {
        let permits = (0..100).map(|_| rig.ask(false).expect("admitted"));
        let faults: Vec<_> = permits.filter_map(|permit| permit.fault()).collect();
        faults
    };
    let hit = faults(&rig);
    assert!((28..=32).contains(&hit.len()), "{}", hit.len());
    assert!(hit.iter().all(|fault| *fault == Fault::Dead));
    rig.pass(secs(1));
    assert_eq!(rig.served().drilled, hit.len() as u64);
    rig.control.disconnected(None);
    rig.elapsed += secs(10);
    assert_eq!(faults(&rig).len(), 0, "also before the next turn");
    rig.pass(millis(20));
    assert_eq!(rig.service().way.load().drill, None);
}

#[test]
fn a_drill_is_where_it_was_ordered_only() {
    for (pops, expected) in [(&["fra1"][..], true), (&["iad1", "sfo1"], false)] {
        let mut rig = rig();
        rig.steer(drill(v1::DrillFault::Delay, 1.0, pops));
        let permit = rig.ask(false).expect("admitted");
        let delay = Fault::Delay(millis(70));
        assert_eq!(permit.fault(), expected.then_some(delay), "{pops:?}");
        drop(permit);
        rig.decide_for("a", decision(0, open()));
        rig.steer(v1::ServiceDecision {
            drill: drill(v1::DrillFault::Delay, 1.0, pops).drill,
            ..plan([(0.0, 0.0), (1.0, 0.0), (0.0, 0.0)])
        });
        let permit = rig.ask(false).expect("admitted to b");
        assert_eq!(permit.fault(), None);
    }
}
