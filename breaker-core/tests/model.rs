//! Windows, scores and verdicts against a naive model that keeps every event in
//! a `Vec` and knows no ring, no sums and no differences.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::{collections::BTreeSet, time::Duration};

use breaker_core::{
    AgentId, Baseline, BreakerPolicy, Counts, FleetView, PopId, PopView, Timestamp, TripReason,
    Verdict, Window,
    evidence::{CONFIRM_SCORE, CONVICT_SCORE, LEAN_SCORE, score},
    vantage::judge,
};
use proptest::prelude::*;

/// One request: who, where, when, and whether it failed.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pop: usize,
    agent: usize,
    at_ms: u64,
    failed: bool,
}

const NOW: Timestamp = Timestamp::from_millis(20_000);
const WINDOW: Duration = Duration::from_secs(10);

/// Bursts, so that evidence gathers; failures more likely for some agents.
fn events() -> impl Strategy<Value = Vec<Seen>> {
    let one = (0..3_usize, 0..3_usize, 0..5_000_u64, 0..10_u8, 1..6_usize);
    let agent_health = prop::collection::vec(0..=10_u8, 9);
    (prop::collection::vec(one, 0..60), agent_health).prop_map(|(bursts, health)| {
        let mut events = Vec::new();
        for (pop, agent, back, luck, n) in bursts {
            // Denser towards now.
            let at_ms = NOW.as_millis() - back * back / 2_500;
            let failed = luck < health[pop * 3 + agent];
            events.extend(vec![
                Seen {
                    pop,
                    agent,
                    at_ms,
                    failed
                };
                n
            ]);
        }
        events
    })
}

fn counts(failed: bool) -> Counts {
    Counts {
        requests: 1,
        failures: u64::from(failed),
        ..Counts::default()
    }
}

fn window<'a>(events: impl IntoIterator<Item = &'a Seen>) -> Window {
    let mut window = Window::default();
    for seen in events {
        window.record(Timestamp::from_millis(seen.at_ms), counts(seen.failed));
    }
    window
}

fn learned() -> Baseline {
    Baseline {
        requests: 1000,
        failures: 10,
        overloads: 0,
    }
}

mod naive {
    use super::*;

    /// Start of the slot that an event counts in, once the window was compacted.
    pub(super) fn slot(at_ms: u64) -> u64 {
        let hundred = at_ms / 100 * 100;
        let old = hundred + 100 <= NOW.as_millis() - 1000;
        if old { hundred } else { at_ms / 20 * 20 }
    }

    pub(super) fn kept(seen: &Seen) -> bool {
        seen.at_ms / 100 * 100 + 100 > (NOW - WINDOW).as_millis()
    }

    /// (failing, nats) by every possible onset, with p0 = 3 % and p1 = 50 %.
    pub(super) fn score(events: &[Seen], bar: f64, volume: usize) -> (bool, f64) {
        let mut best = (false, 0.0);
        let onsets: BTreeSet<u64> = events.iter().map(|seen| slot(seen.at_ms)).collect();
        for onset in onsets {
            let since: Vec<_> = events.iter().filter(|s| slot(s.at_ms) >= onset).collect();
            let bad = since.iter().filter(|s| s.failed).count();
            let good = since.len() - bad;
            let nats = bad as f64 * (0.5_f64 / 0.03).ln() + good as f64 * (0.5_f64 / 0.97).ln();
            let failing = nats >= bar && bad >= good && since.len() >= volume;
            if (failing, nats) > best {
                best = (failing, nats);
            }
        }
        best
    }

    fn without(events: &[Seen], left_out: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        events
            .iter()
            .filter(|seen| !left_out(seen))
            .copied()
            .collect()
    }

    pub(super) struct Pop {
        pub(super) score: (bool, f64),
        pub(super) failing: bool,
        trusted: Vec<Seen>,
    }

    fn weakest(scores: impl Iterator<Item = (bool, f64)>) -> Option<(bool, f64)> {
        scores.min_by(|a, b| a.partial_cmp(b).unwrap())
    }

