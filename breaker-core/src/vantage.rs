//! Who may convict a backend: evidence must survive the loss of its worst
//! witness, in each POP and over the fleet.
//!
//! One agent that carries most of the traffic over a broken uplink trips every
//! plain ratio. So each POP is judged without the agent whose loss weakens the
//! case most, and the fleet without the POP whose loss does; a lone accuser is a
//! suspect, and its samples leave the fleet's sums.

use std::borrow::Cow;

use crate::{
    evidence::{Baseline, Evidence, PopEvidence, Rule, Score, Suspect},
    ids::{AgentId, PopId},
    policy::BreakerPolicy,
    time::Timestamp,
    window::{Counts, FINE, Window},
};

/// One agent's own window, kept apart so that it can be left out of a sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Witness {
    /// The agent.
    pub agent: AgentId,
    /// What it saw.
    pub window: Window,
}

/// What one replica knows of one backend from one POP. Views of replicas add up.
///
/// `total` and the witnesses' windows are made from the same slots; whoever
/// compacts one compacts all, so that a witness can be subtracted exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct PopView {
    /// The POP.
    pub pop: PopId,
    /// Agents with traffic in the window.
    pub agents: u32,
    /// Sum over all its agents.
    pub total: Window,
    /// The worst agents by each rule, at most one for each rule and replica. An
    /// agent that moved between replicas is one witness with both windows.
    pub worst: Vec<Witness>,
    /// Up to when it is complete, but for a fifth of its agents: see
    /// [`PopView::heard`].
    pub heard: Timestamp,
}

impl PopView {
    /// From every agent's window. The worst are those by evidence since `since`,
    /// see `Breaker::evidence_since`.
    pub fn of_agents<'a>(
        pop: PopId,
        agents: impl Iterator<Item = (&'a AgentId, &'a Window)>,
        policy: &BreakerPolicy,
        baseline: Baseline,
        since: Timestamp,
    ) -> Self {
        let agents: Vec<_> = agents.filter(|(_, window)| !window.is_empty()).collect();
        let mut view = Self {
            pop,
            agents: agents.len().try_into().unwrap_or(u32::MAX),
            total: Window::default(),
            worst: Vec::new(),
            heard: Timestamp::from_millis(u64::MAX),
        };
        for (_, window) in &agents {
            view.total.merge(window);
        }
        let mut accused: Vec<(&AgentId, &Window)> = Rule::all(policy, baseline)
            .iter()
            .filter_map(|rule| worst_by(rule, &view.total, &agents, since))
            .collect();
        accused.sort_by_key(|(agent, _)| *agent);
        accused.dedup_by_key(|(agent, _)| *agent);
        // A lone agent is named even without a bad outcome: when it moves to
        // another replica, its successes there must not speak against itself.
        if let [alone] = agents[..] {
            accused = vec![alone];
        }
        view.worst = accused
            .into_iter()
            .map(|(agent, window)| Witness {
                agent: agent.clone(),
                window: window.clone(),
            })
            .collect();
        view
    }

    /// Notes when its agents with traffic were heard last. Without this, nobody
    /// has anything to add. A fifth of them may be late: one that hangs must not
    /// keep the others from being believed.
    #[must_use]
    pub fn heard(mut self, mut times: Vec<Timestamp>) -> Self {
        times.sort_unstable();
        let heard = times.get(times.len() / 5);
        self.heard = heard.copied().unwrap_or(self.heard);
        self
    }

    fn merge(&mut self, other: &Self) {
        self.agents = self.agents.saturating_add(other.agents);
        self.heard = self.heard.min(other.heard);
        self.total.merge(&other.total);
        for witness in &other.worst {
            match self.worst.iter_mut().find(|w| w.agent == witness.agent) {
                Some(mine) => mine.window.merge(&witness.window),
                None => self.worst.push(witness.clone()),
            }
        }
        self.worst.sort_by(|a, b| a.agent.cmp(&b.agent));
    }
}

