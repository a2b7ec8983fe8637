//! The small parts: who gets a trial, what a latency's bucket is, what a
//! baseline remembers, and what a breaker does that no trace shows.

use std::time::Duration;

use breaker_core::{
    AgentId, Baseline, Breaker, BreakerPolicy, Circuit, Counts, FleetView, Mode, PopId, PopView,
    Ramp, Timestamp, TripReason, Window,
    breaker::{Input, Override, TrialCandidate, choose_trial},
    evidence::{LEARNED, Rule, score},
    histogram::{BUCKETS, bucket, middle, quantile},
    vantage::judge,
};
use proptest::prelude::*;

fn candidate(name: &str, demand: f64, idempotent: f64) -> TrialCandidate {
    let (pop, _) = name.split_once('-').expect("POP-AGENT");
    TrialCandidate {
        agent: AgentId::new(name).expect("a valid name"),
        pop: PopId::new(pop).expect("a valid name"),
        demand,
        idempotent,
    }
}

fn half_open(tried: &[&str]) -> Breaker {
    let name = |name: &&str| AgentId::new(name).expect("a valid name");
    Breaker {
        fleet: Circuit::HalfOpen {
            since: Timestamp::default(),
            trips: 1,
            last_open: Duration::from_secs(1),
            successes: 0,
            leases: Vec::new(),
            tried: tried.iter().map(name).collect(),
        },
        ..Breaker::new(1, Timestamp::default())
    }
}

#[test]
fn a_trial_goes_to_demand_then_to_fresh_pops_and_agents_then_to_idempotent_requests() {
    let all = [
        candidate("fra-1", 5.0, 5.0),
        candidate("fra-2", 9.0, 0.0),
        candidate("iad-1", 0.0, 0.0),
        candidate("sin-1", 1.0, 0.0),
        candidate("sin-2", 1.0, 0.5),
    ];
    let cases: [(&[&str], Option<&str>, &str); 6] = [
        (&[], None, "fra-1"),
        (&["fra-1"], None, "sin-2"),
        (&["fra-1", "sin-2"], None, "fra-2"),
        (&["fra-1", "sin-2", "fra-2"], None, "sin-1"),
        // Everyone had one: the one whose turn is longest ago.
        (&["fra-1", "sin-2", "fra-2", "sin-1"], None, "fra-1"),
        (&["sin-2"], Some("sin"), "none"),
    ];
    for (tried, pop, expected) in cases {
        let pop = pop.map(|pop| PopId::new(pop).expect("a valid name"));
        let chosen = choose_trial(&half_open(tried), pop.as_ref(), &all);
        let chosen = chosen.map_or("none", |c| c.agent.as_str());
        assert_eq!(chosen, expected, "after {tried:?}");
    }
}

#[test]
fn without_demand_nobody_gets_a_trial() {
    let idle = [candidate("fra-1", 0.0, 0.0), candidate("iad-1", 0.0, 0.0)];
    assert_eq!(choose_trial(&half_open(&[]), None, &idle), None);
}

#[test]
fn a_baseline_is_trusted_after_two_hundred_requests_and_stays_within_bounds() {
    let tolerated = |requests, failures, overloads| {
        let mut baseline = Baseline::default();
        baseline.learn(Counts {
            requests,
            failures,
            overloads,
            slow: 0,
        });
        let policy = BreakerPolicy::default();
        let of = |reason| Rule::new(reason, &policy, baseline).map(|rule| rule.tolerated);
        (of(TripReason::FailureRate), of(TripReason::OverloadRate))
    };
    assert_eq!(tolerated(LEARNED - 1, 0, 0), (Some(0.05), Some(0.05)));
    assert_eq!(tolerated(LEARNED, 0, 0), (Some(0.02), Some(0.02)));
    assert_eq!(tolerated(1000, 20, 30), (Some(0.06), Some(0.15)));
    assert_eq!(tolerated(1000, 500, 0), (Some(0.25), Some(0.3)));
}

