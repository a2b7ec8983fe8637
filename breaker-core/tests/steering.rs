//! A service's record: plans that come into force, approvals, drains, drills.

mod steer;

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    BackendName, ByPriority, Priority, Timestamp, explain,
    plan::{OriginPlan, Plan},
    steering::{
        Callers, Drain, Drill, DrillObservation, DrillReport, DrillState, FailoverMode, Fault,
        Guard, SteeringInput,
    },
};
use steer::{
    admits, at, map, normal, order, region,
    service::{Service, dead, pair},
    share_of, takes,
};

#[test]
fn the_first_plan_is_committed_and_is_no_news() {
    let mut service = pair();
    assert!(service.tick(at(0)));
    assert_eq!(service.in_force(), ["a b: 1.000 0.000"]);
    assert!(service.heard().is_empty());
    assert!(!service.tick(at(1000)));
    assert_eq!(service.wake_at, None);
}

#[test]
fn a_failure_moves_traffic_at_once_and_is_told_with_its_numbers() {
    let mut service = pair();
    service.seen.demand.insert(order("b a"), normal(800.0));
    service.tick(at(0));
    service.set("a", dead());
    assert!(service.tick(at(10)));
    assert_eq!(
        service.in_force(),
        ["a b: 0.000 0.800, shed 0.200", "b a: 1.000 0.000"]
    );
    assert_eq!(
        service.heard(),
        [
            "pay: a admits nothing; of the 3,000 requests/s for a 2,400 go to b, 600 are shed, \
             lowest priority first",
            "pay sheds 600 of 3,800 requests/s, lowest priority first: no region has room for them",
        ]
    );
}

#[test]
fn a_region_that_gets_nothing_gets_0_percent_however_its_parts_are_rounded() {
    for parts in 1..500 {
        let moved = f64::from(parts) / 499.0 * 0.93;
        let origin = OriginPlan {
            demand: 4000.0 + f64::from(parts) / 7.0,
            shares: vec![0.0, moved],
            ..OriginPlan::default()
        };
        let plan = Plan {
            origins: [(order("a b"), origin)].into(),
            ..Plan::default()
        };
        let told = explain::steering::region(&plan, 1, &region("a")).expect("traffic moves");
        assert!(told.starts_with("by plan r.1 a gets 0 % of its"), "{told}");
    }
}

#[test]
fn the_way_back_takes_ten_seconds_and_is_told_twice() {
    let mut service = pair();
    service.tick(at(0));
    service.set("a", dead());
    service.tick(at(10));
    service.heard();
    service.set("a", takes(4000.0));
    let homes = service.run(5000, 20_000);
    for window in homes.windows(2) {
        let [(from, before), (to, after)] = window else {
            continue;
        };
        assert!(to - from >= 200, "{homes:?}");
        assert!(
            after - before <= 0.1 * (to - from) as f64 / 1000.0 + 1e-9,
            "{homes:?}"
        );
    }
    let (done, home) = homes.last().expect("plans");
    assert_eq!(*home, 1.0);
    assert!((14_000..16_000).contains(done), "{homes:?}");
    assert_eq!(
        service.heard(),
        [
            "pay: of the 3,000 requests/s for a 2,940 go to b",
            "pay: all 3,000 requests/s go to their first region",
        ]
    );
}

#[test]
fn a_ramp_is_followed_without_a_commit_for_each_percent() {
    let mut service = pair();
    service.tick(at(0));
    service.set("a", dead());
    service.tick(at(10));
    let mut commits = 0;
    for tick in 0..300 {
        let admission = (f64::from(tick) / 300.0).max(0.1);
        service.set("a", admits(admission, takes(4000.0)));
        commits += u32::from(service.tick(at(5000 + u64::from(tick as u32) * 100)));
    }
    service.set("a", takes(4000.0));
    service.run(35_000, 40_000);
    assert_eq!(service.in_force(), ["a b: 1.000 0.000"]);
    assert!((10..120).contains(&commits), "{commits}");
}

