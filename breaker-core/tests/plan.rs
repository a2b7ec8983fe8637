//! Where traffic goes: worked examples, and what holds whatever the figures.

mod steer;

use breaker_core::plan::{Change, PlanInput, plan};
use steer::{admits, at, input, order, share_of, shares, takes, unknown};

fn check(input: &PlanInput, expected: &[&str]) {
    assert_eq!(shares(&plan(input, None, at(0))), expected);
}

#[test]
fn everything_stays_home_as_long_as_it_fits() {
    let regions = [("a", takes(1000.0)), ("b", takes(1000.0))];
    check(
        &input(&regions, &[("a b", 800.0), ("b a", 300.0)]),
        &["a b: 1.000 0.000", "b a: 1.000 0.000"],
    );
}

#[test]
fn a_dead_region_s_traffic_fills_the_survivor_up_to_its_target_and_no_further() {
    // b takes 0.8 · 1000 and has 300 of its own.
    let regions = [("a", admits(0.0, takes(1000.0))), ("b", takes(1000.0))];
    check(
        &input(&regions, &[("a b", 1000.0), ("b a", 300.0)]),
        &["a b: 0.000 0.500, shed 0.500", "b a: 1.000 0.000"],
    );
}

#[test]
fn what_a_ramp_does_not_admit_yet_goes_to_the_next_region() {
    let regions = [("a", admits(0.25, takes(1000.0))), ("b", takes(1000.0))];
    check(&input(&regions, &[("a b", 400.0)]), &["a b: 0.500 0.500"]);
}

#[test]
fn an_overloaded_region_spills_into_the_next() {
    let regions = [("a", takes(1000.0)), ("b", takes(1000.0))];
    check(&input(&regions, &[("a b", 1000.0)]), &["a b: 0.800 0.200"]);
}

#[test]
fn traffic_moves_outward_ring_by_ring() {
    let dead = admits(0.0, takes(1000.0));
    let regions = [("a", dead), ("b", takes(500.0)), ("c", takes(500.0))];
    check(
        &input(&regions, &[("a b c", 1000.0)]),
        &["a b c: 0.000 0.400 0.400, shed 0.200"],
    );
}

#[test]
fn origins_that_meet_share_what_is_left_in_proportion() {
    let dead = admits(0.0, takes(1000.0));
    let regions = [("a", dead), ("b", dead), ("c", takes(500.0))];
    check(
        &input(&regions, &[("a c", 300.0), ("b c", 500.0)]),
        &[
            "a c: 0.000 0.500, shed 0.500",
            "b c: 0.000 0.500, shed 0.500",
        ],
    );
}

#[test]
fn a_region_s_own_clients_come_before_others() {
    let dead = admits(0.0, takes(1000.0));
    let regions = [("a", dead), ("b", takes(1000.0)), ("c", takes(1000.0))];
    check(
        &input(&regions, &[("a b c", 600.0), ("b c a", 700.0)]),
        &["a b c: 0.000 0.167 0.833", "b c a: 1.000 0.000 0.000"],
    );
}

#[test]
fn without_capacities_a_survivor_takes_everything_and_a_ramp_takes_its_share() {
    let dead = [("a", admits(0.0, unknown())), ("b", unknown())];
    check(&input(&dead, &[("a b", 900.0)]), &["a b: 0.000 1.000"]);
    let ramp = [("a", admits(0.3, unknown())), ("b", unknown())];
    check(&input(&ramp, &[("a b", 900.0)]), &["a b: 0.300 0.700"]);
    let alone = [("a", admits(0.3, unknown()))];
    check(&input(&alone, &[("a", 900.0)]), &["a: 0.300, shed 0.700"]);
}

#[test]
fn a_learned_capacity_limits_guests_but_not_a_region_s_own_clients() {
    let learned = |capacity| breaker_core::plan::RegionInput {
        configured: false,
        ..takes(capacity)
    };
    let regions = [("a", learned(1000.0)), ("b", learned(1000.0))];
    check(
        &input(&regions, &[("a b", 1500.0), ("b a", 300.0)]),
        &["a b: 1.000 0.000", "b a: 1.000 0.000"],
    );
    let dead = [("a", admits(0.0, learned(1000.0))), ("b", learned(1000.0))];
    check(
        &input(&dead, &[("a b", 1000.0), ("b a", 300.0)]),
        &["a b: 0.000 0.500, shed 0.500", "b a: 1.000 0.000"],
    );
}

#[test]
fn drained_and_unheard_of_regions_get_nothing() {
    let drained = breaker_core::plan::RegionInput {
        drained: true,
        ..takes(1000.0)
    };
    let regions = [("a", drained), ("b", takes(1000.0))];
    let made = plan(
        &input(&regions, &[("a b", 400.0), ("x b", 100.0)]),
        None,
        at(0),
    );
    assert_eq!(shares(&made), ["a b: 0.000 1.000", "x b: 0.000 1.000"]);
    assert!(
        made.origins
            .values()
            .all(|origin| origin.headrooms[0] == 0.0)
    );
}

#[test]
fn when_nothing_is_admitted_everything_is_shed() {
    let dead = admits(0.0, takes(1000.0));
    let made = plan(
        &input(&[("a", dead), ("b", dead)], &[("a b", 400.0)]),
        None,
        at(0),
    );
    assert_eq!(shares(&made), ["a b: 0.000 0.000, shed 1.000"]);
    assert_eq!(made.shed, 400.0);
}

