//! Who gives way to whom when not everything fits.

mod steer;

use breaker_core::{
    Plan, Priority,
    ids::RegionName,
    plan::{OriginPlan, PlanInput, RegionOrder, plan},
};
use proptest::prelude::*;
use steer::{admits, any::inputs, at, mixed, shares, takes};

fn check(input: &PlanInput, expected: &[&str]) {
    assert_eq!(shares(&plan(input, None, at(0))), expected);
}

#[test]
fn low_requests_give_way_to_critical_ones_from_elsewhere_and_no_further() {
    let regions = [("a", admits(0.0, takes(1000.0))), ("b", takes(1000.0))];
    let with = |critical, low| {
        let origins = [
            ("a b", [critical, 0.0, 0.0, 0.0]),
            ("b a", [0.0, 0.0, 0.0, low]),
        ];
        mixed(&regions, &origins)
    };
    // Up to the target, 800.
    check(
        &with(50.0, 800.0),
        &["a b: 0.000 1.000", "b a: 0.938 0.000, shed 0.062"],
    );
    check(
        &with(200.0, 700.0),
        &["a b: 0.000 1.000", "b a: 0.857 0.000, shed 0.143"],
    );
    // Above it, one for one: b is no fuller than it was.
    check(
        &with(90.0, 900.0),
        &["a b: 0.000 1.000", "b a: 0.900 0.000, shed 0.100"],
    );
    check(
        &with(1000.0, 900.0),
        &[
            "a b: 0.000 0.800, shed 0.200",
            "b a: 0.111 0.000, shed 0.889",
        ],
    );
}

#[test]
fn where_everything_fits_nobody_gives_way() {
    let dead = admits(0.0, takes(1000.0));
    let regions = [("a", dead), ("b", takes(1000.0)), ("c", takes(1000.0))];
    let origins = [
        ("a b c", [50.0, 0.0, 0.0, 0.0]),
        ("b c a", [0.0, 0.0, 0.0, 800.0]),
    ];
    check(
        &mixed(&regions, &origins),
        &["a b c: 0.000 0.000 1.000", "b c a: 1.000 0.000 0.000"],
    );
}

#[test]
fn who_gives_way_looks_for_another_place() {
    let dead = admits(0.0, takes(1000.0));
    let regions = [("a", dead), ("b", takes(1000.0)), ("c", takes(50.0))];
    let origins = [
        ("a b", [100.0, 0.0, 0.0, 0.0]),
        ("b c", [0.0, 0.0, 0.0, 800.0]),
    ];
    check(
        &mixed(&regions, &origins),
        &["a b: 0.000 1.000", "b c: 0.875 0.050, shed 0.075"],
    );
}

#[test]
fn the_least_important_give_way_first_wherever_they_are() {
    // b has 300 CRITICAL and 500 NORMAL, c 800 LOW: c's give way to what a lacks.
    let dead = admits(0.0, takes(1000.0));
    let regions = [("a", dead), ("b", takes(1000.0)), ("c", takes(1000.0))];
    let origins = [
        ("a b c", [0.0, 200.0, 0.0, 100.0]),
        ("b c a", [300.0, 0.0, 500.0, 0.0]),
        ("c b a", [0.0, 0.0, 0.0, 800.0]),
    ];
    check(
        &mixed(&regions, &origins),
        &[
            "a b c: 0.000 0.000 0.667, shed 0.333",
            "b c a: 1.000 0.000 0.000",
            "c b a: 0.750 0.000 0.000, shed 0.250",
        ],
    );
}

#[test]
fn equals_stay_where_they_are() {
    let regions = [("a", admits(0.0, takes(1000.0))), ("b", takes(1000.0))];
    let origins = [
        ("a b", [100.0, 0.0, 0.0, 100.0]),
        ("b a", [800.0, 0.0, 0.0, 0.0]),
    ];
    check(
        &mixed(&regions, &origins),
        &["a b: 0.000 0.000, shed 1.000", "b a: 1.000 0.000"],
    );
}

/// Requests a second of an origin that have a place, less important ones than
/// `priority` last.
fn placed(origin: &OriginPlan) -> f64 {
    origin.shares.iter().sum::<f64>() * origin.demand
}

/// Its demand up to a priority.
fn up_to(origin: &OriginPlan, priority: Priority) -> f64 {
    origin.mix.position(priority, 1.0) * origin.demand
}

