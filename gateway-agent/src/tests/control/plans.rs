//! Where requests go by a plan.

use super::*;
use crate::{admit::way::Course, config::state_dir::Saved};

fn rig() -> Rig {
    let mut rig = Rig::of(three_regions(""));
    rig.connect();
    rig
}

fn planned(parts: [(f64, f64); 3]) -> Rig {
    let mut rig = rig();
    rig.steer(plan(parts));
    rig
}

/// About so many of a hundred.
fn about(found: &[usize], expected: &[usize]) {
    let near = |(found, expected): (&usize, &usize)| found.abs_diff(*expected) <= 3;
    let alike = found.len() == expected.len();
    let near = alike && found.iter().zip(expected).all(near);
    assert!(near, "{found:?} instead of {expected:?}");
}

#[test]
fn without_a_plan_regions_are_tried_in_their_order() {
    let mut rig = rig();
    assert_eq!(rig.send(100, &Wish::default()), [100, 0, 0, 0]);
    rig.decide_for("a", decision(0, open()));
    assert_eq!(rig.send(100, &Wish::default()), [0, 100, 0, 0]);
}

#[test]
fn regions_get_their_shares_and_what_fits_nowhere_is_shed() {
    let mut rig = planned([(0.5, 0.0), (0.2, 0.0), (0.1, 0.0)]);
    about(&rig.send(100, &Wish::default()), &[50, 20, 10, 20]);
    // LOW is not in the mix so far, so it comes last.
    let denied = rig.wish(&of_priority(Priority::Low)).expect_err("shed");
    let Denied::Shed(shed) = denied else {
        panic!("{denied:?}");
    };
    assert_eq!(shed.version.revision, 1);
    assert!((secs(1)..secs(4)).contains(&shed.retry_after), "{shed:?}");
}

#[test]
fn the_most_important_stay_nearest_and_the_least_are_shed_first() {
    let mut rig = rig();
    rig.steer(v1::ServiceDecision {
        mix: Some(v1::ByPriority {
            critical: 1.0,
            high: 1.0,
            normal: 1.0,
            low: 1.0,
        }),
        ..plan([(0.25, 0.0), (0.375, 0.0), (0.0, 0.0)])
    });
    let mut send = |priority| rig.send(100, &of_priority(priority));
    about(&send(Priority::Critical), &[100, 0, 0, 0]);
    about(&send(Priority::High), &[0, 100, 0, 0]);
    about(&send(Priority::Normal), &[0, 50, 0, 50]);
    about(&send(Priority::Low), &[0, 0, 0, 100]);
}

#[test]
fn all_agents_give_a_user_one_answer() {
    let mut rigs: Vec<Rig> = (0..10).map(|_| rig()).collect();
    for rig in &mut rigs {
        rig.steer(plan([(0.3, 0.0), (0.4, 0.0), (0.0, 0.0)]));
        rig.decide_for(
            "b",
            v1::Decision {
                throttle: Some(0.5),
                ..decision(0, closed())
            },
        );
    }
    let mut admitted = 0;
    for user in 0..1000 {
        let mut answers = rigs.iter_mut().map(|rig| rig.send(1, &of_user(user)));
        let first = answers.next().expect("there are ten");
        assert!(answers.all(|answer| answer == first), "user {user}");
        admitted += 1 - first[3];
    }
    // 30 % at a, and half of the 40 % at b: the throttle cuts b's users in two
    // because its salt is another.
    assert!((450..550).contains(&admitted), "{admitted} of 1000");
}

#[test]
fn what_a_region_refuses_goes_where_there_is_headroom_and_no_further() {
    let mut rig = planned([(1.0, 0.0), (0.0, 0.3), (0.0, 0.1)]);
    rig.decide_for("a", decision(0, open()));
    about(&rig.send(100, &Wish::default()), &[0, 30, 10, 60]);
    let refused = (0..20).find_map(|_| rig.reason());
    assert_eq!(refused, Some(RefusalReason::Open), "its own region's");
}

#[test]
fn what_a_throttle_refuses_shares_the_headroom_too() {
    let mut rig = planned([(1.0, 0.0), (0.0, 0.2), (0.0, 0.0)]);
    rig.decide_for(
        "a",
        v1::Decision {
            throttle: Some(0.5),
            ..decision(0, closed())
        },
    );
    about(&rig.send(100, &Wish::default()), &[50, 20, 0, 30]);
    let refused = (0..20).find_map(|_| rig.ask(false).err()).expect("one is");
    assert_eq!(refused.reason, RefusalReason::Throttle);
    assert!((secs(1)..secs(7)).contains(&refused.retry_after));
}

