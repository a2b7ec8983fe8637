//! How many requests reach a dead backend before the whole fleet refuses, and
//! whom a broken vantage cannot convict. Printed figures: run with `--nocapture`.

mod sim;

use breaker_core::{
    PopId, Timestamp,
    breaker::{Happening, StateName},
    vantage::judge,
};
use sim::{Fault, Micros, Setup, World, agent_id, pop_id, secs};

const ONSET: Micros = secs(10);

fn dead_from(onset: Micros) -> Fault {
    Box::new(move |_, now| if now >= onset { 1.0 } else { 0.0 })
}

/// Requests that reached the backend from the onset until all agents refuse,
/// and the milliseconds from the first failure until then.
fn outage(setup: Setup) -> (usize, u64) {
    let mut world = World::new(setup, dead_from(ONSET));
    world.run_until(ONSET);
    world.run_while(ONSET + secs(20), |w| !w.all_refuse());
    assert!(
        world.all_refuse(),
        "seed {}: never opened",
        world.setup.seed
    );
    let late = world
        .reached
        .iter()
        .map(|(at, _)| *at)
        .filter(|at| *at >= ONSET);
    let late: Vec<Micros> = late.collect();
    (late.len(), (world.now - late[0]) / 1000)
}

/// Median and worst of 101 seeds: requests that reached the backend, and the
/// milliseconds it took.
fn figures(name: &str, setup: impl Fn(u64) -> Setup) -> [(usize, usize); 2] {
    let mut runs: Vec<(usize, u64)> = (1..=101).map(|seed| outage(setup(seed))).collect();
    runs.sort_unstable();
    let requests = (runs[50].0, runs[100].0);
    runs.sort_unstable_by_key(|(_, span)| *span);
    let span = (runs[50].1 as usize, runs[100].1 as usize);
    println!("{name}: {requests:?} requests, {span:?} ms (median, worst of 101)");
    [requests, span]
}

#[test]
fn a_dead_backend_gets_about_a_dozen_requests_from_the_whole_fleet() {
    let setup = |seed| Setup::even(seed, 20, 4, 200.0);
    let [(median, worst), (_, slowest)] = figures("20 agents, 4 POPs, 500s", setup);
    assert!(median <= 12, "median {median}");
    assert!(worst <= 25, "worst {worst}");
    assert!(slowest <= 250, "slowest {slowest} ms");
}

#[test]
fn where_nothing_is_metered_one_that_answers_503_to_everyone_gets_as_few() {
    let setup = |seed| {
        let mut setup = Setup::even(seed, 20, 4, 200.0);
        setup.overloads = true;
        setup.policy.overload_throttle = false;
        setup
    };
    let [(median, worst), (_, slowest)] = figures("20 agents, 4 POPs, 503s", setup);
    assert!(median <= 13, "median {median}");
    assert!(worst <= 25, "worst {worst}");
    assert!(slowest <= 250, "slowest {slowest} ms");
}

#[test]
fn where_overload_is_metered_it_is_opened_once_everyone_was_heard() {
    let setup = |seed| Setup {
        overloads: true,
        ..Setup::even(seed, 20, 4, 200.0)
    };
    let [(median, worst), (_, slowest)] = figures("20 agents, 4 POPs, 503s, metered", setup);
    assert!(median <= 18, "median {median}");
    assert!(worst <= 40, "worst {worst}");
    assert!(slowest <= 300, "slowest {slowest} ms");
}

#[test]
fn small_and_large_fleets_decide_as_well() {
    for (agents, pops, rate, most) in [
        (1, 1, 200.0, 11),
        (5, 1, 200.0, 14),
        (6, 3, 200.0, 14),
        (300, 20, 200.0, 40),
    ] {
        let name = format!("{agents} agents, {pops} POPs");
        let [(median, _), _] = figures(&name, |seed| Setup::even(seed, agents, pops, rate));
        assert!(median <= most, "{name}: median {median}");
    }
}

fn run(setup: Setup, until: Micros, fault: impl Fn(usize, Micros) -> f64 + 'static) -> World {
    let mut world = World::new(setup, Box::new(fault));
    world.run_until(until);
    world
}

fn scopes_opened(world: &World) -> Vec<Option<PopId>> {
    let mut scopes: Vec<Option<PopId>> = world
        .transitions()
        .into_iter()
        .filter_map(|happening| match happening {
            Happening::Transition {
                pop,
                to: StateName::Open,
                ..
            } => Some(pop.clone()),
            _ => None,
        })
        .collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

/// `share` of the traffic goes evenly through `heavy`, the rest evenly through
/// the others.
fn skewed(seed: u64, heavy: &[usize], share: f64) -> Setup {
    let mut setup = Setup::even(seed, 20, 4, 200.0);
    let rest = (1.0 - share) / (20 - heavy.len()) as f64;
    setup.weights = vec![rest; 20];
    for agent in heavy {
        setup.weights[*agent] = share / heavy.len() as f64;
    }
    setup
}

#[test]
fn one_broken_agent_with_most_of_the_traffic_convicts_nobody_else() {
    for seed in 1..=40 {
        let fault = |agent, now| match agent {
            7 if now >= ONSET => 1.0,
            _ => 0.01,
        };
        let world = run(skewed(seed, &[7], 0.6), secs(60), fault);
        assert!(
            scopes_opened(&world).is_empty(),
            "seed {seed}: {:#?}",
            world.transitions()
        );

        let verdict = judge(
            &world.view(),
            &world.setup.policy,
            Timestamp::default(),
            world.time(),
        );
        let suspects: Vec<_> = verdict.evidence.suspects.iter().map(|s| &s.agent).collect();
        let confirmed = verdict
            .evidence
            .pops
            .iter()
            .any(|p| p.pop == pop_id(3) && p.votes_failing);
        assert!(
            suspects == [&agent_id(7)] || confirmed,
            "seed {seed}: {suspects:?}"
        );
    }
}

#[test]
fn two_broken_agents_in_different_pops_convict_nobody_else() {
    for seed in 1..=40 {
        let fault = |agent, now| match agent {
            6 | 7 if now >= ONSET => 1.0,
            _ => 0.01,
        };
        let world = run(skewed(seed, &[6, 7], 0.8), secs(60), fault);
        assert!(
            scopes_opened(&world).is_empty(),
            "seed {seed}: {:#?}",
            world.transitions()
        );
    }
}

#[test]
fn a_broken_pop_is_opened_for_itself_alone() {
    for seed in 1..=40 {
        let fault = |agent: usize, now| match agent % 4 {
            2 if now >= ONSET => 1.0,
            _ => 0.01,
        };
        let world = run(Setup::even(seed, 20, 4, 200.0), secs(30), fault);
        assert_eq!(scopes_opened(&world), [Some(pop_id(2))], "seed {seed}");
    }
}

/// No transition in two minutes of 500 requests a second. (With 100 seeds, six
/// million requests, there is none either.)
fn noise_is_tolerated(rate: f64, seeds: u64) {
    for seed in 1..=seeds {
        let world = run(Setup::even(seed, 20, 4, 500.0), secs(120), move |_, _| rate);
        assert!(
            world.store.history.is_empty(),
            "seed {seed}: {:?}",
            world.transitions()
        );
        assert!(
            world.reached.len() > 55_000,
            "seed {seed}: {}",
            world.reached.len()
        );
    }
}

#[test]
fn one_percent_of_random_failures_changes_nothing() {
    noise_is_tolerated(0.01, 30);
}

#[test]
fn two_percent_of_random_failures_changes_nothing() {
    noise_is_tolerated(0.02, 10);
}
