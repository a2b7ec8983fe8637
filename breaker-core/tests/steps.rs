//! Whatever happens to a breaker, in whatever order, some things hold.

use std::{collections::BTreeMap, time::Duration};

use breaker_core::{
    AgentId, Breaker, BreakerPolicy, ByPriority, Circuit, Counts, FleetView, Load, Mode, PopId,
    PopView, Timestamp, TrialLease, Verdict, Window,
    breaker::{Happening, Input, Override, StateName, TrialCandidate, TrialOutcome, choose_trial},
    vantage::judge,
};
use proptest::prelude::*;

const POPS: [&str; 3] = ["fra", "iad", "sin"];

#[derive(Debug, Clone, Copy)]
enum Weather {
    Calm,
    Silent,
    /// Every POP fails everything.
    Dead,
    /// One POP fails everything.
    DeadIn(usize),
    /// Enough to cut a ramp, not enough to open.
    Uneasy,
}

#[derive(Debug, Clone)]
enum Act {
    Wait(u64),
    Tick(Weather, bool),
    /// From now on so much of a demand of hundreds is refused as overload.
    Overload(f64),
    Grant(usize),
    Trial(usize, TrialOutcome),
    Override(Mode, u64),
    Clear,
    /// A drill ended.
    Reset,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let weather = prop_oneof![
        Just(Weather::Calm),
        Just(Weather::Silent),
        Just(Weather::Dead),
        (0..3_usize).prop_map(Weather::DeadIn),
        Just(Weather::Uneasy),
    ];
    let outcome = prop_oneof![
        Just(TrialOutcome::Succeeded),
        Just(TrialOutcome::Failed),
        Just(TrialOutcome::Returned),
    ];
    let mode = prop_oneof![
        Just(Mode::Shadow),
        Just(Mode::ForcedOpen),
        Just(Mode::ForcedClosed),
        Just(Mode::Disabled),
    ];
    let act = prop_oneof![
        4 => prop_oneof![0..300_u64, 0..10_000_u64].prop_map(Act::Wait),
        5 => (weather, prop::bool::weighted(0.9)).prop_map(|(weather, may)| Act::Tick(weather, may)),
        2 => prop_oneof![Just(0.0), 0.0..=1.0].prop_map(Act::Overload),
        4 => (0..9_usize).prop_map(Act::Grant),
        4 => (0..4_usize, outcome).prop_map(|(back, outcome)| Act::Trial(back, outcome)),
        1 => (mode, 0..20_000_u64).prop_map(|(mode, ms)| Act::Override(mode, ms)),
        1 => Just(Act::Clear),
        1 => Just(Act::Reset),
    ];
    prop::collection::vec(act, 0..120)
}

fn policies() -> impl Strategy<Value = BreakerPolicy> {
    let ramp = prop_oneof![Just(0), 1_000..20_000_u64];
    (100..5_000_u64, ramp, 1..4_u32, 1..5_u32, 1_000..20_000_u64).prop_map(
        |(open, ramp, trials, successes, timeout)| BreakerPolicy {
            open_duration: Duration::from_millis(open),
            max_open_duration: Duration::from_secs(30),
            ramp_duration: Duration::from_millis(ramp),
            half_open_max_trials: trials,
            half_open_successes: successes,
            trial_timeout: Duration::from_millis(timeout),
            ..BreakerPolicy::default()
        },
    )
}

fn pop(at: usize) -> PopId {
    PopId::new(POPS[at]).expect("a valid name")
}

fn candidates() -> Vec<TrialCandidate> {
    let of = |at: usize| TrialCandidate {
        agent: AgentId::new(&format!("{}-{}", POPS[at % 3], at / 3)).expect("a valid name"),
        pop: pop(at % 3),
        demand: 1.0,
        idempotent: 1.0,
    };
    (0..9).map(of).collect()
}

