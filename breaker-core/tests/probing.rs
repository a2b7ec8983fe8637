//! Probers: exactly as many as asked for, moved as little as possible, and of one
//! mind only when most of them are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use breaker_core::{
    AgentId, BackendName, Breaker, BreakerPolicy, Circuit, Mode, PopId, Timestamp, TrialLease,
    breaker::{Input, Override, StateName},
    probing::{Finding, Health, Probed, RiseFall, Unhealthy, assign, merge},
};
use proptest::prelude::*;

type Agents = BTreeMap<PopId, BTreeSet<AgentId>>;

fn pop(n: usize) -> PopId {
    PopId::new(&format!("pop{n}")).expect("a valid name")
}

fn agent(pop: usize, n: usize) -> AgentId {
    AgentId::new(&format!("pop{pop}-agent{n}")).expect("a valid name")
}

/// As many agents at each POP.
fn agents(sizes: &[usize]) -> Agents {
    let of_pop = |(p, size): (usize, &usize)| (pop(p), (0..*size).map(|n| agent(p, n)).collect());
    sizes.iter().enumerate().map(of_pop).collect()
}

fn endpoints(count: usize, probers: u32) -> Vec<Probed> {
    let endpoint = |n: usize| Probed {
        backend: BackendName::parse(&format!("pay/r{}", n % 7)).expect("a valid name"),
        endpoint: format!("http://10.0.{}.{}:8080", n / 250, n % 250),
        probers,
    };
    (0..count).map(endpoint).collect()
}

/// Who probes each endpoint.
fn probers<'a>(
    endpoints: &'a [Probed],
    agents: &Agents,
) -> BTreeMap<&'a Probed, BTreeSet<AgentId>> {
    let mut probers = BTreeMap::<_, BTreeSet<_>>::new();
    for (agent, theirs) in assign(endpoints, agents) {
        for probed in theirs {
            let new = probers.entry(probed).or_default().insert(agent.clone());
            assert!(new, "an agent has an endpoint once");
        }
    }
    probers
}

proptest! {
    #[test]
    fn every_pop_has_as_many_probers_as_asked_for_or_all_its_agents(
        sizes in prop::collection::vec(0_usize..12, 1..6),
        count in 0_usize..40,
        k in 1_u32..5,
    ) {
        let (endpoints, agents) = (endpoints(count, k), agents(&sizes));
        let probers = probers(&endpoints, &agents);
        for probed in &endpoints {
            for of_pop in agents.values() {
                let chosen = probers.get(probed).map_or(0, |p| p.intersection(of_pop).count());
                prop_assert_eq!(chosen, of_pop.len().min(k as usize));
            }
        }
        let everyone: BTreeSet<_> = agents.values().flatten().cloned().collect();
        let listed: BTreeSet<_> = assign(&endpoints, &agents).into_keys().collect();
        prop_assert_eq!(listed, everyone, "also those that probe nothing");
    }

    #[test]
    fn an_agent_that_leaves_moves_only_its_own_endpoints(
        sizes in prop::collection::vec(1_usize..12, 1..5),
        count in 1_usize..40,
        k in 1_u32..4,
        who in any::<prop::sample::Index>(),
    ) {
        let (endpoints, before) = (endpoints(count, k), agents(&sizes));
        let everyone: Vec<_> = before.values().flatten().cloned().collect();
        let gone = &everyone[who.index(everyone.len())];
        let mut after = before.clone();
        after.values_mut().for_each(|pop| { pop.remove(gone); });
        let (then, now) = (probers(&endpoints, &before), probers(&endpoints, &after));
        let none = BTreeSet::new();
        for probed in &endpoints {
            let (then, now) = (then.get(probed).unwrap_or(&none), now.get(probed).unwrap_or(&none));
            let mut stayed = then.clone();
            let moved = stayed.remove(gone);
            prop_assert!(now.is_superset(&stayed), "who probed it still does");
            prop_assert!(now.len() <= stayed.len() + usize::from(moved));
        }
    }

    #[test]
    fn the_order_of_endpoints_and_other_pops_change_nothing(
        sizes in prop::collection::vec(1_usize..9, 2..5),
        count in 1_usize..30,
    ) {
        let all = agents(&sizes);
        let mut one = all.clone();
        one.retain(|name, _| *name == pop(0));
        let endpoints = endpoints(count, 1);
        let reversed: Vec<_> = endpoints.iter().rev().cloned().collect();
        let (all, one, reversed) =
            (assign(&endpoints, &all), assign(&endpoints, &one), assign(&reversed, &one));
        for (agent, theirs) in one {
            prop_assert_eq!(&theirs, &all[&agent]);
            let theirs: BTreeSet<_> = theirs.into_iter().collect();
            let again: BTreeSet<_> = reversed[&agent].iter().copied().collect();
            prop_assert_eq!(theirs, again);
        }
    }

    #[test]
    fn a_prober_changes_its_mind_exactly_after_rise_or_fall_in_a_row(
        probes in prop::collection::vec(any::<bool>(), 0..60),
        rise in 1_u32..5,
        fall in 1_u32..5,
        start in any::<bool>(),
    ) {
        let limits = RiseFall { rise, fall };
        let mut health = Health::new(start);
        let (mut naive, mut seen) = (start, Vec::new());
        for succeeded in probes {
            health = health.after(succeeded, limits);
            seen.push(succeeded);
            let needed = if naive { fall } else { rise } as usize;
            let last = &seen[seen.len().saturating_sub(needed)..];
            if last.len() == needed && last.iter().all(|s| *s != naive) {
                naive = !naive;
                seen.clear();
            }
            prop_assert_eq!(health.is_healthy(), naive);
        }
    }
}

