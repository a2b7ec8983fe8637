//! Parts of a quota add up to it, follow demand, and leave nobody out.

use breaker_core::quota::{ALONE, Claim, FLOOR, alone, split};
use proptest::{prelude::*, sample::SizeRange};

fn claims(count: impl Into<SizeRange>) -> impl Strategy<Value = Vec<Claim>> {
    let wanted = prop_oneof![Just(0.0), 0.001..10.0, 10.0..1e6];
    let claim = (1_u32..50, wanted).prop_map(|(agents, wanted)| Claim { agents, wanted });
    prop::collection::vec(claim, count)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3)
}

proptest! {
    #[test]
    fn parts_add_up_to_the_rate_less_what_is_reserved(
        claims in claims(1..60), rate in 0.1..1e6, reserved in 0.0..2e6,
    ) {
        let sum: f64 = split(rate, reserved, &claims).iter().sum();
        prop_assert!(close(sum, (rate - reserved).max(0.0)), "{sum}");
    }

    #[test]
    fn everyone_gets_at_least_an_even_part_of_the_floor(
        claims in claims(1..60), rate in 0.1..1e6,
    ) {
        let agents: u32 = claims.iter().map(|c| c.agents).sum();
        for (claim, part) in claims.iter().zip(split(rate, 0.0, &claims)) {
            let least = FLOOR * rate * f64::from(claim.agents) / f64::from(agents);
            prop_assert!(part > 0.0 && part >= least * (1.0 - 1e-9), "{part} for {claim:?}");
        }
    }

    #[test]
    fn beyond_the_floor_parts_are_in_proportion_to_what_is_wanted(
        claims in claims(2..60), rate in 0.1..1e6,
    ) {
        let wanted: f64 = claims.iter().map(|c| c.wanted).sum();
        prop_assume!(wanted > 0.0);
        let agents: u32 = claims.iter().map(|c| c.agents).sum();
        for (claim, part) in claims.iter().zip(split(rate, 0.0, &claims)) {
            let floor = FLOOR * rate * f64::from(claim.agents) / f64::from(agents);
            let above = (1.0 - FLOOR) * rate * claim.wanted / wanted;
            prop_assert!(close(part, floor + above), "{part} for {claim:?}");
        }
    }

    #[test]
    fn the_order_of_claims_changes_no_part(
        (claims, shuffled) in claims(1..60).prop_flat_map(|claims| {
            let indices: Vec<usize> = (0..claims.len()).collect();
            (Just(claims), Just(indices).prop_shuffle())
        }),
        rate in 0.1..1e6,
    ) {
        let parts = split(rate, 0.0, &claims);
        let moved: Vec<_> = shuffled.iter().map(|i| claims[*i]).collect();
        for (i, part) in shuffled.iter().zip(split(rate, 0.0, &moved)) {
            prop_assert!(close(part, parts[*i]), "{part} and {}", parts[*i]);
        }
    }

    #[test]
    fn replicas_split_first_and_their_agents_still_add_up(
        replicas in prop::collection::vec(
            prop::collection::vec((0.0..1e4).prop_map(Claim::of_agent), 1..20), 1..5),
        rate in 0.1..1e6,
    ) {
        let sum = |claims: &Vec<Claim>| Claim {
            agents: claims.len() as u32,
            wanted: claims.iter().map(|c| c.wanted).sum(),
        };
        let registers: Vec<_> = replicas.iter().map(sum).collect();
        let parts = split(rate, 0.0, &registers);
        let agents = replicas.iter().zip(parts);
        let total: f64 = agents.flat_map(|(claims, part)| split(part, 0.0, claims)).sum();
        prop_assert!(close(total, rate), "{total}");
    }

    #[test]
    fn all_on_their_own_send_three_quarters(agents in 1_u32..10_000, rate in 0.1..1e6) {
        prop_assert!(close(alone(rate, agents) * f64::from(agents), ALONE * rate));
    }
}

#[test]
fn nobody_to_split_over_gets_nothing() {
    assert!(split(500.0, 0.0, &[]).is_empty());
    assert_eq!(alone(500.0, 0), 375.0);
}