fn verdict(weather: Weather, breaker: &Breaker, policy: &BreakerPolicy, now: Timestamp) -> Verdict {
    let mut view = FleetView::default();
    for at in 0..POPS.len() {
        let (requests, failures) = match weather {
            Weather::Silent => continue,
            Weather::Calm => (20, 0),
            Weather::Dead => (20, 20),
            Weather::DeadIn(dead) => (20, if dead == at { 20 } else { 0 }),
            Weather::Uneasy => (2, 2),
        };
        let counts = Counts {
            requests,
            failures,
            ..Counts::default()
        };
        let windows: BTreeMap<AgentId, Window> = candidates()
            .into_iter()
            .filter(|c| c.pop == pop(at))
            .map(|c| {
                let mut window = Window::default();
                // The slot that holds now may begin before the last change.
                window.record(now + Duration::from_millis(20), counts);
                (c.agent, window)
            })
            .collect();
        let since = breaker.evidence_since();
        view.pops.push(PopView::of_agents(
            pop(at),
            windows.iter(),
            policy,
            view.baseline,
            since,
        ));
    }
    judge(&view, policy, breaker.evidence_since(), now)
}

struct World {
    policy: BreakerPolicy,
    breaker: Breaker,
    now: Timestamp,
    /// Every lease ever granted and not yet ended, whether or not the breaker
    /// still knows it.
    out: Vec<TrialLease>,
    granted: u64,
    wake_at: Option<Timestamp>,
    overload: f64,
}

impl World {
    fn new(policy: BreakerPolicy) -> Self {
        let now = Timestamp::from_millis(1_000_000);
        Self {
            policy,
            breaker: Breaker::new(7, now),
            now,
            out: Vec::new(),
            granted: 0,
            wake_at: None,
            overload: 0.0,
        }
    }

    /// As it comes of what the breaker lets through.
    fn load(&self) -> Load {
        let passing = self.breaker.admission(&self.policy, None, self.now);
        let tried = (400.0 * passing) as u64;
        Load {
            directed: ByPriority([10.0, 20.0, 300.0, 70.0]),
            span: Duration::from_secs(1),
            wanted: 400,
            tried,
            accepted: (tried as f64 * (1.0 - self.overload)) as u64,
            confirmed: true,
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Wait(ms) => self.now = self.now + Duration::from_millis(*ms),
            Act::Tick(weather, may_open) => self.tick(*weather, *may_open),
            Act::Overload(share) => self.overload = *share,
            Act::Grant(at) => self.grant(*at),
            Act::Trial(back, outcome) => {
                if let Some(lease) = self.out.iter().rev().nth(*back).cloned() {
                    self.end_trial(&lease.id, *outcome);
                }
            }
            Act::Override(mode, ms) => self.step(Input::Override(Some(Override {
                mode: *mode,
                actor: "alice".to_owned(),
                reason: "why not".to_owned(),
                created: self.now,
                expires: self.now + Duration::from_millis(*ms),
            }))),
            Act::Clear => self.step(Input::Override(None)),
            Act::Reset => self.reset(),
        }
    }

    fn tick(&mut self, weather: Weather, may_open: bool) {
        let verdict = verdict(weather, &self.breaker, &self.policy, self.now);
        let load = self.load();
        let tick = || Input::Tick {
            verdict: &verdict,
            retry_after: None,
            jitter: 0.3,
            may_open,
            load: Some(&load),
        };
        self.step(tick());
        let again = self.breaker.step(tick(), &self.policy, self.now);
        assert_eq!(again.next, None, "the same figures changed it twice");
    }

    fn grant(&mut self, from: usize) {
        let mut candidates = candidates();
        candidates.rotate_left(from);
        candidates.truncate(3);
        for pop in self.breaker.wants_trial(&self.policy, self.now) {
            if let Some(chosen) = choose_trial(&self.breaker, pop.as_ref(), &candidates) {
                self.granted += 1;
                let lease = TrialLease {
                    id: self.granted.to_string(),
                    agent: chosen.agent.clone(),
                    pop: chosen.pop.clone(),
                    expires: self.now + self.policy.trial_timeout,
                };
                self.step(Input::Grant { pop, lease });
            }
        }
    }

    fn end_trial(&mut self, lease: &str, outcome: TrialOutcome) {
        self.out.retain(|l| l.id != lease);
        self.step(Input::Trial {
            lease,
            outcome,
            retry_after: None,
            jitter: 0.7,
        });
    }