#[test]
fn a_baseline_forgets() {
    let mut baseline = Baseline::default();
    let bad = Counts {
        requests: 1000,
        failures: 500,
        ..Counts::default()
    };
    baseline.learn(bad);
    for _ in 0..100 {
        baseline.learn(Counts {
            requests: 1000,
            ..Counts::default()
        });
    }
    assert!(baseline.requests <= 20_000, "{baseline:?}");
    assert!(baseline.failures * 100 < baseline.requests, "{baseline:?}");
}

#[test]
fn slow_calls_count_only_once_a_duration_is_set() {
    let mut window = Window::default();
    window.record(
        Timestamp::from_millis(1000),
        Counts {
            requests: 100,
            slow: 100,
            ..Counts::default()
        },
    );
    let mut policy = BreakerPolicy::default();
    let slow = |policy: &BreakerPolicy| {
        score(
            &window,
            TripReason::SlowCallRate,
            policy,
            Baseline::default(),
        )
    };
    assert!(!slow(&policy).failing);
    policy.slow_call_duration = Some(Duration::from_secs(1));
    assert!(slow(&policy).failing);
}

/// One agent's view of a backend that serves for a second and then refuses ten
/// requests, one each slot, but for those that `serves` says; heard up to `heard`.
fn refusing(serves: impl Fn(u64) -> bool, heard: Timestamp) -> FleetView {
    let mut window = Window::default();
    for slot in 0..60 {
        let refused = u64::from(slot >= 50 && !serves(slot));
        let counts = Counts {
            requests: 1,
            overloads: refused,
            ..Counts::default()
        };
        window.record(Timestamp::from_millis(10_000 + slot * 20), counts);
    }
    let agent = AgentId::new("a").expect("a name");
    let pop = PopId::new("fra1").expect("a name");
    let (policy, since) = (BreakerPolicy::default(), Timestamp::default());
    let seen = [(&agent, &window)].into_iter();
    let view = PopView::of_agents(pop, seen, &policy, Baseline::default(), since);
    FleetView {
        pops: vec![view.heard(vec![heard])],
        ..FleetView::default()
    }
}

#[test]
fn where_overload_is_metered_refusals_convict_once_everyone_was_heard() {
    // The first refusal was in the slot that began at 11,000 ms.
    let now = Timestamp::from_millis(11_200);
    let fails = |heard: u64, serves: fn(u64) -> bool, threshold: f64| {
        let policy = BreakerPolicy {
            overload_rate_threshold: threshold,
            ..BreakerPolicy::default()
        };
        let view = refusing(serves, Timestamp::from_millis(heard));
        judge(&view, &policy, Timestamp::default(), now).fleet
    };
    let never = |_| false;
    assert!(!fails(10_999, never, 0.9), "others may have been served");
    assert!(fails(11_020, never, 0.9), "nobody was");
    assert!(!fails(11_200, |slot| slot % 2 == 0, 0.9), "half are served");
    assert!(!fails(11_200, never, 1.0), "patient: it may be a moment");
}

#[test]
fn silence_of_a_second_means_that_nothing_was_seen() {
    let view = refusing(|_| false, Timestamp::from_millis(10_500));
    let policy = BreakerPolicy::default();
    let fails = |now| {
        judge(
            &view,
            &policy,
            Timestamp::default(),
            Timestamp::from_millis(now),
        )
        .fleet
    };
    assert!(!fails(11_900));
    assert!(fails(12_020));
}

#[test]
fn a_fifth_of_the_agents_may_be_late() {
    let at = Timestamp::from_millis;
    let view = PopView::of_agents(
        PopId::new("fra1").expect("a name"),
        std::iter::empty(),
        &BreakerPolicy::default(),
        Baseline::default(),
        Timestamp::default(),
    );
    let heard = |times: &[u64]| {
        view.clone()
            .heard(times.iter().map(|t| at(*t)).collect())
            .heard
    };
    assert_eq!(heard(&[9, 1, 8, 7, 6]), at(6), "but for one of five");
    assert_eq!(heard(&[9, 1]), at(1), "one of two is no fifth");
    assert!(heard(&[]) > at(1 << 60), "nobody has anything to add");
}

