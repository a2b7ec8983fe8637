//! Windowed quickest detection: Page's CUSUM written as a scan over every
//! possible onset, so that it is a pure function of the window.

use std::{cmp::Ordering, time::Duration};

use crate::{
    ids::{AgentId, PopId},
    policy::BreakerPolicy,
    time::Timestamp,
    window::{Counts, SLOT, Window, first_slot, slot_start},
};

/// Score at which evidence convicts, in nats.
pub const CONVICT_SCORE: f64 = 16.0;

/// Share of the score and of the volume that must be left when the worst witness
/// is left out. All of it would cost a fleet of 4 POPs two more failed requests
/// for each decision, and buy nothing: a lone accuser is a suspect already.
const CONFIRM_SHARE: f64 = 2.0 / 3.0;

/// Score that must be left when the worst witness is left out.
pub const CONFIRM_SCORE: f64 = CONVICT_SCORE * CONFIRM_SHARE;

/// Which rule convicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TripReason {
    /// Failures reached their threshold.
    FailureRate,
    /// Failures and overloads together reached theirs.
    OverloadRate,
    /// Slow calls reached theirs.
    SlowCallRate,
    /// A trial failed.
    TrialFailed,
    /// An operator's override.
    Override,
}

impl TripReason {
    /// The rules over rates, in the order in which they are asked.
    pub const RATES: [Self; 3] = [Self::FailureRate, Self::OverloadRate, Self::SlowCallRate];
}

/// Learned rates of calm times, as decayed counts that add up over replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Requests learned from.
    pub requests: u64,
    /// Of those, failures.
    pub failures: u64,
    /// Of those, overloads.
    pub overloads: u64,
}

/// Requests from which on a baseline is trusted: with none of 200 failing, the
/// true rate is below 1.5 % (the rule of three).
pub const LEARNED: u64 = 200;

/// Requests at which a baseline is halved, so that old ones fade.
const FADING: u64 = 20_000;

impl Baseline {
    /// Adds counts of a calm time: the circuit closed, no ramp, no score worth
    /// a vote.
    pub fn learn(&mut self, calm: Counts) {
        self.add(Self {
            requests: calm.requests,
            failures: calm.failures.min(calm.requests),
            overloads: calm.overloads.min(calm.requests),
        });
        while self.requests > FADING {
            self.requests /= 2;
            self.failures /= 2;
            self.overloads /= 2;
        }
    }

    /// Adds what another replica learned.
    pub fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        self.overloads = self.overloads.saturating_add(other.overloads);
    }

    /// The rate that `rule` tolerates, p0.
    fn tolerated(self, rule: TripReason) -> f64 {
        let bad = match rule {
            TripReason::FailureRate => self.failures,
            TripReason::OverloadRate => self.failures.saturating_add(self.overloads),
            _ => return UNLEARNED,
        };
        if self.requests < LEARNED {
            return UNLEARNED;
        }
        (3.0 * bad as f64 / self.requests as f64).clamp(0.02, 0.3)
    }
}

/// Tolerated rate until a baseline is learned.
const UNLEARNED: f64 = 0.05;

/// Strength of one rule's evidence in one window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Log-likelihood ratio at the best onset, in nats; 0 without evidence.
    pub nats: f64,
    /// The best onset.
    pub onset: Timestamp,
    /// Requests since then.
    pub requests: u64,
    /// Bad ones by the rule since then.
    pub bad: u64,
    /// Score, rate and volume all reached their thresholds.
    pub failing: bool,
}

impl Score {
    /// What fails is stronger than what does not; then more nats are.
    pub fn cmp_strength(&self, other: &Self) -> Ordering {
        let failing = self.failing.cmp(&other.failing);
        failing.then(self.nats.total_cmp(&other.nats))
    }
}

/// Score from which on evidence leans towards failing: about one failure and no
/// success since the onset.
pub const LEAN_SCORE: f64 = 3.0;

/// Requests needed to convict where the throttle meters: of a backend that takes
/// every other request, as many in a row are refused four times in a thousand.
const METERED_VOLUME: u64 = 8;

/// Who was not heard for this long saw nothing: agents report once a second at
/// the least what they saw.
const SILENCE: Duration = Duration::from_secs(1);

/// The first bad request is looked for this far back, and further while there are
/// fewer requests than [`LATE_VOLUME`].
const LATE: Duration = Duration::from_millis(1500);

/// Slots by which those of two agents may be apart.
const APART: u32 = 2;

/// Enough to tell half from nine tenths.
const LATE_VOLUME: u64 = 50;

