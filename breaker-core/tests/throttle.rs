//! A fleet in front of a backend that takes so many requests a second and answers
//! 503 to the excess. Printed figures: run with `--nocapture`.

mod sim;

use std::{cell::RefCell, rc::Rc};

use breaker_core::breaker::{Happening, StateName};
use sim::{Micros, Network, Setup, World, secs};

/// Work in a leaky bucket: a request that does not fit is refused, which costs a
/// part of its work too.
struct Backend {
    /// Requests a second.
    capacity: f64,
    /// Work of refusing one, in requests.
    refusing: f64,
    level: f64,
    at: Micros,
    asked: Vec<Micros>,
    taken: Vec<Micros>,
}

/// The bucket holds this much work: what a queue for 100 ms does.
const QUEUE_S: f64 = 0.1;

/// Refusals lie this much work ahead at most: the rest is dropped by the kernel.
const BACKLOG_S: f64 = 1.0;

impl Backend {
    fn new(capacity: f64, refusing: f64) -> Self {
        Self {
            capacity,
            refusing,
            level: 0.0,
            at: 0,
            asked: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn takes(&mut self, now: Micros) -> bool {
        let done = self.capacity * (now - self.at) as f64 / 1e6;
        self.level = (self.level - done).max(0.0);
        self.at = now;
        self.asked.push(now);
        let fits = self.level + 1.0 <= (self.capacity * QUEUE_S).max(3.0);
        if fits {
            self.level += 1.0;
            self.taken.push(now);
        } else {
            self.level = (self.level + self.refusing).min(self.capacity * BACKLOG_S);
        }
        fits
    }
}

/// A fleet and its backend.
struct Scene {
    world: World,
    backend: Rc<RefCell<Backend>>,
}

impl Scene {
    fn new(setup: Setup, backend: Backend) -> Self {
        let backend = Rc::new(RefCell::new(backend));
        let asked = backend.clone();
        let fault = move |_, now| match asked.borrow_mut().takes(now) {
            true => 0.0,
            false => 1.0,
        };
        let setup = Setup {
            overloads: true,
            ..setup
        };
        Self {
            world: World::new(setup, Box::new(fault)),
            backend,
        }
    }

    fn run(&mut self, seconds: u64) {
        let end = self.world.now + secs(seconds);
        self.world.run_until(end);
    }

    fn set_capacity(&mut self, capacity: f64) {
        // Catches up with the work done until now.
        let mut backend = self.backend.borrow_mut();
        let done = backend.capacity * (self.world.now - backend.at) as f64 / 1e6;
        backend.level = (backend.level - done).max(0.0);
        backend.at = self.world.now;
        backend.capacity = capacity;
    }

    fn admission(&self) -> f64 {
        self.world
            .store
            .breaker
            .throttle
            .map_or(1.0, |t| t.admission)
    }

    /// Requests a second that the backend took in the last so many.
    fn taken(&self, seconds: u64) -> f64 {
        self.rate(&self.backend.borrow().taken, seconds)
    }

    fn asked(&self, seconds: u64) -> f64 {
        self.rate(&self.backend.borrow().asked, seconds)
    }

    fn rate(&self, times: &[Micros], seconds: u64) -> f64 {
        let from = self.world.now - secs(seconds);
        let late = times.iter().rev().take_while(|at| **at >= from);
        late.count() as f64 / seconds as f64
    }

    /// How often a circuit opened.
    fn trips(&self) -> usize {
        let opened = |h: &&&Happening| {
            matches!(
                h,
                Happening::Transition {
                    to: StateName::Open,
                    ..
                }
            )
        };
        self.world.transitions().iter().filter(opened).count()
    }

    fn happened(&self, what: impl Fn(&Happening) -> bool) -> usize {
        let history = &self.world.store.history;
        let happenings = history.iter().flat_map(|(_, _, happenings)| happenings);
        happenings.filter(|h| what(h)).count()
    }
}

struct Case {
    name: &'static str,
    agents: usize,
    pops: usize,
    rate: f64,
    refusing: f64,
}

const CASES: [Case; 6] = [
    Case {
        name: "20 agents",
        agents: 20,
        pops: 4,
        rate: 400.0,
        refusing: 0.0,
    },
    Case {
        name: "refusing costs a third",
        agents: 20,
        pops: 4,
        rate: 400.0,
        refusing: 0.33,
    },
    Case {
        name: "4 agents",
        agents: 4,
        pops: 2,
        rate: 200.0,
        refusing: 0.1,
    },
    Case {
        name: "one agent",
        agents: 1,
        pops: 1,
        rate: 200.0,
        refusing: 0.1,
    },
    Case {
        name: "100 thin agents",
        agents: 100,
        pops: 4,
        rate: 200.0,
        refusing: 0.1,
    },
    Case {
        name: "busy",
        agents: 10,
        pops: 2,
        rate: 1500.0,
        refusing: 0.2,
    },
];

const SEEDS: u64 = 4;

/// These backends refuse everything for a moment when their capacity falls, until
/// their queue is that much shorter: at any other threshold they count as dead.
const PATIENT: f64 = 1.0;

fn scene(case: &Case, seed: u64, capacity: f64) -> Scene {
    let mut setup = Setup::even(seed, case.agents, case.pops, case.rate);
    setup.policy.overload_rate_threshold = PATIENT;
    Scene::new(setup, Backend::new(capacity * case.rate, case.refusing))
}

#[test]
fn a_backend_whose_capacity_halves_is_metered_and_serves_what_it_can() {
    for case in &CASES {
        let (mut worst_first, mut worst) = (f64::MAX, f64::MAX);
        for seed in 1..=SEEDS {
            let mut scene = scene(case, seed, 1.25);
            scene.run(20);
            assert_eq!(scene.admission(), 1.0, "{} seed {seed}", case.name);
            let half = case.rate / 2.0;
            scene.set_capacity(half);
            scene.run(10);
            worst_first = worst_first.min(scene.taken(9) / half);
            for _ in 0..6 {
                scene.run(5);
                let asked = scene.asked(5) / half;
                assert!(asked <= 1.2, "{} seed {seed}: sent {asked:.2}", case.name);
            }
            worst = worst.min(scene.taken(30) / half);
            assert_eq!(scene.trips(), 0, "{} seed {seed}", case.name);
        }
        println!(
            "{}: at worst {worst_first:.2} of what it can serve in seconds 1 to 10, \
             {worst:.2} in half a minute after",
            case.name
        );
        assert!(worst_first >= 0.8, "{}: {worst_first:.2}", case.name);
        assert!(worst >= 0.90, "{}: {worst:.2}", case.name);
    }
}

#[test]
fn when_it_takes_everything_again_everything_passes_soon_and_never_at_once() {
    for case in &CASES {
        for seed in 1..=SEEDS {
            let mut scene = scene(case, seed, 0.5);
            scene.run(30);
            let metered = scene.admission();
            assert!(metered < 0.7, "{} seed {seed}: {metered}", case.name);
            scene.set_capacity(1.5 * case.rate);
            let mut took = 0;
            while scene.admission() < 1.0 {
                let before = scene.admission();
                scene.run(1);
                took += 1;
                let rise = scene.admission() - before;
                assert!(
                    rise < 0.15,
                    "{} seed {seed}: by {rise:.2} in a second",
                    case.name
                );
                assert!(took <= 15, "{} seed {seed}: still {before:.2}", case.name);
            }
            scene.run(20);
            assert_eq!(scene.admission(), 1.0, "{} seed {seed}", case.name);
        }
    }
}

#[test]
fn a_demand_that_doubles_is_met_with_what_there_is() {
    let case = &CASES[0];
    for seed in 1..=SEEDS {
        let mut scene = scene(case, seed, 1.25);
        scene.run(20);
        for demand in [2.0, 4.0, 0.5, 2.0] {
            scene.world.setup.rate = demand * case.rate;
            scene.run(10);
            let capacity = 1.25 * case.rate;
            let wanted = (demand * case.rate).min(capacity);
            scene.run(10);
            let taken = scene.taken(10) / wanted;
            assert!(taken >= 0.9, "seed {seed}, demand {demand}: {taken:.2}");
        }
        assert_eq!(scene.trips(), 0, "seed {seed}");
    }
}

#[test]
fn a_backend_at_its_limit_is_left_alone() {
    let case = &CASES[0];
    for seed in 1..=SEEDS {
        let mut scene = scene(case, seed, 1.0);
        scene.run(120);
        let lowest = scene.world.store.history.iter();
        let lowest = lowest.filter_map(|(_, breaker, _)| breaker.throttle);
        let lowest = lowest.map(|t| t.admission).fold(1.0, f64::min);
        assert!(lowest >= 0.8, "seed {seed}: metered to {lowest:.2}");
        assert_eq!(scene.trips(), 0, "seed {seed}");
        let taken = scene.taken(120) / case.rate;
        assert!(taken >= 0.95, "seed {seed}: {taken:.2}");
    }
}

/// Refusing takes half the work of serving: at twice its capacity it does
/// nothing else.
#[test]
fn without_a_throttle_a_backend_that_works_to_refuse_flaps_and_with_one_it_serves() {
    let minutes = |metered: bool| {
        let mut setup = Setup::even(1, 20, 4, 400.0);
        setup.policy.overload_throttle = metered;
        if metered {
            setup.policy.overload_rate_threshold = PATIENT;
        }
        let mut scene = Scene::new(setup, Backend::new(500.0, 0.5));
        scene.run(20);
        scene.set_capacity(200.0);
        scene.run(180);
        (scene.taken(170) / 200.0, scene.trips())
    };
    let (bare, flaps) = minutes(false);
    let (metered, trips) = minutes(true);
    println!(
        "three minutes at half capacity: {bare:.2} of what it can serve and {flaps} trips \
         without the throttle, {metered:.2} and {trips} with it"
    );
    assert!(bare < 0.5 && flaps >= 2, "{bare:.2}, {flaps} trips");
    assert!(metered >= 0.9 && trips == 0, "{metered:.2}, {trips} trips");
}

#[test]
fn without_a_throttle_goodput_collapses_where_the_breaker_does_not_open() {
    let goodput = |metered: bool| {
        let mut setup = Setup::even(1, 20, 4, 400.0);
        setup.policy.overload_throttle = metered;
        // As long as it takes something it stays closed.
        setup.policy.overload_rate_threshold = PATIENT;
        let mut scene = Scene::new(setup, Backend::new(500.0, 0.4));
        scene.run(20);
        scene.set_capacity(200.0);
        scene.run(60);
        scene.taken(50) / 200.0
    };
    let (bare, metered) = (goodput(false), goodput(true));
    println!("goodput {bare:.2} without the throttle, {metered:.2} with it");
    assert!(bare < 0.5, "{bare:.2}");
    assert!(metered >= 0.9, "{metered:.2}");
}

#[test]
fn a_broken_path_of_one_agent_or_pop_meters_nobody_else() {
    for (broken, weight) in [(vec![7], 0.5), (vec![2, 6, 10, 14, 18], 0.25)] {
        for seed in 1..=SEEDS {
            let mut setup = Setup {
                overloads: true,
                ..Setup::even(seed, 20, 4, 400.0)
            };
            for agent in 0..20 {
                setup.weights[agent] = match broken.contains(&agent) {
                    true => weight / broken.len() as f64,
                    false => (1.0 - weight) / (20 - broken.len()) as f64,
                };
            }
            let broken = broken.clone();
            let fault = move |agent, now| match broken.contains(&agent) {
                true if now >= secs(10) => 0.6,
                _ => 0.0,
            };
            let mut world = World::new(setup, Box::new(fault));
            world.run_until(secs(40));
            let throttled = world
                .store
                .history
                .iter()
                .filter(|(_, b, _)| b.throttle.is_some());
            assert_eq!(throttled.count(), 0, "seed {seed}");
        }
    }
}

#[test]
fn a_rough_network_changes_little() {
    for seed in 1..=SEEDS {
        let setup = Setup {
            network: Network {
                delay_ms: (1, 200),
                loss: 0.05,
                duplication: 0.05,
            },
            slow: Some((0.2, 1_000)),
            ..Setup::even(seed, 20, 4, 400.0)
        };
        let mut scene = Scene::new(setup, Backend::new(500.0, 0.1));
        scene.run(20);
        scene.set_capacity(200.0);
        scene.run(60);
        let taken = scene.taken(50) / 200.0;
        assert!(taken >= 0.85, "seed {seed}: {taken:.2}");
        assert_eq!(scene.trips(), 0, "seed {seed}");
    }
}

#[test]
fn people_hear_of_it_a_few_times_and_not_of_every_step() {
    let mut scene = scene(&CASES[0], 1, 0.5);
    scene.run(60);
    scene.set_capacity(2.0 * CASES[0].rate);
    scene.run(30);
    let set = scene.happened(|h| matches!(h, Happening::ThrottleSet { .. }));
    let ended = scene.happened(|h| matches!(h, Happening::ThrottleEnded(_)));
    assert!((1..=8).contains(&set), "set {set} times");
    assert_eq!(ended, 1);
}