#[test]
fn nothing_seen_is_nothing_wrong() {
    let verdict = judge(
        &FleetView::default(),
        &BreakerPolicy::default(),
        Timestamp::default(),
        Timestamp::default(),
    );
    assert!(!verdict.fleet && !verdict.thin && verdict.pops.is_empty());
    assert_eq!(verdict.evidence.rule, TripReason::FailureRate);
    assert_eq!(verdict.evidence.overall.nats, 0.0);
}

#[test]
fn a_ramp_without_duration_is_over_and_one_with_ends_on_time() {
    let ramp = |duration| Ramp {
        from: 0.1,
        from_at: Timestamp::from_millis(3_000),
        duration: Duration::from_secs(duration),
    };
    assert_eq!(ramp(0).admission(Timestamp::default()), 1.0);
    let ramp = ramp(30);
    assert_eq!(ramp.admission(Timestamp::default()), 0.1);
    assert_eq!(ramp.admission(Timestamp::from_millis(3_000)), 0.1);
    assert!((ramp.admission(Timestamp::from_millis(15_000)) - 0.5).abs() < 1e-9);
    assert!(ramp.admission(Timestamp::from_millis(29_900)) < 1.0);
    assert_eq!(ramp.admission(ramp.ends()), 1.0);
}

#[test]
fn the_mode_in_force_decides_what_passes() {
    let now = Timestamp::from_millis(1000);
    let policy = BreakerPolicy::default();
    let mut breaker = half_open(&[]);
    for (mode, admission) in [
        (Mode::Enforce, 0.0),
        (Mode::Shadow, 1.0),
        (Mode::ForcedOpen, 0.0),
        (Mode::ForcedClosed, 1.0),
        (Mode::Disabled, 1.0),
    ] {
        breaker.over = Some(Override {
            mode,
            actor: "alice".to_owned(),
            reason: "a test".to_owned(),
            created: now,
            expires: now + Duration::from_secs(60),
        });
        assert_eq!(breaker.admission(&policy, None, now), admission, "{mode:?}");
        let wanted = usize::from(mode == Mode::Enforce);
        assert_eq!(breaker.wants_trial(&policy, now).len(), wanted, "{mode:?}");
    }
}

#[test]
fn an_override_that_is_over_before_it_begins_changes_nothing() {
    let now = Timestamp::from_millis(1000);
    let over = Override {
        mode: Mode::ForcedOpen,
        actor: "alice".to_owned(),
        reason: "a test".to_owned(),
        created: now,
        expires: now,
    };
    let step =
        Breaker::new(1, now).step(Input::Override(Some(over)), &BreakerPolicy::default(), now);
    assert_eq!(step.next, None);
    assert!(step.happenings.is_empty());
}

proptest! {
    #[test]
    fn a_bucket_is_off_by_less_than_a_sixtieth(micros in 0..1_u64 << 36) {
        let middle = middle(bucket(micros));
        let off = middle.abs_diff(micros) as f64;
        prop_assert!(off <= micros as f64 / 60.0, "{middle} for {micros}");
    }

    #[test]
    fn buckets_rise_and_never_run_out(micros in any::<u64>(), more in any::<u64>()) {
        let (low, high) = (micros.min(more), micros.max(more));
        prop_assert!(bucket(low) <= bucket(high));
        prop_assert!(bucket(high) < BUCKETS);
    }

    #[test]
    fn a_quantile_is_the_one_of_the_sorted_list(mut all in prop::collection::vec(0..5_000_000_u64, 1..200), q in 0.0..=1.0_f64) {
        all.sort_unstable();
        let counts = all.iter().map(|micros| (bucket(*micros), 1));
        let rank = ((all.len() as f64 * q).ceil() as usize).clamp(1, all.len());
        prop_assert_eq!(quantile(counts, q), Some(middle(bucket(all[rank - 1]))));
    }
}