#[test]
fn in_mode_manual_nothing_moves_until_somebody_approves() {
    let mut service = pair().manual();
    service.tick(at(0));
    assert_eq!(service.in_force(), ["a b: 1.000 0.000"]);
    let plan = service.steering.plan.as_ref().expect("a plan");
    assert!(plan.origins.values().all(|o| o.headrooms == [0.0, 0.0]));
    service.set("a", dead());
    assert!(service.tick(at(1000)));
    assert_eq!(service.in_force(), ["a b: 1.000 0.000"]);
    assert_eq!(service.proposed(), ["a b: 0.000 1.000"]);
    assert!(!service.tick(at(2000)));
    assert!(service.act(SteeringInput::Approve, at(3000)));
    assert_eq!(service.in_force(), ["a b: 0.000 1.000"]);
    assert!(service.proposed().is_empty());
    assert_eq!(
        service.heard(),
        [
            "waits for approval: pay: a admits nothing; of the 3,000 requests/s for a 3,000 go to b",
            "approved: pay: a admits nothing; of the 3,000 requests/s for a 3,000 go to b",
        ]
    );
}

#[test]
fn in_mode_manual_the_way_back_is_approved_once_and_then_as_slow_as_ever() {
    let mut service = pair().manual();
    service.tick(at(0));
    service.set("a", dead());
    service.tick(at(1000));
    service.act(SteeringInput::Approve, at(2000));
    service.set("a", takes(4000.0));
    service.run(3000, 10_000);
    assert_eq!(service.in_force(), ["a b: 0.000 1.000"]);
    assert_eq!(service.proposed(), ["a b: 1.000 0.000"]);
    service.act(SteeringInput::Approve, at(10_000));
    assert_eq!(service.in_force(), ["a b: 0.020 0.980"]);
    let homes = service.run(10_000, 30_000);
    assert_eq!(service.in_force(), ["a b: 1.000 0.000"]);
    assert!(
        homes.last().is_some_and(|(done, _)| *done > 19_000),
        "{homes:?}"
    );
    assert!(service.proposed().is_empty());
}

fn drain(now: Timestamp, seconds: u64) -> Drain {
    Drain {
        actor: "ann".to_owned(),
        reason: "new kernel".to_owned(),
        created: now,
        expires: now + Duration::from_secs(seconds),
        break_glass: false,
    }
}

#[test]
fn a_drain_moves_traffic_in_either_mode_and_runs_out() {
    for mode in [FailoverMode::Automatic, FailoverMode::Manual] {
        let mut service = pair();
        service.settings.mode = mode;
        service.tick(at(0));
        let drain = drain(at(100), 60);
        service.act(SteeringInput::Drain(region("a"), Some(drain)), at(100));
        assert_eq!(service.wake_at, Some(at(60_100)));
        service.tick(at(150));
        assert_eq!(service.in_force(), ["a b: 0.000 1.000"], "{mode:?}");
        service.tick(at(60_100));
        assert!(service.steering.drains.is_empty());
        assert_eq!(
            service.heard()[..2],
            [
                "ann drains a of pay for 60 s: new kernel",
                "pay: a is drained; of the 3,000 requests/s for a 3,000 go to b",
            ]
        );
    }
}

#[test]
fn the_mix_is_committed_when_it_moved() {
    let mut service = pair();
    service.tick(at(0));
    let mut demand = normal(2900.0);
    demand[Priority::Low] = 100.0;
    service.seen.demand.insert(order("a b"), demand);
    assert!(!service.tick(at(1000)));
    demand[Priority::Low] = 300.0;
    service.seen.demand.insert(order("a b"), demand);
    assert!(service.tick(at(2000)));
    assert!(service.steering.mix.shares()[Priority::Low] > 0.09);
    // Each origin has its own, and keeps it when its demand ends.
    let mix = |service: &Service| {
        let plan = service.steering.plan.as_ref().expect("a plan");
        plan.origins[&order("a b")].mix.shares()[Priority::Low]
    };
    assert!(mix(&service) > 0.09);
    service.seen.demand.insert(order("a b"), normal(0.0));
    service.tick(at(3000));
    assert!(mix(&service) > 0.09);
}

#[test]
fn in_mode_manual_who_gave_way_comes_back_without_asking() {
    let mut service = pair().manual();
    let mut critical = ByPriority::default();
    critical[Priority::Critical] = 3200.0;
    service.seen.demand.insert(order("a b"), critical);
    service.seen.demand.insert(order("b a"), normal(3200.0));
    service.tick(at(0));
    service.set("a", dead());
    service.tick(at(1000));
    service.act(SteeringInput::Approve, at(2000));
    service.tick(at(3000));
    assert_eq!(
        service.in_force(),
        ["a b: 0.000 1.000", "b a: 0.000 0.000, shed 1.000"]
    );
    service.seen.demand.insert(order("a b"), normal(0.0));
    service.run(4000, 8000);
    assert_eq!(service.in_force()[1], "b a: 1.000 0.000");
}