#[test]
fn two_hundred_agents_share_the_work_about_evenly() {
    let (endpoints, agents) = (endpoints(1000, 1), agents(&[50; 4]));
    let loads: Vec<_> = assign(&endpoints, &agents)
        .into_values()
        .map(|e| e.len())
        .collect();
    assert_eq!(loads.iter().sum::<usize>(), 4 * 1000);
    // 20 each on average; five standard deviations of chance are 22.
    assert!(
        loads.iter().all(|load| (1..=42).contains(load)),
        "{loads:?}"
    );
}

#[test]
fn most_probers_of_a_pop_and_most_pops_must_agree() {
    let pops: Vec<_> = (0..4).map(pop).collect();
    let check = |votes: &[(usize, u32, u32)], expected: Option<Unhealthy>| {
        let finding = |(at, healthy, unhealthy): &(usize, u32, u32)| Finding {
            endpoint: "http://a:1",
            pop: &pops[*at],
            healthy: *healthy,
            unhealthy: *unhealthy,
        };
        let merged = merge(votes.iter().map(finding));
        assert_eq!(merged.get("http://a:1"), expected.as_ref(), "{votes:?}");
    };
    let at = |pops: &[usize]| Some(Unhealthy::At(pops.iter().map(|n| pop(*n)).collect()));
    let everywhere = || Some(Unhealthy::Everywhere);
    check(&[], None);
    check(&[(0, 1, 0)], None);
    check(&[(0, 0, 1)], everywhere());
    check(&[(0, 1, 1)], None);
    check(&[(0, 1, 2)], everywhere());
    check(&[(0, 0, 1), (1, 1, 0)], at(&[0]));
    check(&[(0, 0, 1), (1, 0, 0)], everywhere());
    check(&[(0, 0, 1), (1, 0, 1), (2, 1, 0)], everywhere());
    check(&[(0, 0, 1), (1, 0, 1), (2, 1, 0), (3, 1, 0)], at(&[0, 1]));
    // Two replicas' probers of one POP add up.
    check(&[(0, 0, 1), (0, 2, 0), (1, 1, 0)], None);
}

const BEGAN: Timestamp = Timestamp::from_millis(10_000);

fn half_open() -> Breaker {
    Breaker {
        fleet: Circuit::HalfOpen {
            since: BEGAN,
            trips: 1,
            last_open: Duration::from_secs(30),
            successes: 0,
            leases: Vec::new(),
            tried: Vec::new(),
        },
        ..Breaker::new(1, Timestamp::default())
    }
}

/// After a probe that succeeded this long after HALF_OPEN began; interval 5 s.
fn probed(breaker: &Breaker, ms: u64) -> Option<Breaker> {
    let succeeded = BEGAN + Duration::from_millis(ms);
    let input = Input::Probe {
        pop: None,
        succeeded,
        interval: Duration::from_secs(5),
    };
    breaker
        .step(input, &BreakerPolicy::default(), succeeded)
        .next
}

#[test]
fn probes_close_a_breaker_that_nobody_asks_one_interval_each() {
    let breaker = half_open();
    assert_eq!(probed(&breaker, 0), None, "found before HALF_OPEN began");
    let breaker = probed(&breaker, 10).expect("the first");
    assert_eq!(
        probed(&breaker, 10),
        None,
        "another replica tells the same finding"
    );
    assert_eq!(probed(&breaker, 5_000), None, "another prober, too soon");
    let breaker = probed(&breaker, 5_001).expect("the second");
    let breaker = probed(&breaker, 14_000).expect("the third");
    assert_eq!(breaker.fleet.state(), StateName::Closed);
    assert_eq!(breaker.fleet.trips(), 1, "only real traffic forgets a trip");
    assert!(breaker.fleet.admission(BEGAN + Duration::from_secs(15)) < 0.2);
}

#[test]
fn probes_say_nothing_while_a_trial_is_out_or_an_operator_decides() {
    let now = BEGAN + Duration::from_secs(1);
    let lease = TrialLease {
        id: "one".to_owned(),
        agent: agent(0, 0),
        pop: pop(0),
        expires: now + Duration::from_secs(60),
    };
    let grant = Input::Grant { pop: None, lease };
    let policy = BreakerPolicy {
        half_open_max_trials: 9,
        ..BreakerPolicy::default()
    };
    let trying = half_open().step(grant, &policy, now).next.expect("granted");
    let forced = Breaker {
        over: Some(Override {
            mode: Mode::ForcedOpen,
            actor: "ops".to_owned(),
            reason: "test".to_owned(),
            created: BEGAN,
            expires: BEGAN + Duration::from_secs(600),
        }),
        ..half_open()
    };
    let closed = Breaker::new(1, Timestamp::default());
    for breaker in [trying, forced, closed] {
        assert_eq!(probed(&breaker, 2_000), None, "{breaker:?}");
    }
}
