//! Where traffic goes: worked examples, and what holds whatever the figures.

mod steer;

use breaker_core::{
    Plan,
    ids::RegionName,
    plan::{Change, OriginPlan, PlanInput, RegionInput, RegionOrder, plan},
};
use proptest::prelude::*;
use steer::{
    admits,
    any::{NAMES, inputs, regions},
    at, input, order, region, share_of, shares, takes, unknown,
};

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
    // A region's own clients may have all of it.
    check(
        &input(&regions, &[("a b", 1000.0), ("b a", 850.0)]),
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
    check(&input(&regions, &[("a b", 400.0)]), &["a b: 0.625 0.375"]);
}

#[test]
fn an_overloaded_region_spills_into_the_next() {
    let regions = [("a", takes(1000.0)), ("b", takes(1000.0))];
    check(&input(&regions, &[("a b", 1250.0)]), &["a b: 0.800 0.200"]);
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
    let learned = |capacity| RegionInput {
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
    let drained = RegionInput {
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
    let made = plan(
        &input(&regions, &[("a b", f64::NAN), ("b a", f64::INFINITY)]),
        None,
        at(0),
    );
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
    let uneasy = RegionInput {
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
    assert_eq!(shares(&ramp), ["a b: 0.100 0.800, shed 0.100"]);
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
    let current = plan(&input(&regions, &[("a b", 1000.0)]), None, at(0));
    let change = |demand| {
        let next = plan(
            &input(&regions, &[("a b", demand)]),
            Some(&current),
            at(300),
        );
        current.change(&next, 0.8)
    };
    assert_eq!(change(1000.0), Change::None);
    assert_eq!(change(1027.0), Change::None);
    assert_eq!(change(1050.0), Change::Urgent);
    assert_eq!(change(850.0), Change::None);
}

/// Two moments of one service.
fn moments() -> impl Strategy<Value = (PlanInput, PlanInput, u64)> {
    (inputs(), regions(), 0.5..1.5, 0..5000_u64).prop_map(|(before, regions, factor, later)| {
        let mut now = before.clone();
        now.regions = regions;
        for demand in now.origins.values_mut() {
            demand.0 = demand.0.map(|rate| rate * factor);
        }
        (before, now, later)
    })
}

/// Requests a second that others may fill a region to.
fn target(input: &PlanInput, name: &RegionName) -> f64 {
    let region = &input.regions[name];
    match region.capacity {
        _ if region.drained || region.admission <= 0.0 => 0.0,
        None => f64::INFINITY,
        Some(capacity) => input.target_utilization * region.admission * capacity,
    }
}

/// Requests a second that a region may get, of guests and of its own clients.
fn room(input: &PlanInput, made: &Plan, name: &RegionName) -> f64 {
    let region = &input.regions[name];
    let own = |(order, _): &(&RegionOrder, &OriginPlan)| order.first() == Some(name);
    let own: f64 = made
        .origins
        .iter()
        .filter(own)
        .map(|(_, origin)| origin.demand)
        .sum();
    let own = match region.capacity {
        _ if region.drained => 0.0,
        // Learned from its own clients, whom it does not limit.
        Some(capacity) if region.configured => own.min(region.admission * capacity),
        _ => region.admission * own,
    };
    target(input, name).max(own)
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-6 * left.abs().max(right.abs()).max(1.0)
}

proptest! {
    #[test]
    fn no_region_gets_more_than_it_takes((before, now, later) in moments()) {
        let first = plan(&before, None, at(0));
        let made = plan(&now, Some(&first), at(later));
        for (name, figures) in &made.regions {
            let room = room(&now, &made, name);
            prop_assert!(figures.planned <= room * (1.0 + 1e-9) + 1e-6, "{name}: {made:?}");
        }
    }

    #[test]
    fn no_request_is_lost_or_counted_twice((before, now, later) in moments()) {
        let first = plan(&before, None, at(0));
        let made = plan(&now, Some(&first), at(later));
        let mut shed = 0.0;
        for (order, origin) in &made.origins {
            prop_assert_eq!(origin.shares.len(), order.len());
            prop_assert_eq!(origin.headrooms.len(), order.len());
            let all = origin.shares.iter().chain(&origin.headrooms);
            prop_assert!(all.clone().all(|share| (0.0..=1.0).contains(share)), "{made:?}");
            let sum: f64 = origin.shares.iter().sum();
            prop_assert!(sum <= 1.0 + 1e-9);
            shed += (1.0 - sum) * origin.demand;
        }
        prop_assert!(close(shed, made.shed), "{shed} {made:?}");
        let planned: f64 = made.regions.values().map(|figures| figures.planned).sum();
        prop_assert!(close(planned + made.shed, made.demand()), "{made:?}");
    }

    #[test]
    fn nothing_is_shed_while_a_region_of_its_order_has_room((before, now, later) in moments()) {
        let first = plan(&before, None, at(0));
        let made = plan(&now, Some(&first), at(later));
        for (order, origin) in &made.origins {
            let shed = (1.0 - origin.shares.iter().sum::<f64>()) * origin.demand;
            if shed <= 1e-6 * origin.demand.max(1.0) {
                continue;
            }
            for (at, name) in order.iter().enumerate() {
                let region = &now.regions[name];
                let full = match region.capacity {
                    _ if region.drained => true,
                    // Of what nobody knows, as much as its breaker admits.
                    None => origin.shares[at] >= region.admission - 1e-6,
                    Some(_) if at == 0 => made.regions[name].planned >= room(&now, &made, name) - 1e-6,
                    Some(_) => made.regions[name].planned >= target(&now, name) - 1e-6,
                };
                prop_assert!(full, "{name} has room: {made:?}");
            }
        }
    }

    #[test]
    fn headrooms_fit_all_at_the_same_time(input in inputs()) {
        let made = plan(&input, None, at(0));
        for (name, figures) in &made.regions {
            let further = |(order, origin): (&RegionOrder, &OriginPlan)| {
                let at = order.iter().position(|n| n == name)?;
                Some(origin.headrooms[at] * origin.demand)
            };
            let further: f64 = made.origins.iter().filter_map(further).sum();
            let room = room(&input, &made, name);
            prop_assert!(figures.planned + further <= room * (1.0 + 1e-9) + 1e-6, "{made:?}");
        }
    }

    #[test]
    fn without_haste_traffic_moves_back_only_so_fast((before, now, later) in moments()) {
        // Everything that was somewhere still fits there: only then is there time.
        let mut now = now;
        now.origins.clone_from(&before.origins);
        let first = plan(&before, None, at(0));
        let made = plan(&now, Some(&first), at(later));
        for (order, origin) in &made.origins {
            let old = &first.origins[order];
            let stays = old.shares.iter().zip(order).enumerate().all(|(at, (share, name))| {
                let room = match at {
                    0 => room(&now, &made, name),
                    _ => target(&now, name),
                };
                let full = made.regions[name].planned >= room - 1e-6;
                let unknown = now.regions[name].capacity.is_none();
                let fits = !unknown || *share <= now.regions[name].admission + 1e-9;
                *share <= 1e-9 || (!full && fits)
            });
            let whole = old.shares.iter().sum::<f64>() > 1.0 - 1e-9;
            if !stays || !whole || origin.demand <= 0.0 || order.len() < 2 {
                continue;
            }
            let rise = origin.shares[0] - old.shares[0];
            let calm = now.regions[&order[0]].calm;
            let seconds = later as f64 / 1000.0;
            let longest = (0.02 / now.failback_per_second).max(0.2);
            let most = now.failback_per_second * seconds.min(longest);
            let most = if calm { most } else { 0.0 };
            prop_assert!(rise <= most + 1e-6, "{rise} > {most}: {first:?} {made:?}");
        }
    }

    #[test]
    fn names_and_their_order_make_no_difference(input in inputs()) {
        // Renamed so that every map runs the other way round.
        let other = |name: &RegionName| {
            let at = NAMES.iter().position(|n| *n == name.as_str());
            region(NAMES[NAMES.len() - 1 - at.expect("a known name")])
        };
        let renamed = PlanInput {
            regions: input.regions.iter().map(|(n, r)| (other(n), *r)).collect(),
            origins: input
                .origins
                .iter()
                .map(|(order, demand)| (order.iter().map(other).collect(), *demand))
                .collect(),
            ..input.clone()
        };
        let (one, two) = (plan(&input, None, at(0)), plan(&renamed, None, at(0)));
        prop_assert!(close(one.shed, two.shed));
        for (order, origin) in &one.origins {
            let twin: RegionOrder = order.iter().map(other).collect();
            let twin = &two.origins[&twin];
            let all = origin.shares.iter().chain(&origin.headrooms);
            for (one, two) in all.zip(twin.shares.iter().chain(&twin.headrooms)) {
                prop_assert!(close(*one, *two), "{origin:?} {twin:?}");
            }
        }
    }
}