/// The agent whose loss weakens the case most; of equals the one that accuses
/// most, then the first by name.
fn worst_by<'a>(
    rule: &Rule,
    total: &Window,
    agents: &[(&'a AgentId, &'a Window)],
    since: Timestamp,
) -> Option<(&'a AgentId, &'a Window)> {
    agents
        .iter()
        .map(|(agent, window)| (rule.score(window, since), *agent, *window))
        .filter(|(own, ..)| own.bad > 0)
        .map(|(own, agent, window)| (rule.score_without(total, window, since), own, agent, window))
        .min_by(|(left_a, own_a, a, _), (left_b, own_b, b, _)| {
            left_a
                .cmp_strength(left_b)
                .then(own_b.cmp_strength(own_a))
                .then(a.cmp(b))
        })
        .map(|(_, _, agent, window)| (agent, window))
}

/// What is known of one backend.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetView {
    /// One entry for each POP.
    pub pops: Vec<PopView>,
    /// Rates of calm times.
    pub baseline: Baseline,
    /// Agents known in the last minute.
    pub agents_known: u32,
    /// Of those, reporting.
    pub agents_reporting: u32,
}

impl FleetView {
    /// Adds another replica's view.
    pub fn merge(&mut self, other: &Self) {
        for view in &other.pops {
            match self.pops.iter_mut().find(|p| p.pop == view.pop) {
                Some(mine) => mine.merge(view),
                None => self.pops.push(view.clone()),
            }
        }
        self.pops.sort_by(|a, b| a.pop.cmp(&b.pop));
        self.baseline.add(other.baseline);
        self.agents_known = self.agents_known.saturating_add(other.agents_known);
        self.agents_reporting = self.agents_reporting.saturating_add(other.agents_reporting);
    }
}

/// What the evidence says.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The evidence, convicted or not.
    pub evidence: Evidence,
    /// The backend fails for the fleet.
    pub fleet: bool,
    /// POPs it fails for, when not for the fleet.
    pub pops: Vec<PopId>,
    /// It fails for the fleet, but coverage is too thin to act on that.
    pub thin: bool,
    /// Requests completed fleet-wide in the last second, without suspects, and
    /// how many of them were bad: what a closing or ramping breaker lives on.
    pub recent: Counts,
    /// The same since `since`: what trips are forgotten for.
    pub seen: Counts,
}

/// Judges one backend by what was seen since `since` (see
/// `Breaker::evidence_since`), at most `policy.window` ago.
pub fn judge(
    view: &FleetView,
    policy: &BreakerPolicy,
    since: Timestamp,
    now: Timestamp,
) -> Verdict {
    let since = since.max(now - policy.window);
    // The rule that convicts most decides; of equals the first.
    Rule::all(policy, view.baseline)
        .iter()
        .map(|rule| (rule, judge_by(rule, view, policy, since, now)))
        .reduce(|a, b| if weight(&b) > weight(&a) { b } else { a })
        .map(|(_, verdict)| verdict)
        .expect("failures and overloads are always judged")
}

fn weight((rule, verdict): &(&Rule, Verdict)) -> (bool, bool, usize, usize, bool) {
    let Evidence {
        suspects, overall, ..
    } = &verdict.evidence;
    let leans = overall.nats >= rule.lean();
    (
        verdict.fleet,
        verdict.thin,
        verdict.pops.len(),
        suspects.len(),
        leans,
    )
}