/// One rule over a rate, with the weights that policy and baseline give it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Its name.
    pub reason: TripReason,
    /// Tolerated rate, p0.
    pub tolerated: f64,
    /// Intolerable rate, p1, and the share of bad requests needed to convict.
    pub intolerable: f64,
    /// Nats for each bad request, positive.
    bad: f64,
    /// Nats for each good one, negative.
    good: f64,
    /// Requests needed to convict.
    volume: u64,
    /// The throttle meters what is short of `intolerable`: a run of bad requests
    /// does not convict while others are still taken.
    metered: bool,
    /// Up to when all is known. Where the throttle meters, a run of bad requests
    /// that began later does not convict: failures are told at once and successes
    /// later, so silence would.
    known: Timestamp,
}

impl Rule {
    /// `None` if the policy switched the rule off, or `reason` is not one of
    /// [`TripReason::RATES`].
    pub fn new(reason: TripReason, policy: &BreakerPolicy, baseline: Baseline) -> Option<Self> {
        let intolerable = match reason {
            TripReason::FailureRate => policy.failure_rate_threshold,
            TripReason::OverloadRate => policy.overload_rate_threshold,
            TripReason::SlowCallRate => {
                policy.slow_call_duration?;
                policy.slow_call_rate_threshold
            }
            TripReason::TrialFailed | TripReason::Override => return None,
        };
        // A threshold of 100 % would give a success infinite weight, and one
        // below p0 a negative weight to a failure.
        let p1 = intolerable.clamp(0.001, 0.99);
        let p0 = baseline.tolerated(reason).min(p1 / 2.0);
        let metered = reason == TripReason::OverloadRate && policy.overload_throttle;
        let volume = u64::from(policy.min_request_volume);
        Some(Self {
            reason,
            tolerated: p0,
            intolerable,
            bad: (p1 / p0).ln(),
            good: ((1.0 - p1) / (1.0 - p0)).ln(),
            volume: if metered {
                volume.max(METERED_VOLUME)
            } else {
                volume
            },
            metered,
            known: Timestamp::from_millis(u64::MAX),
        })
    }

    /// The rule over a view that is complete up to `heard`; of older silence nothing
    /// is expected any more.
    pub(crate) fn known_until(&self, heard: Timestamp, now: Timestamp) -> Self {
        Self {
            known: heard.max(now - SILENCE),
            ..*self
        }
    }

    /// The rules in force, in the order in which they are asked.
    pub fn all(policy: &BreakerPolicy, baseline: Baseline) -> Vec<Self> {
        TripReason::RATES
            .into_iter()
            .filter_map(|reason| Self::new(reason, policy, baseline))
            .collect()
    }

    /// Bad requests by this rule, never more than requests.
    pub fn bad_of(&self, counts: Counts) -> u64 {
        let bad = match self.reason {
            TripReason::OverloadRate => counts.failures.saturating_add(counts.overloads),
            TripReason::SlowCallRate => counts.slow,
            _ => counts.failures,
        };
        bad.min(counts.requests)
    }

    /// Log-likelihood ratio of `bad` of `requests`, in nats.
    pub fn nats(&self, requests: u64, bad: u64) -> f64 {
        bad as f64 * self.bad + requests.saturating_sub(bad) as f64 * self.good
    }

    /// The score that counts as leaning: one failure and no success, also where
    /// an unlearned baseline makes a failure weigh less than [`LEAN_SCORE`].
    pub fn lean(&self) -> f64 {
        self.bad.min(LEAN_SCORE)
    }

    /// Scores what `window` holds since `since`.
    pub fn score(&self, window: &Window, since: Timestamp) -> Score {
        let bar = (CONVICT_SCORE, self.volume);
        self.scan(window.newest_first_without(None), since, bar)
    }

    /// Scores what `window` holds since `since` without `part` of it.
    pub fn score_without(&self, window: &Window, part: &Window, since: Timestamp) -> Score {
        self.scan(
            window.newest_first_without(Some(part)),
            since,
            (CONFIRM_SCORE, (self.volume * 2).div_ceil(3)),
        )
    }

