//! A candidate on scripted figures.

use std::time::Duration;

use breaker_core::{
    AgentId, BreakerPolicy, Counts, Mode, PopId, PopView, Timestamp, TripReason, Window,
    breaker::StateName, evidence::Baseline,
};

use super::{Beside, EPISODES, Samples};
use crate::store::ReplicaView;

const TICK: Duration = Duration::from_millis(100);

fn policy() -> BreakerPolicy {
    BreakerPolicy {
        mode: Mode::Shadow,
        open_duration: Duration::from_secs(2),
        max_open_duration: Duration::from_secs(2),
        ramp_duration: Duration::ZERO,
        ..BreakerPolicy::default()
    }
}

/// A backend with two agents in one POP, and the candidate beside it.
struct Scene {
    now: Timestamp,
    windows: [Window; 2],
    beside: Beside,
    policy: BreakerPolicy,
    room: f64,
    flowing: bool,
}

impl Scene {
    fn new(policy: BreakerPolicy) -> Self {
        let now = Timestamp::from_millis(1_000_000);
        Self {
            now,
            windows: Default::default(),
            beside: Beside::new(now),
            policy,
            room: 150.0,
            flowing: true,
        }
    }

    /// 200 requests a second want the backend; some of those that reach it fail.
    fn run(&mut self, lasting: Duration, failing: bool) {
        for _ in 0..lasting.as_millis() / TICK.as_millis() {
            self.now = self.now + TICK;
            for window in &mut self.windows {
                let requests = if self.flowing { 10 } else { 0 };
                let counts = Counts {
                    requests,
                    failures: if failing { requests } else { 0 },
                    ..Counts::default()
                };
                window.record(self.now, counts);
                window.compact(self.now, self.policy.window);
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let agents = ["a", "b"].map(|name| AgentId::new(name).expect("a valid name"));
        let view = PopView::of_agents(
            PopId::new("fra1").expect("a valid name"),
            agents.iter().zip(&self.windows),
            &self.policy,
            Baseline::default(),
            Timestamp::default(),
        );
        let mut figures = ReplicaView {
            demand_milli: 200_000,
            ..ReplicaView::default()
        };
        figures.fleet.pops.push(view);
        let samples = Samples {
            figures: &figures,
            flowing: self.flowing,
            room: self.room,
            jitter: 0.5,
        };
        self.beside.look(&samples, &self.policy, self.now);
    }
}

#[test]
fn calm_traffic_is_no_episode() {
    let mut scene = Scene::new(policy());
    scene.run(Duration::from_secs(30), false);
    assert_eq!(scene.beside.total(), (0, 0.0));
    assert_eq!(scene.beside.state(), StateName::Closed);
}

#[test]
fn an_outage_is_an_episode_with_its_reason_and_what_it_would_have_cost() {
    let mut scene = Scene::new(policy());
    scene.run(Duration::from_secs(5), false);
    let began = scene.now;
    scene.run(Duration::from_secs(5), true);
    assert_eq!(scene.beside.state(), StateName::Open);
    scene.run(Duration::from_secs(10), false);
    let episodes: Vec<_> = scene.beside.episodes().collect();
    let [episode] = episodes[..] else {
        panic!("one outage is one episode: {episodes:?}");
    };
    assert_eq!(episode.reason, TripReason::FailureRate);
    assert!(began.until(episode.opened) <= Duration::from_secs(1));
    let closed = episode.closed.expect("it is over");
    let open = episode.opened.until(closed).as_secs_f64();
    assert!(
        (4.0..=8.0).contains(&open),
        "open for {open} s of an outage of 5 s"
    );
    let expected = 200.0 * open;
    assert!(
        (episode.rejected - expected).abs() <= 1e-6 * expected,
        "{} of {expected}",
        episode.rejected
    );
    assert_eq!(episode.moved, 150.0, "as much as there is room for");
    assert_eq!(scene.beside.total(), (1, episode.rejected));
}

#[test]
fn where_there_is_room_for_all_all_of_the_demand_would_have_moved() {
    let mut scene = Scene::new(policy());
    scene.room = f64::INFINITY;
    scene.run(Duration::from_secs(3), true);
    let moved: Vec<_> = scene.beside.episodes().map(|e| e.moved).collect();
    assert_eq!(moved, [200.0]);
}

#[test]
fn a_stricter_threshold_does_not_open_where_it_is_not_reached() {
    let lenient = BreakerPolicy {
        min_request_volume: 1_000_000,
        ..policy()
    };
    let mut scene = Scene::new(lenient);
    scene.run(Duration::from_secs(20), true);
    assert_eq!(scene.beside.total(), (0, 0.0));
}

#[test]
fn while_the_live_one_is_open_silence_is_no_recovery() {
    let mut scene = Scene::new(policy());
    scene.run(Duration::from_secs(2), true);
    assert_eq!(scene.beside.state(), StateName::Open);
    scene.flowing = false;
    scene.run(Duration::from_secs(60), false);
    assert_eq!(scene.beside.state(), StateName::Open, "nobody can tell");
    scene.flowing = true;
    scene.run(Duration::from_secs(5), false);
    assert_eq!(scene.beside.state(), StateName::Closed);
}

#[test]
fn the_oldest_episodes_are_dropped_and_still_counted() {
    let mut scene = Scene::new(policy());
    for _ in 0..EPISODES + 5 {
        scene.run(Duration::from_secs(1), true);
        scene.run(Duration::from_secs(20), false);
    }
    assert_eq!(scene.beside.episodes().len(), EPISODES);
    let (count, rejected) = scene.beside.total();
    assert_eq!(count, EPISODES + 5);
    let kept: f64 = scene.beside.episodes().map(|e| e.rejected).sum();
    assert!(rejected > kept);
}