#[test]
fn learned_capacities_plan_where_none_is_configured() {
    let mut service = Service::new(
        &[("a", steer::unknown()), ("b", steer::unknown())],
        &[("a b", 1000.0)],
    );
    service.seen.learned = map(&[("b", 500.0)]);
    service.tick(at(0));
    service.set("a", admits(0.0, steer::unknown()));
    service.tick(at(1000));
    assert_eq!(service.in_force(), ["a b: 0.000 0.400, shed 0.600"]);
    // About the same: replicas may differ.
    service.seen.learned = map(&[("b", 450.0)]);
    assert!(!service.tick(at(2000)));
    assert_eq!(service.steering.learned[&region("b")], 500.0);
}

fn drill(now: Timestamp, seconds: u64) -> Drill {
    Drill {
        id: "d1".to_owned(),
        backend: BackendName::parse("pay/a").expect("a valid name"),
        fault: Fault::Dead,
        share: 1.0,
        pops: std::collections::BTreeSet::new(),
        guard: Guard {
            min_success_rate: 0.5,
            max_latency_p99: Some(Duration::from_secs(1)),
            grace: Duration::from_secs(3),
        },
        success_rate: 0.99,
        state: DrillState::Running,
        actor: "ann".to_owned(),
        reason: "game day".to_owned(),
        started: now,
        ends: now + Duration::from_secs(seconds),
        report: DrillReport::default(),
    }
}

fn callers(succeeded: f64, failed: f64, refused: f64) -> Callers {
    Callers {
        succeeded,
        failed,
        refused,
    }
}

fn rates(a: f64, b: f64) -> BTreeMap<breaker_core::ids::RegionName, f64> {
    map(&[("a", a), ("b", b)])
}

#[test]
fn a_drill_that_moves_the_traffic_passes_and_says_how_fast() {
    let mut service = pair();
    service.tick(at(0));
    let start = drill(at(1000), 10);
    service.act(SteeringInput::StartDrill(Box::new(start)), at(1000));
    let mut seen = DrillObservation {
        rates: rates(3000.0, 0.0),
        recent: callers(3000.0, 0.0, 0.0),
        ..DrillObservation::default()
    };
    service.seen.drill = Some(seen.clone());
    service.tick(at(1100));
    // The breaker opens, the plan moves; then the traffic has moved.
    service.set("a", dead());
    seen.open = true;
    seen.recent = callers(2500.0, 30.0, 470.0);
    service.seen.drill = Some(seen.clone());
    service.tick(at(1300));
    seen.rates = rates(0.0, 3000.0);
    seen.rates_since = Some(at(1600));
    seen.recent = callers(3000.0, 0.0, 0.0);
    seen.total = callers(29_500.0, 30.0, 470.0);
    seen.latency_p99 = Some(Duration::from_millis(40));
    service.seen.drill = Some(seen);
    service.tick(at(1900));
    assert_eq!(service.wake_at, Some(at(2000)));
    service.heard();
    assert!(service.tick(at(11_000)));
    assert_eq!(
        service.heard(),
        [
            "the drill (all requests to pay/a without a connection) passed: 100.0 % of requests \
             succeeded at the end, 99.0 % were needed; noticed after 0.3 s, moved after 0.6 s; of \
             30,000 requests 29,500 were served, 30 failed, 470 were refused; worst p99 40 ms"
        ]
    );
    let report = service.steering.drill.as_ref().map(|d| d.report.clone());
    let report = report.expect("a drill");
    assert_eq!(report.before, rates(3000.0, 0.0));
    assert_eq!(report.at_end, rates(0.0, 3000.0));
}