/// An origin's load in a region, and how much of it is less important than
/// `priority`: the nearest region has the most important requests.
fn load(
    order: &RegionOrder,
    origin: &OriginPlan,
    name: &RegionName,
    priority: Priority,
) -> (f64, f64) {
    let Some(at) = order.iter().position(|n| n == name) else {
        return (0.0, 0.0);
    };
    let nearer: f64 = origin.shares[..at].iter().sum::<f64>() * origin.demand;
    let load = origin.shares[at] * origin.demand;
    let important = (up_to(origin, priority) - nearer).clamp(0.0, load);
    (load, load - important)
}

/// An origin that sheds requests of a priority finds nothing less important in any
/// region that it could use, unless what is no less important already fills that
/// region as far as the origin may fill it.
fn priorities_hold(input: &PlanInput, made: &Plan) -> Result<(), String> {
    for (order, origin) in &made.origins {
        for priority in Priority::ALL {
            let lacks = up_to(origin, priority) - placed(origin);
            if lacks <= 1e-6 * origin.demand.max(1.0) {
                continue;
            }
            for (at, name) in order.iter().enumerate() {
                let region = &input.regions[name];
                let Some(capacity) = region.capacity else {
                    continue;
                };
                if region.drained || region.admission <= 0.0 {
                    continue;
                }
                let loads = made.origins.iter().map(|(o, p)| load(o, p, name, priority));
                let (all, below) = loads.fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
                let whole = region.admission * capacity;
                let limit = match at {
                    0 if region.configured => whole.min(all),
                    0 => all,
                    _ => input.target_utilization * whole,
                };
                let full = all - below >= limit - 1e-6 * limit.max(1.0);
                if below > 1e-6 * all.max(1.0) && !full {
                    return Err(format!(
                        "{order:?} sheds {lacks} of {priority:?} and {name} holds {below} below it: {made:?}"
                    ));
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_request_is_shed_while_a_less_important_one_has_its_place(
        before in inputs(), input in inputs(), later in 0..5000_u64,
    ) {
        let first = plan(&input, None, at(0));
        prop_assert_eq!(priorities_hold(&input, &first), Ok(()));
        let first = plan(&before, None, at(0));
        let made = plan(&input, Some(&first), at(later));
        prop_assert_eq!(priorities_hold(&input, &made), Ok(()));
    }
}

/// Two priorities of two origins in whole numbers: how much of CRITICAL, and then
/// of LOW, any placement gets into two regions.
fn best(rooms: [u32; 2], critical: [u32; 2], low: [u32; 2]) -> (u32, u32) {
    let mut best = (0, 0);
    let all = |[one, two]: [u32; 2]| {
        (0..=one).flat_map(move |a| {
            (0..=one - a).flat_map(move |b| {
                (0..=two).flat_map(move |c| (0..=two - c).map(move |d| [a + c, b + d]))
            })
        })
    };
    for c in all(critical) {
        for l in all(low) {
            if c[0] + l[0] <= rooms[0] && c[1] + l[1] <= rooms[1] {
                best = best.max((c[0] + c[1], l[0] + l[1]));
            }
        }
    }
    best
}

#[test]
fn no_placement_gets_more_of_what_is_important_into_two_regions() {
    let digits = |mut case: u32| {
        std::iter::repeat_with(move || {
            let digit = case % 3;
            case /= 3;
            digit
        })
    };
    for case in 0..3_u32.pow(6) {
        let d: Vec<u32> = digits(case).take(6).collect();
        let (rooms, critical, low) = ([d[0], d[1]], [d[2], d[3]], [d[4], d[5]]);
        let f = f64::from;
        let regions = [("a", takes(f(rooms[0]))), ("b", takes(f(rooms[1])))];
        let origins = [
            ("a b", [f(critical[0]), 0.0, 0.0, f(low[0])]),
            ("b a", [f(critical[1]), 0.0, 0.0, f(low[1])]),
        ];
        let input = PlanInput {
            target_utilization: 1.0,
            ..mixed(&regions, &origins)
        };
        let made = plan(&input, None, at(0));
        let got = made.origins.values().fold((0.0, 0.0), |(c, l), origin| {
            let critical = placed(origin).min(up_to(origin, Priority::Critical));
            (c + critical, l + placed(origin) - critical)
        });
        let (c, l) = best(rooms, critical, low);
        assert!(
            (got.0 - f(c)).abs() < 1e-6 && (got.1 - f(l)).abs() < 1e-6,
            "{got:?} instead of {c} and {l}: {made:?}"
        );
    }
}