    pub(super) fn pop(events: &[Seen]) -> Pop {
        let all = score(events, CONVICT_SCORE, 5);
        let agents: BTreeSet<usize> = events.iter().map(|s| s.agent).collect();
        if agents.len() == 1 {
            return Pop {
                score: all,
                failing: all.0,
                trusted: events.to_vec(),
            };
        }
        let confirm =
            |agent: usize| score(&without(events, |s| s.agent == agent), CONFIRM_SCORE, 4);
        let left = weakest(agents.iter().map(|agent| confirm(*agent))).expect("two agents");
        // Of agents whose loss weakens the case equally, the loudest is the suspect.
        let own = |agent: usize| score(&without(events, |s| s.agent != agent), CONVICT_SCORE, 5);
        let suspect = agents
            .iter()
            .filter(|agent| confirm(**agent) == left && own(**agent).0 && !left.0)
            .max_by(|a, b| own(**a).partial_cmp(&own(**b)).unwrap().then(b.cmp(a)));
        let trusted = match suspect {
            Some(suspect) => without(events, |s| s.agent == *suspect),
            None => events.to_vec(),
        };
        Pop {
            score: left,
            failing: left.0 && all.0,
            trusted,
        }
    }

    /// (fleet, failing POPs).
    pub(super) fn judge(events: &[Seen]) -> (bool, Vec<usize>) {
        let active: BTreeSet<usize> = events.iter().map(|seen| seen.pop).collect();
        let pops: Vec<(usize, Pop)> = active
            .iter()
            .map(|pop| (*pop, self::pop(&without(events, |seen| seen.pop != *pop))))
            .collect();
        let failing: Vec<usize> = pops
            .iter()
            .filter(|(_, p)| p.failing)
            .map(|(at, _)| *at)
            .collect();
        if let [(_, only)] = &pops[..] {
            return (only.failing, if only.failing { vec![] } else { failing });
        }
        let votes = pops
            .iter()
            .filter(|(_, p)| p.score.1 >= LEAN_SCORE.min((0.5_f64 / 0.03).ln()))
            .count();
        let trusted: Vec<Seen> = pops.iter().flat_map(|(_, p)| p.trusted.clone()).collect();
        let left = pops.iter().map(|(_, pop)| {
            let rest = pops.iter().filter(|(_, other)| !std::ptr::eq(other, pop));
            let rest: Vec<Seen> = rest.flat_map(|(_, p)| p.trusted.clone()).collect();
            score(&rest, CONFIRM_SCORE, 4)
        });
        let confirmed = weakest(left).is_some_and(|(failing, _)| failing);
        let needed = 2.max(pops.len().div_ceil(2));
        let fleet = votes >= needed && confirmed && score(&trusted, CONVICT_SCORE, 5).0;
        (fleet, if fleet { vec![] } else { failing })
    }
}

/// Both rules in force are the same, so that the model needs one.
fn policy() -> BreakerPolicy {
    BreakerPolicy {
        overload_rate_threshold: 0.5,
        overload_throttle: false,
        ..BreakerPolicy::default()
    }
}

fn agent(pop: usize, agent: usize) -> AgentId {
    AgentId::new(&format!("pop{pop}-agent{agent}")).unwrap()
}

fn pop_id(pop: usize) -> PopId {
    PopId::new(&format!("pop{pop}")).unwrap()
}

/// The view of one replica that serves the agents `serves` says.
fn view(events: &[Seen], serves: impl Fn(&Seen) -> bool) -> FleetView {
    let mut view = FleetView {
        baseline: learned(),
        ..FleetView::default()
    };
    for pop in 0..3 {
        let windows: Vec<(AgentId, Window)> = (0..3)
            .map(|a| {
                let mine = events
                    .iter()
                    .filter(|s| s.pop == pop && s.agent == a && serves(s));
                let mut window = window(mine);
                window.compact(NOW, WINDOW);
                (agent(pop, a), window)
            })
            .collect();
        let agents = windows.iter().map(|(agent, window)| (agent, window));
        view.pops.push(PopView::of_agents(
            pop_id(pop),
            agents,
            &policy(),
            learned(),
            Timestamp::default(),
        ));
    }
    view
}

fn judged(view: &FleetView) -> Verdict {
    judge(view, &policy(), Timestamp::default(), NOW)
}