#[test]
fn a_plan_has_the_fleets_ramp_in_it_but_not_this_pops() {
    let mut rig = planned([(0.6, 0.0), (0.4, 0.0), (0.0, 0.0)]);
    rig.decide_for("a", decision(0, ramping(0.1)));
    about(&rig.send(100, &Wish::default()), &[60, 40, 0, 0]);
    let mut own = decision(0, closed());
    own.pops.push(v1::PopCircuit {
        pop: "fra1".to_owned(),
        circuit: Some(ramping(0.5)),
    });
    rig.decide_for("a", own);
    about(&rig.send(100, &Wish::default()), &[30, 40, 0, 30]);
}

#[test]
fn a_half_open_region_on_the_way_is_offered_its_trial_first() {
    let mut rig = planned([(0.0, 0.0), (1.0, 0.0), (0.0, 0.0)]);
    rig.decide_for("a", decision(0, half_open()));
    assert_eq!(rig.send(10, &Wish::default()), [0, 10, 0, 0]);
    let now = rig.now();
    let grant = v1::TrialGrant {
        backend: "pay/a".to_owned(),
        lease_id: "l1".to_owned(),
        expires_in: Some(prost(secs(3))),
    };
    rig.control.grant(&grant, now);
    assert_eq!(rig.send(10, &Wish::default()), [1, 9, 0, 0]);
}

#[test]
fn a_trial_may_be_a_request_that_would_be_shed() {
    let mut rig = planned([(0.0, 0.0); 3]);
    for region in ["a", "b", "c"] {
        rig.decide_for(region, decision(0, half_open()));
    }
    let now = rig.now();
    let grant = v1::TrialGrant {
        backend: "pay/b".to_owned(),
        lease_id: "l1".to_owned(),
        expires_in: Some(prost(secs(3))),
    };
    rig.control.grant(&grant, now);
    assert_eq!(rig.send(10, &Wish::default()), [0, 1, 0, 9]);
    assert_eq!(rig.count_of("c", Tally::Demand), 9, "it finds trials, too");
}

#[test]
fn where_nothing_is_admitted_at_all_home_says_why() {
    let mut rig = planned([(0.0, 0.0); 3]);
    for region in ["a", "b", "c"] {
        rig.decide_for(region, decision(0, open()));
    }
    assert_eq!(rig.reason(), Some(RefusalReason::Open));
    rig.pass(millis(20));
    assert_eq!(rig.count_of("a", Tally::RefusedOpen), 1);
    let served = rig.served();
    assert_eq!((served.refused, served.shed), (1, 0));
}

#[test]
fn diverted_requests_are_demand_of_the_regions_they_pass_but_not_directed_there() {
    let mut rig = planned([(0.0, 0.0), (0.0, 0.0), (1.0, 0.0)]);
    rig.send(100, &Wish::default());
    let counted = |region| {
        let counts = |tally| rig.count_of(region, tally);
        (counts(Tally::Demand), counts(Tally::WantedNormal))
    };
    assert_eq!([counted("a"), counted("b")], [(100, 0), (100, 0)]);
    assert_eq!(counted("c"), (100, 100));
    let reports = rig.reports();
    let directed = |region: &str| {
        let name = format!("pay/{region}");
        let mine = reports.iter().filter(|report| report.backend == name);
        mine.filter_map(|report| report.directed)
            .map(|directed| directed.normal)
            .sum::<f64>()
    };
    assert_eq!([directed("a"), directed("c")], [0.0, 100.0]);
}

#[test]
fn of_a_plan_nobody_stands_by_home_comes_first_and_others_take_no_more_than_it_said() {
    let mut rig = planned([(0.5, 0.1), (0.3, 0.1), (0.1, 0.0)]);
    rig.control.disconnected(None);
    rig.pass(secs(31));
    assert!(matches!(
        rig.service().way.load().course,
        Course::Stale { home: 0, .. }
    ));
    assert_eq!(rig.send(100, &Wish::default()), [100, 0, 0, 0]);
    // Its own breaker opens.
    while rig.ask(false).is_ok_and(|permit| {
        let home = permit.backend() == BackendIndex(0);
        permit.finish(if home { FAILED } else { OutcomeClass::Success }, None);
        home
    }) {
        rig.pass(millis(20));
    }
    about(&rig.send(100, &Wish::default()), &[0, 40, 10, 50]);
    // It comes back, and binds again.
    rig.connect();
    rig.steer(plan([(0.0, 0.0), (0.0, 0.0), (1.0, 0.0)]));
    assert_eq!(rig.send(100, &Wish::default()), [0, 0, 100, 0]);
}