fn judge_by(
    rule: &Rule,
    view: &FleetView,
    policy: &BreakerPolicy,
    since: Timestamp,
    now: Timestamp,
) -> Verdict {
    let active: Vec<&PopView> = view
        .pops
        .iter()
        .filter(|p| p.total.total_since(since).requests > 0)
        .collect();
    let heard = active.iter().map(|pop| pop.heard).min();
    let rule = &rule.known_until(heard.unwrap_or(now), now);
    let judged: Vec<PopJudged<'_>> = active
        .iter()
        .map(|pop| PopJudged::new(&rule.known_until(pop.heard, now), pop, since))
        .collect();

    let mut sum = Window::default();
    for pop in &judged {
        sum.merge(&pop.trusted);
    }
    let votes = judged.iter().filter(|p| p.evidence.votes_failing).count();
    let needed = votes_needed(judged.len(), policy.quorum);
    let score = match &judged[..] {
        [only] => only.evidence.score,
        _ => weakest(
            judged
                .iter()
                .map(|p| rule.score_without(&sum, &p.trusted, since)),
        ),
    };
    let coverage = coverage(view);
    let convicted = match &judged[..] {
        [only] => only.evidence.failing,
        _ => score.failing && votes >= needed && rule.score(&sum, since).failing,
    };
    let thin = convicted && coverage < policy.min_coverage;
    let fleet = convicted && !thin;
    let mut overall = Window::default();
    for pop in &active {
        overall.merge(&pop.total);
    }

    let suspects = judged.iter().filter_map(|p| p.suspect.clone()).collect();
    let mut pops: Vec<PopEvidence> = judged.into_iter().map(|p| p.evidence).collect();
    let failing = pops.iter().filter(|p| p.failing && !fleet);
    let failing = failing.map(|p| p.pop.clone()).collect();
    pops.sort_by(|a, b| {
        let order = b.score.cmp_strength(&a.score);
        order.then_with(|| a.pop.cmp(&b.pop))
    });
    Verdict {
        fleet,
        pops: failing,
        thin,
        recent: sum.total_since(since.max(now - FINE)),
        seen: sum.total_since(since),
        evidence: Evidence {
            rule: rule.reason,
            score,
            overall: rule.score(&overall, since),
            tolerated: rule.tolerated,
            intolerable: rule.intolerable,
            pops_active: active.len().try_into().unwrap_or(u32::MAX),
            pops_failing: votes.try_into().unwrap_or(u32::MAX),
            pops_needed: needed.try_into().unwrap_or(u32::MAX),
            pops,
            suspects,
            coverage,
        },
    }
}

/// One POP by one rule.
struct PopJudged<'a> {
    evidence: PopEvidence,
    suspect: Option<Suspect>,
    /// Its samples without the suspect's.
    trusted: Cow<'a, Window>,
}

impl<'a> PopJudged<'a> {
    fn new(rule: &Rule, view: &'a PopView, since: Timestamp) -> Self {
        let everyone = view.total.total_since(since).requests;
        let others = |w: &Witness| everyone.saturating_sub(w.window.total_since(since).requests);
        let worst = view
            .worst
            .iter()
            .map(|w| (rule.score_without(&view.total, &w.window, since), w))
            .min_by(|(a, _), (b, _)| a.cmp_strength(b));
        // Where only one agent has traffic, its evidence is all there is.
        let (score, left_out) = match worst {
            Some((without, w)) if others(w) > 0 => (without, Some(w)),
            _ => (rule.score(&view.total, since), None),
        };
        let votes_failing = score.nats >= rule.lean();
        let suspect = left_out
            .filter(|_| !score.failing)
            .map(|w| (w, rule.score(&w.window, since)))
            .filter(|(_, own)| own.failing);
        let trusted = match suspect {
            Some((w, _)) => Cow::Owned(view.total.without(&w.window)),
            None => Cow::Borrowed(&view.total),
        };
        Self {
            evidence: PopEvidence {
                pop: view.pop.clone(),
                score,
                agents: view.agents,
                votes_failing,
                failing: score.failing && rule.score(&view.total, since).failing,
                left_out: left_out.map(|w| w.agent.clone()),
            },
            suspect: suspect.map(|(w, score)| Suspect {
                agent: w.agent.clone(),
                pop: view.pop.clone(),
                score,
            }),
            trusted,
        }
    }
}

/// Votes for the fleet: a share of the POPs with traffic, but never one alone
/// where there are others.
fn votes_needed(active: usize, quorum: f64) -> usize {
    match active {
        0 | 1 => 1,
        _ => ((quorum * active as f64).ceil() as usize).max(2),
    }
}

fn coverage(view: &FleetView) -> f64 {
    match view.agents_known {
        0 => 1.0,
        known => (f64::from(view.agents_reporting) / f64::from(known)).min(1.0),
    }
}

/// The score that is left when the worst witness is left out.
fn weakest(scores: impl Iterator<Item = Score>) -> Score {
    scores.min_by(Score::cmp_strength).unwrap_or_default()
}