/// Enough that a bug in any one comparison of the scan or the vantage rule is
/// found; a second in all.
const CASES: u32 = 1000;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn a_window_counts_what_a_list_counts(
        mut events in events(),
        split in 0..60_usize,
        since in 0..200_u64,
    ) {
        let split = split.min(events.len());
        let mut sum = window(&events[..split]);
        // One half is compacted before the other is added.
        sum.compact(NOW, WINDOW);
        sum.merge(&window(&events[split..]));
        sum.compact(NOW, WINDOW);
        events.retain(naive::kept);

        let since = Timestamp::from_millis(NOW.as_millis() - since * 100);
        let expected = events.iter().filter(|s| s.at_ms >= since.as_millis());
        let mut total = Counts::default();
        expected.for_each(|seen| total += counts(seen.failed));
        prop_assert_eq!(sum.total_since(since), total);

        let indexes: Vec<u64> = sum.slots().map(|(index, _)| index).collect();
        prop_assert!(indexes.is_sorted_by(|a, b| a < b), "{:?}", indexes);
        prop_assert!(sum.slots().len() <= 51 + 92, "{} slots", sum.slots().len());
    }

    #[test]
    fn what_is_added_can_be_taken_away(events in events()) {
        let (ours, theirs): (Vec<Seen>, Vec<Seen>) = events.iter().partition(|s| s.agent == 0);
        let (ours, theirs) = (window(&ours), window(&theirs));
        let mut sum = ours.clone();
        sum.merge(&theirs);
        prop_assert_eq!(sum.without(&theirs), ours);
    }

    #[test]
    fn a_score_is_the_best_of_every_onset(mut events in events()) {
        let mut window = window(&events);
        window.compact(NOW, WINDOW);
        events.retain(naive::kept);
        let policy = BreakerPolicy::default();
        let ours = score(&window, TripReason::FailureRate, &policy, learned());
        let (failing, nats) = naive::score(&events, CONVICT_SCORE, 5);
        prop_assert_eq!(ours.failing, failing);
        prop_assert!((ours.nats - nats).abs() < 1e-9, "{} is not {}", ours.nats, nats);
    }

    #[test]
    fn a_verdict_is_the_naive_one(mut events in events()) {
        let verdict = judged(&view(&events, |_| true));
        events.retain(naive::kept);
        let (fleet, pops) = naive::judge(&events);
        prop_assert_eq!(verdict.fleet, fleet);
        let pops: Vec<PopId> = pops.into_iter().map(pop_id).collect();
        prop_assert_eq!(verdict.pops, pops);
    }

    #[test]
    fn replicas_that_merge_in_any_order_judge_alike(events in events()) {
        let one = view(&events, |s| s.agent == 0);
        let two = view(&events, |s| s.agent != 0);
        let mut forth = one.clone();
        forth.merge(&two);
        let mut back = two;
        back.merge(&one);
        prop_assert_eq!(judged(&forth), judged(&back));
    }

    #[test]
    fn one_broken_agent_convicts_nobody(mut events in events(), broken in (0..3_usize, 0..3_usize)) {
        for seen in &mut events {
            seen.failed = (seen.pop, seen.agent) == broken;
        }
        let others = events.iter().any(|s| s.pop == broken.0 && s.agent != broken.1 && naive::kept(s));
        prop_assume!(others);
        let verdict = judged(&view(&events, |_| true));
        prop_assert!(!verdict.fleet);
        prop_assert_eq!(verdict.pops, vec![]);
        // Nor when its reports come through two replicas, as after a move.
        let mut moved = view(&events, |s| s.at_ms % 2 == 0);
        moved.merge(&view(&events, |s| s.at_ms % 2 == 1));
        let verdict = judged(&moved);
        prop_assert!(!verdict.fleet);
        prop_assert_eq!(verdict.pops, vec![]);
    }

    #[test]
    fn one_broken_pop_never_convicts_the_fleet(mut events in events(), broken in 0..3_usize) {
        for seen in &mut events {
            seen.failed = seen.pop == broken;
        }
        let others = events.iter().any(|s| s.pop != broken && naive::kept(s));
        prop_assume!(others);
        prop_assert!(!judged(&view(&events, |_| true)).fleet);
    }

    #[test]
    fn absurd_counts_and_policies_are_survived(
        requests in any::<u64>(), failures in any::<u64>(), overloads in any::<u64>(), slow in any::<u64>(),
        threshold in 0.0001..=1.0_f64, baseline in any::<(u64, u64, u64)>(),
    ) {
        let mut window = Window::default();
        for at in [NOW, NOW, NOW - Duration::from_secs(5), Timestamp::from_millis(u64::MAX)] {
            window.record(at, Counts { requests, failures, overloads, slow });
        }
        let (requests, failures, overloads) = baseline;
        let policy = BreakerPolicy {
            failure_rate_threshold: threshold,
            overload_rate_threshold: threshold,
            slow_call_rate_threshold: threshold,
            slow_call_duration: Some(Duration::from_secs(1)),
            ..BreakerPolicy::default()
        };
        let mut baseline = Baseline::default();
        baseline.learn(Counts { requests, failures, overloads, slow });
        for rule in TripReason::RATES {
            let score = score(&window, rule, &policy, baseline);
            prop_assert!(score.nats.is_finite() && score.nats >= 0.0, "{:?}", score);
            prop_assert!(score.bad <= score.requests, "{:?}", score);
        }
        window.compact(NOW, WINDOW);
        prop_assert!(window.slots().all(|(index, _)| index <= 30_000 / 20));
    }
}
