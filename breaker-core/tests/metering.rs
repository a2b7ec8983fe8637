//! One backend's throttle and mix, step by step.

use std::time::Duration;

use breaker_core::{
    AgentId, Baseline, Breaker, BreakerPolicy, ByPriority, Circuit, Counts, FleetView, Load, Mix,
    Mode, PopId, PopView, Throttle, Timestamp, Verdict, Window,
    breaker::{Happening, Input, Override},
    explain,
    vantage::judge,
};

const START: Timestamp = Timestamp::from_millis(100_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Over one second: this many wanted it, were sent to it, and were taken.
fn load(wanted: u64, tried: u64, accepted: u64) -> Load {
    Load {
        span: Duration::from_secs(1),
        wanted,
        tried,
        accepted,
        confirmed: true,
        ..Load::default()
    }
}

fn calm(policy: &BreakerPolicy, now: Timestamp) -> Verdict {
    judge(&FleetView::default(), policy, Timestamp::default(), now)
}

struct Scene {
    breaker: Breaker,
    policy: BreakerPolicy,
    now: Timestamp,
}

impl Scene {
    fn new() -> Self {
        Self {
            breaker: Breaker::new(1, START),
            policy: BreakerPolicy::default(),
            now: START,
        }
    }

    /// Metered at this admission since a minute ago.
    fn metered(admission: f64) -> Self {
        let mut scene = Self::new();
        scene.breaker.throttle = Some(Throttle {
            admission,
            since: START - Duration::from_mins(1),
            changed: START - Duration::from_mins(1),
            told: admission,
        });
        scene
    }

    /// Looks after so long; what happened, and whether it is worth a commit.
    fn look(&mut self, after: Duration, load: &Load) -> (Vec<Happening>, bool) {
        self.now = self.now + after;
        let verdict = calm(&self.policy, self.now);
        let input = Input::Tick {
            verdict: &verdict,
            retry_after: None,
            jitter: 0.5,
            may_open: true,
            load: Some(load),
        };
        let step = self.breaker.step(input, &self.policy, self.now);
        let changed = step.next.is_some();
        self.breaker = step.next.unwrap_or(self.breaker.clone());
        (step.happenings, changed)
    }

    fn percent(&self) -> u32 {
        let admission = self.breaker.throttle.map_or(1.0, |t| t.admission);
        (admission * 100.0).round() as u32
    }
}

#[test]
fn a_tenth_more_than_it_takes_is_let_through() {
    let mut scene = Scene::new();
    let (happened, changed) = scene.look(ms(0), &load(400, 400, 200));
    assert_eq!((scene.percent(), changed), (55, true));
    let told = Happening::ThrottleSet {
        admission: 0.55,
        accepted: 200.0,
        wanted: 400.0,
    };
    assert!(
        matches!(&happened[..], [one] if *one == told),
        "{happened:?}"
    );
    assert_eq!(
        scene.breaker.admission(&scene.policy, None, scene.now),
        0.55
    );
    assert_eq!(
        explain::throttle("pay/us-east", 0.55, 200.0, 400.0),
        "the throttle lets 55 % through: pay/us-east took 200 of 400 requests/s"
    );
}

#[test]
fn what_is_no_overload_of_the_backend_meters_nothing() {
    let cases = [
        ("within the margin", load(400, 400, 370)),
        ("a few", load(8, 8, 4)),
        ("refused by the ramp", load(400, 100, 100)),
        ("nothing wanted", load(0, 0, 0)),
        (
            "seen by one witness alone",
            Load {
                confirmed: false,
                ..load(400, 400, 200)
            },
        ),
    ];
    for (what, load) in cases {
        let mut scene = Scene::new();
        let (happened, changed) = scene.look(ms(0), &load);
        assert!(happened.is_empty() && !changed, "{what}: {happened:?}");
    }
}

#[test]
fn it_falls_at_once_and_rises_by_ten_points_a_second_at_most() {
    let mut scene = Scene::metered(0.6);
    scene.look(ms(0), &load(400, 240, 50));
    assert_eq!(scene.percent(), 14);
    let mut scene = Scene::metered(0.6);
    let mut passed = Vec::new();
    for _ in 0..10 {
        scene.look(ms(200), &load(400, 400, 400));
        passed.push(scene.percent());
    }
    assert!(passed.windows(2).all(|p| p[1] > p[0]), "{passed:?}");
    assert!((78..=82).contains(&passed[9]), "{passed:?}");
}

#[test]
fn it_ends_when_everything_passes_and_says_for_how_long_it_was() {
    let mut scene = Scene::metered(0.99);
    let (happened, _) = scene.look(ms(0), &load(400, 396, 396));
    assert!(
        matches!(&happened[..], [Happening::ThrottleEnded(lasted)] if *lasted == Duration::from_mins(1)),
        "{happened:?}"
    );
    assert_eq!(scene.breaker.throttle, None);
}

#[test]
fn commits_are_two_hundred_milliseconds_and_a_point_apart() {
    let mut scene = Scene::new();
    scene.look(ms(0), &load(400, 400, 300));
    assert!(!scene.look(ms(199), &load(400, 400, 100)).1);
    assert!(scene.look(ms(1), &load(400, 400, 100)).1);
    let mut scene = Scene::metered(0.5);
    assert!(!scene.look(ms(0), &load(400, 200, 181)).1, "half a point");
}

#[test]
fn once_steady_its_own_share_counts_and_not_the_share_that_came_of_it() {
    // A few heavy users are let through: 70 % of the requests instead of 50 %.
    let mut scene = Scene::metered(0.5);
    scene.look(ms(0), &load(400, 280, 200));
    assert_eq!(scene.percent(), 39, "or it would never fall far enough");
    // And the other way round.
    let mut scene = Scene::metered(0.5);
    scene.look(ms(0), &load(400, 120, 120));
    assert_eq!(scene.percent(), 54, "or it would never rise");
}

#[test]
fn something_is_always_let_through() {
    let mut scene = Scene::new();
    for _ in 0..20 {
        scene.look(ms(300), &load(400, 100, 0));
    }
    assert_eq!(scene.percent(), 5);
    let mut seconds = 0;
    while scene.breaker.throttle.is_some() {
        let passed = u64::from(scene.percent());
        scene.look(
            Duration::from_secs(1),
            &load(1000, 10 * passed, 10 * passed),
        );
        seconds += 1;
        assert!(seconds < 60, "stuck at {passed} %");
    }
}

#[test]
fn only_a_closed_circuit_is_metered_and_only_where_decisions_are_made() {
    let overload = load(400, 400, 200);
    let over = |mode| Override {
        mode,
        actor: "alice".to_owned(),
        reason: "a test".to_owned(),
        created: START,
        expires: START + Duration::from_mins(1),
    };
    type Change = (&'static str, Box<dyn Fn(&mut Scene)>);
    let cases: [Change; 5] = [
        (
            "open",
            Box::new(|s| {
                s.breaker.fleet = Circuit::Open {
                    since: START,
                    until: START + Duration::from_mins(1),
                    trips: 1,
                }
            }),
        ),
        (
            "switched off",
            Box::new(|s| s.policy.overload_throttle = false),
        ),
        ("disabled", Box::new(|s| s.policy.mode = Mode::Disabled)),
        (
            "forced open",
            Box::new(move |s| s.breaker.over = Some(over(Mode::ForcedOpen))),
        ),
        (
            "forced closed",
            Box::new(move |s| s.breaker.over = Some(over(Mode::ForcedClosed))),
        ),
    ];
    for (what, change) in cases {
        let mut scene = Scene::metered(0.5);
        change(&mut scene);
        let (happened, _) = scene.look(ms(0), &overload);
        assert_eq!(scene.breaker.throttle, None, "{what}");
        assert!(
            matches!(&happened[..], [Happening::ThrottleEnded(_)]),
            "{what}: {happened:?}"
        );
    }
}

#[test]
fn in_shadow_it_is_recorded_and_everything_passes() {
    let mut scene = Scene::new();
    scene.policy.mode = Mode::Shadow;
    scene.look(ms(0), &load(400, 400, 200));
    assert_eq!(scene.percent(), 55);
    assert_eq!(scene.breaker.admission(&scene.policy, None, scene.now), 1.0);
}

#[test]
fn what_one_witness_alone_is_refused_keeps_no_throttle_up() {
    let mut scene = Scene::metered(0.5);
    let lone = Load {
        confirmed: false,
        ..load(400, 200, 182)
    };
    scene.look(ms(0), &lone);
    assert!(scene.percent() > 50, "{} %", scene.percent());
}

/// A fleet's view: POPs with agents, each with so many requests a second, of which
/// so many were refused as overload, for the last ten seconds.
fn view(pops: &[&[(u64, u64)]]) -> FleetView {
    let pops = pops.iter().enumerate().map(|(at, agents)| {
        let windows: Vec<(AgentId, Window)> = agents
            .iter()
            .enumerate()
            .map(|(agent, (requests, overloads))| {
                let mut window = Window::default();
                for ago in 0..10 {
                    let counts = Counts {
                        requests: *requests,
                        overloads: *overloads,
                        ..Counts::default()
                    };
                    window.record(START - ms(ago * 1000 + 500), counts);
                }
                let agent = AgentId::new(&format!("agent{at}-{agent}"));
                (agent.expect("a valid name"), window)
            })
            .collect();
        PopView::of_agents(
            PopId::new(&format!("pop{at}")).expect("a valid name"),
            windows.iter().map(|(agent, window)| (agent, window)),
            &BreakerPolicy::default(),
            Baseline::default(),
            Timestamp::default(),
        )
    });
    FleetView {
        pops: pops.collect(),
        ..FleetView::default()
    }
}

fn load_of(view: &FleetView, since: Timestamp) -> Load {
    let nothing = ByPriority::default();
    Load::of(view, &Window::default(), nothing, &[], since, START)
}

#[test]
fn counts_reach_back_until_they_mean_something() {
    for (requests, seconds) in [(1000, 1), (100, 1), (50, 2), (11, 10), (1, 10)] {
        let load = load_of(&view(&[&[(requests, 0)]]), Timestamp::default());
        assert_eq!(load.span, Duration::from_secs(seconds), "{requests}");
        assert_eq!(load.wanted, requests * seconds, "{requests}");
    }
    let load = load_of(&view(&[&[(11, 0)]]), START - ms(2500));
    assert_eq!((load.span, load.wanted), (ms(2500), 33), "a circuit closed");
}

#[test]
fn overload_needs_a_second_witness_where_there_is_one() {
    type Case = (&'static str, &'static [&'static [(u64, u64)]], bool);
    let cases: [Case; 6] = [
        ("the only agent", &[&[(100, 50)]], true),
        ("one of two agents", &[&[(100, 50), (10, 0)]], false),
        ("both agents", &[&[(100, 50), (10, 1)]], true),
        (
            "one of two POPs",
            &[&[(100, 50), (100, 50)], &[(10, 0)]],
            false,
        ),
        ("both POPs", &[&[(100, 50)], &[(100, 2)]], true),
        (
            "a second that hardly sees any",
            &[&[(100, 50)], &[(100, 1)]],
            false,
        ),
    ];
    for (who, pops, confirmed) in cases {
        let load = load_of(&view(pops), Timestamp::default());
        assert_eq!(load.confirmed, confirmed, "{who}");
    }
    // One that is heard first is not the only one yet.
    let mut first = Window::default();
    let counts = Counts {
        requests: 100,
        overloads: 50,
        ..Counts::default()
    };
    first.record(START, counts);
    let mut view = view(&[&[(100, 50)]]);
    view.pops[0].total = first.clone();
    view.pops[0].worst[0].window = first;
    assert!(!load_of(&view, Timestamp::default()).confirmed);
}

#[test]
fn refusals_of_the_throttle_are_wanted_and_those_of_limits_are_overloads() {
    let mut metered = Window::default();
    let refused = Counts {
        requests: 300,
        overloads: 20,
        ..Counts::default()
    };
    metered.record(START, refused);
    let load = Load::of(
        &view(&[&[(200, 10)]]),
        &metered,
        ByPriority::default(),
        &[],
        Timestamp::default(),
        START,
    );
    assert_eq!((load.wanted, load.tried, load.accepted), (500, 220, 190));
}

#[test]
fn what_a_suspect_saw_does_not_count() {
    let view = view(&[&[(100, 100), (100, 0)]]);
    let verdict = judge(
        &view,
        &BreakerPolicy::default(),
        Timestamp::default(),
        START,
    );
    let suspects = &verdict.evidence.suspects;
    assert_eq!(suspects.len(), 1, "{suspects:?}");
    let nothing = ByPriority::default();
    let window = Window::default();
    let load = Load::of(
        &view,
        &window,
        nothing,
        suspects,
        Timestamp::default(),
        START,
    );
    assert_eq!((load.wanted, load.accepted), (100, 100));
}

fn demand(rates: [f64; 4]) -> Load {
    Load {
        directed: ByPriority(rates),
        ..Load::default()
    }
}

#[test]
fn the_mix_is_committed_when_it_moved_and_not_when_chance_moved_it() {
    let mut scene = Scene::new();
    assert!(scene.look(ms(0), &demand([100.0, 0.0, 100.0, 0.0])).1);
    assert_eq!(scene.breaker.mix, Mix::of(ByPriority([1.0, 0.0, 1.0, 0.0])));
    let nearly = [104.0, 0.0, 96.0, 0.0];
    assert!(!scene.look(ms(0), &demand(nearly)).1, "two points");
    scene.breaker.throttle = Scene::metered(0.5).breaker.throttle;
    let more = [106.0, 0.0, 94.0, 0.0];
    assert!(
        scene.look(ms(0), &demand(more)).1,
        "three points, and it is shed"
    );
    let mut scene = Scene::new();
    let few = [0.5, 0.0, 1.5, 0.0];
    assert!(!scene.look(ms(0), &demand(few)).1, "5 of 20 requests");
    assert!(!scene.look(ms(0), &demand([0.0; 4])).1, "nobody asks");
}

#[test]
fn what_is_shed_is_told_lowest_first() {
    let mix = Mix::of(ByPriority([10.0, 20.0, 50.0, 20.0]));
    let cases = [
        (1.0, ""),
        (0.9, "LOW 50 %"),
        (0.6, "LOW wholly, NORMAL 40 %"),
        (
            0.05,
            "LOW wholly, NORMAL wholly, HIGH wholly, CRITICAL 50 %",
        ),
        (0.0, ""),
    ];
    for (admission, expected) in cases {
        assert_eq!(explain::shedding(mix, admission), expected, "{admission}");
    }
}