#[test]
fn a_guard_ends_a_drill_once_its_grace_is_over() {
    let mut service = pair();
    service.tick(at(0));
    service.act(SteeringInput::StartDrill(Box::new(drill(at(0), 60))), at(0));
    let mut seen = DrillObservation {
        recent: callers(1.0, 3.0, 0.0),
        ..DrillObservation::default()
    };
    let state = |service: &mut Service, seen: &DrillObservation, now| {
        service.seen.drill = Some(seen.clone());
        service.tick(now);
        service.steering.drill.as_ref().map(|drill| drill.state)
    };
    seen.recent = callers(100.0, 900.0, 0.0);
    assert_eq!(
        state(&mut service, &seen, at(2900)),
        Some(DrillState::Running)
    );
    // Too few to judge.
    seen.recent = callers(1.0, 3.0, 0.0);
    assert_eq!(
        state(&mut service, &seen, at(3100)),
        Some(DrillState::Running)
    );
    seen.recent = callers(490.0, 500.0, 10.0);
    assert_eq!(
        state(&mut service, &seen, at(3300)),
        Some(DrillState::GuardTripped)
    );
    assert!(service.heard().pop().is_some_and(|last| last.contains(
        "was ended by its guard: 49.0 % of requests succeeded in the last second, the guard needs 50.0 %"
    )));
}

#[test]
fn a_drill_that_nobody_noticed_fails() {
    let mut service = pair();
    service.tick(at(0));
    service.act(SteeringInput::StartDrill(Box::new(drill(at(0), 5))), at(0));
    service.seen.drill = Some(DrillObservation {
        recent: callers(1000.0, 0.0, 0.0),
        ..DrillObservation::default()
    });
    service.tick(at(5000));
    let state = service.steering.drill.as_ref().map(|drill| drill.state);
    assert_eq!(state, Some(DrillState::Failed));
}

#[test]
fn one_drill_at_a_time_and_it_can_be_stopped() {
    let mut service = pair();
    let start = |now| SteeringInput::StartDrill(Box::new(drill(now, 5)));
    assert!(service.act(start(at(0)), at(0)));
    assert!(!service.act(start(at(100)), at(100)));
    let seen = DrillObservation {
        total: callers(90.0, 10.0, 0.0),
        ..DrillObservation::default()
    };
    let stop = SteeringInput::EndDrill(DrillState::Stopped, &seen);
    assert!(service.act(stop.clone(), at(200)));
    let report = service.steering.drill.as_ref().map(|d| d.report.requests);
    assert_eq!(report, Some(100), "what was seen last is in the report");
    assert!(!service.act(stop, at(300)));
    assert!(service.act(start(at(400)), at(400)));
}

/// "a" is out of traffic because of a drill, until `ends`.
fn rehearsed(settings: impl Fn(Service) -> Service, ends: u64) -> Service {
    let mut service = settings(pair());
    service.tick(at(0));
    service.act(SteeringInput::StartDrill(Box::new(drill(at(0), 60))), at(0));
    service.set("a", dead());
    service.tick(at(300));
    assert_eq!(service.home(), 0.0);
    let seen = DrillObservation::default();
    service.act(
        SteeringInput::EndDrill(DrillState::Stopped, &seen),
        at(ends),
    );
    service
}

#[test]
fn after_a_drill_traffic_is_home_again_at_once() {
    let mut service = rehearsed(|service| service, 8000);
    service.set("a", takes(4000.0));
    service.tick(at(8010));
    assert_eq!(service.home(), 1.0);
    // What fails for real afterwards comes back slowly.
    let mut service = rehearsed(|service| service, 8000);
    service.set("a", takes(4000.0));
    service.tick(at(18_010));
    assert!(service.home() < 0.2, "{}", service.home());
}

#[test]
fn the_bound_is_lifted_for_the_region_of_the_drill_only() {
    let mut service = Service::new(
        &[
            ("a", takes(4000.0)),
            ("b", takes(4000.0)),
            ("c", takes(4000.0)),
        ],
        &[("a b c", 3000.0), ("b c a", 1000.0)],
    );
    service.tick(at(0));
    service.act(SteeringInput::StartDrill(Box::new(drill(at(0), 60))), at(0));
    service.set("a", dead());
    service.set("b", dead());
    service.tick(at(300));
    let seen = DrillObservation::default();
    let stop = SteeringInput::EndDrill(DrillState::Stopped, &seen);
    service.act(stop, at(8000));
    service.set("a", takes(4000.0));
    service.set("b", takes(4000.0));
    service.tick(at(8010));
    let plan = service.steering.plan.as_ref().expect("a plan");
    assert_eq!(share_of(plan, "a b c", "a"), 1.0);
    let back = share_of(plan, "b c a", "b");
    assert!((0.0..0.1).contains(&back), "b was ill: {back}");
}