#[test]
fn a_drained_region_is_left_out_until_the_drain_expires() {
    let mut rig = rig();
    rig.steer(v1::ServiceDecision {
        origins: Vec::new(),
        drains: vec![v1::DrainOrder {
            region: "a".to_owned(),
            expires_in: Some(prost(secs(60))),
            ..v1::DrainOrder::default()
        }],
        ..plan([(0.0, 0.0); 3])
    });
    assert_eq!(rig.send(10, &Wish::default()), [0, 10, 0, 0]);
    rig.control.disconnected(None);
    rig.pass(secs(59));
    assert_eq!(rig.send(10, &Wish::default()), [0, 10, 0, 0], "also alone");
    rig.pass(secs(2));
    assert_eq!(rig.send(10, &Wish::default()), [10, 0, 0, 0]);
}

#[test]
fn a_plan_for_other_regions_than_ours_is_not_ours() {
    let mut rig = rig();
    let mut other = plan([(0.0, 0.0), (0.0, 0.0), (1.0, 0.0)]);
    for origin in &mut other.origins {
        origin.regions.swap(0, 1);
    }
    rig.steer(other);
    assert_eq!(rig.send(10, &Wish::default()), [10, 0, 0, 0]);
}

#[test]
fn an_older_plan_is_not_taken_and_the_newest_is_named_in_hello_and_on_disk() {
    let mut rig = planned([(1.0, 0.0), (0.0, 0.0), (0.0, 0.0)]);
    rig.steer(plan([(0.0, 0.0), (1.0, 0.0), (0.0, 0.0)]));
    rig.revision = 0;
    rig.steer(plan([(0.0, 0.0), (0.0, 0.0), (1.0, 0.0)]));
    assert_eq!(rig.send(10, &Wish::default()), [0, 10, 0, 0]);
    let held = rig.control.steerings.to_wire(rig.now());
    assert_eq!(held.len(), 1);
    let version = held[0].version.expect("a version");
    assert_eq!((version.epoch, version.revision), (1, 2));
    let saved = Saved {
        unix_ms: 1_000_000,
        message: v1::Decisions {
            services: held,
            ..v1::Decisions::default()
        },
    };
    for (age, taken) in [(5_000, [0, 10, 0, 0]), (40_000, [10, 0, 0, 0])] {
        let mut rig = Rig::of(three_regions(""));
        let now = rig.now();
        rig.control.restore(&saved, 1_000_000 + age, now);
        rig.control.refresh_all(now);
        assert_eq!(rig.send(10, &Wish::default()), taken, "{age} ms old");
    }
}

#[test]
fn a_plan_leaves_with_its_service() {
    let mut rig = planned([(0.0, 0.0), (1.0, 0.0), (0.0, 0.0)]);
    let now = rig.now();
    for yaml in [
        three_regions("").replace("pay:", "pray:"),
        three_regions(""),
    ] {
        let text = FleetText::read(2, yaml);
        let installed = rig
            .control
            .install_text(ConfigSource::ControlPlane, text, now);
        installed.expect("a good configuration");
    }
    assert_eq!(rig.control.steerings.to_wire(now), []);
    assert_eq!(rig.send(10, &Wish::default()), [10, 0, 0, 0]);
}

#[test]
fn a_new_configuration_keeps_the_plan_and_the_counts() {
    let mut rig = planned([(0.0, 0.0), (1.0, 0.0), (0.0, 0.0)]);
    rig.send(10, &Wish::default());
    let now = rig.now();
    let text = FleetText::read(2, three_regions("limits: {max_concurrency: 7}"));
    let installed = rig
        .control
        .install_text(ConfigSource::ControlPlane, text, now);
    installed.expect("a good configuration");
    assert_eq!(rig.send(10, &Wish::default()), [0, 10, 0, 0]);
    let counters = rig.control.services["pay"].counters();
    assert_eq!(counters.get(Tally::Success), 20);
}