    /// The scan over every onset: sums are integers, so that equal traffic gives
    /// equal scores whatever the order it was added in.
    fn scan(
        &self,
        newest_first: impl Iterator<Item = (u64, Counts)>,
        since: Timestamp,
        bar: (f64, u64),
    ) -> Score {
        let first = first_slot(since);
        let mut best = Score::default();
        let (mut requests, mut bad) = (0_u64, 0_u64);
        let mut late = Late::default();
        for (index, counts) in newest_first.take_while(|(index, _)| *index >= first) {
            late.add(index, requests, bad, self.bad_of(counts));
            requests = requests.saturating_add(counts.requests);
            bad = bad.saturating_add(self.bad_of(counts));
            let nats = self.nats(requests, bad);
            let failing = nats >= bar.0
                && bad as f64 >= self.intolerable * requests as f64
                && requests >= bar.1;
            let this = Score {
                nats,
                onset: slot_start(index),
                requests,
                bad,
                failing,
            };
            if this.cmp_strength(&best).is_gt() {
                best = this;
            }
        }
        best.failing &= !self.metered || late.is_down(self.intolerable, best.onset, self.known);
        best
    }
}

/// What became of requests of late since the first bad one: whether a backend is
/// down, or takes a share and is for the throttle to meter.
#[derive(Default)]
struct Late {
    newest: Option<u64>,
    onset: u64,
    requests: u64,
    bad: u64,
}

impl Late {
    /// Adds a slot, newest first; `requests` and `bad` are newer ones.
    fn add(&mut self, index: u64, requests: u64, bad: u64, bad_here: u64) {
        let newest = *self.newest.get_or_insert(index);
        let late = requests < LATE_VOLUME || newest - index < slots(LATE);
        if late && bad_here > 0 {
            self.onset = index;
            self.requests = requests.saturating_add(bad_here);
            self.bad = bad.saturating_add(bad_here);
        }
    }

    /// Everyone was heard after the first bad one, and hardly a request was taken
    /// since: for a while, or from about then on without end. Slots of two agents
    /// are apart by a slot or two. At a threshold of 100 % only the while counts: a
    /// backend that refuses everything for a moment may be getting used to a load.
    fn is_down(&self, intolerable: f64, onset: Timestamp, known: Timestamp) -> bool {
        let first = slot_start(self.onset);
        let newest = slot_start(self.newest.unwrap_or_default());
        let heard = first + SLOT <= known;
        let hardly = self.bad as f64 >= intolerable * self.requests as f64;
        let at_once = intolerable < 1.0 && onset <= first + SLOT * APART;
        heard
            && ((hardly && newest.since(first) >= SILENCE)
                || (at_once && newest.since(onset) >= SLOT))
    }
}

const fn slots(span: Duration) -> u64 {
    (span.as_millis() / SLOT.as_millis()) as u64
}

/// Scores `window` by one rule. Zero for a rule that is switched off.
pub fn score(
    window: &Window,
    rule: TripReason,
    policy: &BreakerPolicy,
    baseline: Baseline,
) -> Score {
    Rule::new(rule, policy, baseline)
        .map(|rule| rule.score(window, Timestamp::default()))
        .unwrap_or_default()
}

/// Why a backend was, or was not, convicted.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// The rule with the strongest evidence.
    pub rule: TripReason,
    /// What is left without the worst POP, or, of the only POP with traffic,
    /// without its worst agent. It is `failing` if it confirms.
    pub score: Score,
    /// Score over everything, suspects included, with nobody left out.
    pub overall: Score,
    /// Tolerated rate, p0.
    pub tolerated: f64,
    /// Intolerable rate, p1.
    pub intolerable: f64,
    /// POPs with traffic in the window.
    pub pops_active: u32,
    /// POPs that vote failing.
    pub pops_failing: u32,
    /// Votes needed for the fleet.
    pub pops_needed: u32,
    /// Per POP, most suspicious first.
    pub pops: Vec<PopEvidence>,
    /// Lone failing agents.
    pub suspects: Vec<Suspect>,
    /// Share of known agents that report, 0 to 1.
    pub coverage: f64,
}

impl Evidence {
    /// The nats that [`Evidence::score`] needs: less where a witness was left
    /// out of it, because [`Evidence::overall`] must convict as well.
    pub fn score_needed(&self) -> f64 {
        match &self.pops[..] {
            [only] if only.left_out.is_none() => CONVICT_SCORE,
            _ => CONFIRM_SCORE,
        }
    }
}

/// One POP's share of the evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct PopEvidence {
    /// The POP.
    pub pop: PopId,
    /// After leaving out its worst agent, if it is not the only one.
    pub score: Score,
    /// Agents with traffic.
    pub agents: u32,
    /// Leans towards failing.
    pub votes_failing: bool,
    /// Convicted by itself.
    pub failing: bool,
    /// Who was left out.
    pub left_out: Option<AgentId>,
}

/// An agent whose evidence nobody confirms.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    /// The agent.
    pub agent: AgentId,
    /// Its POP.
    pub pop: PopId,
    /// Its own evidence.
    pub score: Score,
}