#[test]
fn an_origin_without_demand_knows_where_to_go() {
    let dead = admits(0.0, takes(1000.0));
    let well = [("a", takes(1000.0)), ("b", takes(1000.0))];
    check(&input(&well, &[("a b", 0.0)]), &["a b: 1.000 0.000"]);
    let ramps = [("a", admits(0.1, unknown())), ("b", unknown())];
    check(&input(&ramps, &[("a b", 0.0)]), &["a b: 1.000 0.000"]);
    let down = [("a", dead), ("b", takes(1000.0))];
    check(&input(&down, &[("a b", 0.0)]), &["a b: 0.000 1.000"]);
}

#[test]
fn figures_that_are_no_numbers_make_no_plan_of_none() {
    let regions = [("a", takes(f64::NAN)), ("b", admits(f64::NAN, takes(10.0)))];
    let made = plan(&input(&regions, &[("a b", f64::NAN)]), None, at(0));
    for origin in made.origins.values() {
        let all = origin.shares.iter().chain(&origin.headrooms);
        assert!(
            all.clone().all(|share| (0.0..=1.0).contains(share)),
            "{made:?}"
        );
    }
}

#[test]
fn headroom_is_what_is_left_and_is_promised_once() {
    // c has 0.8 · 1000 - 200 left: a quarter of the 2,400 that could come.
    let regions = [
        ("a", takes(2000.0)),
        ("b", takes(2000.0)),
        ("c", takes(1000.0)),
    ];
    let made = plan(
        &input(&regions, &[("a c", 1600.0), ("b c", 800.0), ("c a", 200.0)]),
        None,
        at(0),
    );
    assert_eq!(made.origins[&order("a c")].headrooms, [0.0, 0.25]);
    assert_eq!(made.origins[&order("b c")].headrooms, [0.0, 0.25]);
    // a is filled to its target already.
    assert_eq!(made.origins[&order("c a")].headrooms, [0.0, 0.0]);
    let unknown = [("a", unknown()), ("b", unknown())];
    let made = plan(&input(&unknown, &[("a b", 100.0)]), None, at(0));
    assert_eq!(made.origins[&order("a b")].headrooms, [0.0, 1.0]);
}

#[test]
fn away_at_once_and_back_a_part_a_second() {
    let origins = [("a b", 500.0)];
    let well = input(&[("a", takes(1000.0)), ("b", takes(1000.0))], &origins);
    let down = input(
        &[("a", admits(0.0, takes(1000.0))), ("b", takes(1000.0))],
        &origins,
    );
    let first = plan(&well, None, at(0));
    let away = plan(&down, Some(&first), at(10));
    assert_eq!(shares(&away), ["a b: 0.000 1.000"]);
    // However old the plan, one step at a time.
    let back = plan(&well, Some(&away), at(60_000));
    assert_eq!(shares(&back), ["a b: 0.020 0.980"]);
    let back = plan(&well, Some(&back), at(60_100));
    assert_eq!(shares(&back), ["a b: 0.030 0.970"]);
}

#[test]
fn nothing_moves_back_into_a_region_that_is_not_calm() {
    let origins = [("a b", 500.0)];
    let uneasy = breaker_core::plan::RegionInput {
        calm: false,
        ..takes(1000.0)
    };
    let down = admits(0.0, takes(1000.0));
    let away = plan(
        &input(&[("a", down), ("b", takes(1000.0))], &origins),
        None,
        at(0),
    );
    let back = plan(
        &input(&[("a", uneasy), ("b", takes(1000.0))], &origins),
        Some(&away),
        at(500),
    );
    assert_eq!(shares(&back), ["a b: 0.000 1.000"]);
}

#[test]
fn what_would_be_shed_comes_home_as_fast_as_the_ramp_lets_it() {
    let origins = [("a b", 1000.0)];
    let b = ("b", takes(1000.0));
    let away = plan(
        &input(&[("a", admits(0.0, takes(1000.0))), b], &origins),
        None,
        at(0),
    );
    assert_eq!(shares(&away), ["a b: 0.000 0.800, shed 0.200"]);
    let ramp = plan(
        &input(&[("a", admits(0.1, takes(1000.0))), b], &origins),
        Some(&away),
        at(200),
    );
    assert_eq!(shares(&ramp), ["a b: 0.080 0.800, shed 0.120"]);
    let full = plan(
        &input(&[("a", takes(1000.0)), b], &origins),
        Some(&away),
        at(200),
    );
    assert_eq!(shares(&full), ["a b: 0.200 0.800"]);
}

#[test]
fn when_the_refuge_dies_during_the_failback_everything_goes_home_at_once() {
    let origins = [("a b", 500.0)];
    let (a, b) = (("a", takes(1000.0)), ("b", takes(1000.0)));
    let dead = |name| (name, admits(0.0, takes(1000.0)));
    let away = plan(&input(&[dead("a"), b], &origins), None, at(0));
    let back = plan(&input(&[a, b], &origins), Some(&away), at(200));
    let home = plan(&input(&[a, dead("b")], &origins), Some(&back), at(400));
    assert_eq!(share_of(&home, "a b", "a"), 1.0);
}

#[test]
fn a_few_percent_are_no_reason_for_a_new_plan_and_an_overfilled_region_is() {
    let regions = [("a", takes(1000.0)), ("b", takes(1000.0))];
    let current = plan(&input(&regions, &[("a b", 800.0)]), None, at(0));
    let change = |demand| {
        let next = plan(
            &input(&regions, &[("a b", demand)]),
            Some(&current),
            at(300),
        );
        current.change(&next, 0.8)
    };
    assert_eq!(change(800.0), Change::None);
    assert_eq!(change(822.0), Change::None);
    assert_eq!(change(850.0), Change::Urgent);
    assert_eq!(change(700.0), Change::None);
}
