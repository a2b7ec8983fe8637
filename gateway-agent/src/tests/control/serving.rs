//! What callers of a service want and get; quotas, and what a drill does.

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
    let reports = |rig: &mut Rig, turns| {
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
    assert!((72..=78).contains(&served.shadowed), "{served:?}");
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
    assert!((22..=28).contains(&admitted), "{admitted}");
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
    assert!((27..=33).contains(&hit.len()), "{}", hit.len());
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

fn with_quota(throttle: &str) -> Rig {
    let mut rig = Rig::of(three_regions(&format!("throttle: {{{throttle}}}")));
    rig.connect();
    rig
}

/// Asks 1000 times a second; how many were within the quota.
fn within_quota(rig: &mut Rig, seconds: u64, wish: &Wish) -> usize {
    let service = rig.service();
    let mut within = 0;
    for _ in 0..seconds * 50 {
        for _ in 0..20 {
            rig.elapsed += millis(1);
            match rig.wish_of(&service, wish) {
                Ok(permit) => {
                    within += 1;
                    permit.finish(OutcomeClass::Success, None);
                }
                Err(Denied::OverQuota(over)) => {
                    assert!((secs(1)..secs(3)).contains(&over.retry_after));
                }
                Err(denied) => panic!("{denied:?}"),
            }
        }
        rig.pass(Duration::ZERO);
    }
    within
}

fn lend(rig: &mut Rig, key_hash: u64, rate: f64, rate_alone: f64) {
    let now = rig.now();
    let quota = v1::Quota {
        service: "pay".to_owned(),
        key_hash,
        rate,
        expires_in: Some(prost(secs(2))),
        rate_alone,
    };
    let quotas = vec![quota];
    rig.control.lend(&v1::QuotaGrant { quotas }, now);
}

#[test]
fn a_quota_is_the_configured_one_until_lent_then_the_grant_then_what_remains_alone() {
    let mut rig = with_quota("rate: 200, burst: 1");
    assert_eq!(within_quota(&mut rig, 1, &Wish::default()), 200);
    lend(&mut rig, 0, 50.0, 20.0);
    let lent = within_quota(&mut rig, 2, &Wish::default());
    assert!((99..=101).contains(&lent), "{lent}");
    let alone = within_quota(&mut rig, 2, &Wish::default());
    assert!((39..=41).contains(&alone), "{alone}");
}

#[test]
fn what_a_quota_refuses_is_no_demand_and_asks_no_region() {
    let mut rig = with_quota("rate: 100, burst: 1");
    let within = within_quota(&mut rig, 2, &Wish::default());
    rig.pass(secs(1));
    let mut quotas = Vec::new();
    let mut demand = 0.0;
    let mut refused = 0;
    for up in rig.sent() {
        let Up::Report(report) = up else { continue };
        for service in report.services {
            demand += service.demand.expect("always").normal;
            refused += service.refused;
            quotas.extend(service.quotas);
        }
    }
    assert_eq!((demand as usize, refused), (within, 0));
    assert!(quotas.iter().all(|quota| quota.key_hash == 0));
    let wanted: u64 = quotas.iter().map(|quota| quota.wanted).sum();
    let admitted: u64 = quotas.iter().map(|quota| quota.admitted).sum();
    assert_eq!((wanted, admitted as usize), (2000, within));
    assert_eq!(rig.count_of("a", Tally::Demand) as usize, within);
}

#[test]
fn a_caller_is_lent_its_own_part_and_named_by_a_hash() {
    let mut rig = with_quota("rate: 100, burst: 1, key: \"header:x-api-key\"");
    let caller = |name: &str| Wish {
        caller: Some(ShedKey::of(name.as_bytes())),
        ..Wish::default()
    };
    let (ann, bob) = (caller("ann"), caller("bob"));
    assert_eq!(within_quota(&mut rig, 1, &ann), 100);
    assert_eq!(within_quota(&mut rig, 1, &bob), 100);
    let hash = ShedKey::of(b"ann").bits();
    lend(&mut rig, hash, 10.0, 30.0);
    let lent = within_quota(&mut rig, 1, &ann);
    assert!((9..=11).contains(&lent), "{lent}");
    let other = within_quota(&mut rig, 1, &bob);
    assert!(
        (29..=31).contains(&other),
        "{other}: what the fleet has for one alone"
    );
}

#[test]
fn a_grant_that_makes_no_sense_is_not_taken() {
    let mut rig = with_quota("rate: 100, burst: 1");
    for (rate, alone) in [(f64::NAN, 1.0), (-1.0, 1.0), (1.0, f64::INFINITY)] {
        lend(&mut rig, 0, rate, alone);
    }
    assert_eq!(within_quota(&mut rig, 1, &Wish::default()), 100);
}
