//! What is promised of a fleet whose network loses, delays, repeats and reorders,
//! and whose agents, replicas and store come and go.

mod sim;

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    BreakerPolicy, Circuit, PopId, Timestamp,
    breaker::{Happening, StateName, Version},
};
use sim::{Micros, Network, Setup, World, chaos::Chaos, secs};

const CALM_AGAIN: Micros = secs(45);
/// Longest open period with jitter, three trials that each lose a lease first,
/// the ramp, and some repetitions of what the network lost.
const HEALED: Micros = CALM_AGAIN + secs(10 + 3 * 2 * 3 + 5 + 10);

/// Dead for a while, back for a moment, dead again, half dead, then healthy.
fn fault(now: Micros) -> f64 {
    match now / 1_000_000 {
        10..25 | 28..31 => 1.0,
        31..40 => 0.6,
        _ => 0.0,
    }
}

fn rough(seed: u64, trials: u32) -> World {
    let setup = Setup {
        network: Network {
            delay_ms: (1, 200),
            loss: 0.05,
            duplication: 0.05,
        },
        // Some answers take nearly as long as the route's timeout of 2 s.
        slow: Some((0.2, 1_900)),
        policy: BreakerPolicy {
            open_duration: Duration::from_secs(1),
            max_open_duration: Duration::from_secs(8),
            ramp_duration: Duration::from_secs(5),
            half_open_max_trials: trials,
            trial_timeout: Duration::from_secs(3),
            ..BreakerPolicy::default()
        },
        ..Setup::even(seed, 12, 3, 200.0)
    };
    let mut world = World::new(setup, Box::new(|_, now| fault(now)));
    world.after(secs(5), sim::Event::Chaos(Chaos::Season(CALM_AGAIN)));
    world
}

/// Each seed in one test would hide which promise broke: each promise asks all.
fn on_every_seed(check: impl Fn(&World)) {
    for seed in 1..=30 {
        let mut world = rough(seed, 1 + (seed % 2) as u32);
        println!("seed {seed}");
        world.run_until(HEALED);
        check(&world);
    }
}

#[test]
fn no_agent_ever_goes_back() {
    on_every_seed(|world| {
        let mut applied = 0;
        for agent in &world.agents {
            assert!(
                agent.history.is_sorted_by(|a, b| a < b),
                "{:?}",
                agent.history
            );
            applied += agent.history.len();
        }
        assert!(
            applied > 100,
            "only {applied} decisions were applied: nothing was tested"
        );
    });
}

#[test]
fn transitions_are_totally_ordered() {
    on_every_seed(|world| {
        let mut states: BTreeMap<Option<PopId>, StateName> = BTreeMap::new();
        let mut last = Version {
            epoch: 1,
            revision: 0,
        };
        let mut transitions = 0;
        for (_, breaker, happenings) in &world.store.history {
            assert!(
                breaker.version > last,
                "{:?} after {last:?}",
                breaker.version
            );
            last = breaker.version;
            for happening in happenings {
                if let Happening::Transition { pop, from, to, .. } = happening {
                    let was = states.insert(pop.clone(), *to).unwrap_or(StateName::Closed);
                    assert_eq!(was, *from, "{happening:?}");
                    transitions += 1;
                    // The fleet's opening takes the POPs' circuits in.
                    if pop.is_none() && *to == StateName::Open {
                        states.retain(|pop, _| pop.is_none());
                    }
                }
            }
        }
        assert!(
            transitions >= 4,
            "only {transitions} transitions: nothing was tested"
        );
    });
}

#[test]
fn never_are_more_trials_out_than_allowed() {
    on_every_seed(|world| {
        let allowed = world.setup.policy.half_open_max_trials as usize;
        assert!(
            world.most_trials_in_flight >= 1,
            "no trial was sent: nothing was tested"
        );
        assert!(
            world.most_trials_in_flight <= allowed,
            "{}",
            world.most_trials_in_flight
        );
    });
}

#[test]
fn it_never_stays_half_open_and_all_agree_in_the_end() {
    on_every_seed(|world| {
        let store = &world.store.breaker;
        for (pop, circuit) in store.circuits() {
            let whole = matches!(circuit, Circuit::Closed { ramp: None, .. });
            assert!(whole, "{pop:?}: {circuit:?}");
        }
        for agent in &world.agents {
            let applied = agent
                .applied
                .as_ref()
                .expect("every agent heard a decision");
            assert_eq!(applied.version, store.version);
            assert_eq!(agent.admission(&world.setup.policy, world.time()), 1.0);
        }
    });
}

#[test]
fn while_everyone_refuses_only_leased_requests_reach_the_backend() {
    for seed in 1..=20 {
        let mut setup = Setup::even(seed, 12, 3, 200.0);
        setup.policy.open_duration = Duration::from_secs(2);
        let mut world = World::new(
            setup,
            Box::new(|_, now| if now > secs(10) { 1.0 } else { 0.0 }),
        );
        world.run_until(secs(10));
        world.run_while(secs(20), |w| !w.all_refuse());
        let (since, before) = (world.time(), world.reached.len());
        world.run_until(secs(60));
        let granted = |h: &&Happening| matches!(h, Happening::TrialGranted(_));
        let later = |(at, ..): &&(Timestamp, _, Vec<Happening>)| *at >= since;
        let history = world.store.history.iter().filter(later);
        let trials = history.flat_map(|(_, _, h)| h).filter(granted).count();
        // 2 + 4 + 8 + 16 seconds: four rounds, one request each.
        assert_eq!(trials, 4, "seed {seed}");
        assert_eq!(world.reached.len() - before, trials, "seed {seed}");
    }
}