    /// Everything is closed, and what the drill left behind changes nothing.
    fn reset(&mut self) {
        let out = std::mem::take(&mut self.out);
        self.step(Input::Reset);
        let closed = |(_, circuit): (_, &Circuit)| *circuit == self.breaker.fleet;
        assert!(self.breaker.circuits().all(closed));
        assert_eq!(self.breaker.fleet.state(), StateName::Closed);
        assert_eq!(self.breaker.fleet.trips(), 0);
        assert_eq!(self.breaker.outstanding(self.now), 0);
        if self.breaker.mode(&self.policy) == Mode::Enforce {
            assert_eq!(self.breaker.admission(&self.policy, None, self.now), 1.0);
        }
        let reset = self.breaker.clone();
        for lease in out {
            self.end_trial(&lease.id, TrialOutcome::Failed);
        }
        assert_eq!(self.breaker, reset, "a trial from before counted");
    }

    fn step(&mut self, input: Input<'_>) {
        let step = self.breaker.step(input, &self.policy, self.now);
        let shadow = |h: &Happening| matches!(h, Happening::ShadowTrip { .. });
        match step.next {
            Some(next) => {
                assert_eq!(next.version.epoch, self.breaker.version.epoch);
                assert_eq!(next.version.revision, self.breaker.version.revision + 1);
                self.breaker = next;
            }
            None => assert!(step.happenings.iter().all(shadow), "{:?}", step.happenings),
        }
        for happening in &step.happenings {
            if let Happening::TrialGranted(lease) = happening {
                self.out.push(lease.clone());
            }
        }
        assert!(
            step.wake_at.is_none_or(|at| at > self.now),
            "{:?} at {}",
            step.wake_at,
            self.now
        );
        self.wake_at = step.wake_at;
        self.check();
    }

    fn check(&mut self) {
        let (breaker, policy, now) = (&self.breaker, &self.policy, self.now);
        self.out.retain(|lease| lease.expires > now);
        let most = policy.half_open_max_trials as usize;
        assert!(
            self.out.len() <= most,
            "{} trials are out: {:?}",
            self.out.len(),
            self.out
        );
        assert!(
            breaker.outstanding(now) <= self.out.len(),
            "a lease that nobody got"
        );
        for pop in [None, Some(pop(0)), Some(pop(1)), Some(pop(2))] {
            let admission = breaker.admission(policy, pop.as_ref(), now);
            assert!((0.0..=1.0).contains(&admission), "{admission}");
            let half_open = breaker.state(policy, pop.as_ref()) == StateName::HalfOpen;
            let enforced = breaker.mode(policy) == Mode::Enforce;
            assert!(
                admission == 0.0 || !half_open || !enforced,
                "HALF_OPEN lets {admission} through"
            );
        }
        if let Some(throttle) = breaker.throttle {
            let share = throttle.admission;
            assert!(share > 0.0 && share < 1.0, "{throttle:?}");
        }
        let fleet_open = breaker.fleet.state() == StateName::Open;
        assert!(
            !fleet_open || breaker.pops.is_empty(),
            "POP circuits under an open fleet"
        );
        for (_, circuit) in breaker.circuits() {
            if let Circuit::Open { since, until, .. } = circuit {
                assert!(until > since, "{circuit:?}");
            }
        }
    }

    /// With demand, a healthy backend and nothing else, it ends in full
    /// admission: within how long?
    fn heals_within(&mut self, limit: Duration) {
        let start = self.now;
        self.overload = 0.0;
        loop {
            self.tick(Weather::Calm, true);
            self.grant(0);
            self.grant(3);
            self.grant(6);
            for lease in self.out.clone() {
                self.end_trial(&lease.id, TrialOutcome::Succeeded);
            }
            let healed = self.breaker.pops.is_empty() && self.breaker.fleet.trips() == 0;
            let admission = self.breaker.admission(&self.policy, None, self.now);
            if healed && admission == 1.0 && self.breaker.over.is_none() {
                return;
            }
            assert!(self.now.since(start) < limit, "still {:?}", self.breaker);
            // As a driver would: at the deadline, or when an answer is due.
            let soon = self.now + Duration::from_millis(500);
            self.now = self.wake_at.map_or(soon, |at| at.min(soon));
        }
    }
}

/// Enough for every pair of acts in every state many times over; seconds in all.
const CASES: u32 = 2000;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn whatever_happens_the_promises_hold_and_it_heals(policy in policies(), acts in acts()) {
        let mut world = World::new(policy);
        for act in &acts {
            world.act(act);
        }
        // The longest override, open period with jitter, leases that are still
        // out, trials, ramp, and three times the longest open period of good
        // traffic to forget trips by.
        world.heals_within(Duration::from_secs(20 + 36 + 20 + 10 + 20 + 3 * 60));
    }
}
