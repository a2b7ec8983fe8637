//! What a candidate configuration would have done: a breaker with its policy
//! beside each live one, judged by the same figures. Nothing acts on it, and
//! nothing of it is stored: every replica sees the same figures, so every replica
//! comes to the same answer, as far back as it runs.

mod room;

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use breaker_core::{
    BackendName, Breaker, BreakerPolicy, Mode, PopId, Timestamp, TripReason,
    breaker::{Input, StateName},
    vantage::judge,
};

pub use room::room;

use crate::{clock::jitter, config::Fleet, plane::Plane, store::ReplicaView};

/// Episodes kept of a backend: enough to see a pattern, few enough to read.
const EPISODES: usize = 20;

/// The candidate's breakers.
#[derive(Debug, Default)]
pub struct Candidates(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the candidate was set that these are of.
    set: Timestamp,
    backends: BTreeMap<BackendName, Beside>,
}

/// A time for which the candidate would have been open.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Since when.
    pub opened: Timestamp,
    /// Until when; `None` while it lasts.
    pub closed: Option<Timestamp>,
    /// Why.
    pub reason: TripReason,
    /// Requests that wanted the backend meanwhile.
    pub rejected: f64,
    /// The highest rate for which other regions had room, requests a second.
    pub moved: f64,
}

/// One backend as the candidate would have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    breaker: Breaker,
    looked: Timestamp,
    /// Oldest first.
    episodes: VecDeque<Episode>,
    /// Episodes that are no longer kept, and their requests.
    forgotten: (usize, f64),
}

/// What there is to judge by.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Of all replicas.
    pub figures: &'a ReplicaView,
    /// The live breaker lets requests through: without any nothing can be told.
    pub flowing: bool,
    /// Requests a second that other regions could take.
    pub room: f64,
    /// Uniform in [0, 1).
    pub jitter: f64,
}

impl Candidates {
    /// Judges one backend as the candidate would, if it would judge it otherwise.
    pub fn look(&self, plane: &Plane, live: &Breaker, name: &BackendName, figures: &ReplicaView) {
        let Some(fleet) = plane.fleet() else { return };
        let Some((set, policy)) = policies(&fleet, name) else {
            return;
        };
        let now = plane.clock.now();
        let flowing = fleet
            .config
            .policy(name)
            .is_some_and(|policy| live.admission(policy, None, now) > 0.0);
        let samples = Samples {
            figures,
            flowing,
            room: room(plane, &fleet, name, now),
            jitter: jitter(),
        };
        let mut state = self.lock();
        if state.set != set {
            *state = State {
                set,
                backends: BTreeMap::new(),
            };
        }
        let beside = state.backends.entry(name.clone());
        let beside = beside.or_insert_with(|| Beside::new(now));
        beside.look(&samples, &policy, now);
    }

    /// One backend; `None` before it was looked at.
    pub fn get(&self, set: Timestamp, name: &BackendName) -> Option<Beside> {
        let state = self.lock();
        let of_this = state.set == set;
        state.backends.get(name).filter(|_| of_this).cloned()
    }

    /// Keeps only these backends.
    pub fn retain(&self, keep: impl Fn(&BackendName) -> bool) {
        self.lock().backends.retain(|name, _| keep(name));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The candidate's policy for a backend, and when it was set; `None` where it
/// would judge as the live one does, or not at all.
pub fn policies(fleet: &Fleet, name: &BackendName) -> Option<(Timestamp, BreakerPolicy)> {
    let candidate = fleet.candidate.as_ref()?;
    let live = fleet.config.policy(name)?;
    let policy = candidate.config.policy(name)?;
    let differs = policy != live && policy.mode != Mode::Disabled;
    differs.then(|| {
        let policy = BreakerPolicy {
            mode: Mode::Shadow,
            // Agents count as slow what is slow by the live one.
            slow_call_duration: policy.slow_call_duration.and(live.slow_call_duration),
            ..policy.clone()
        };
        (candidate.applied, policy)
    })
}

/// The live policy, but with samples kept for as long as the candidate looks back.
pub fn widened<'a>(
    fleet: &Fleet,
    name: &BackendName,
    live: &'a BreakerPolicy,
) -> Cow<'a, BreakerPolicy> {
    match policies(fleet, name) {
        Some((_, policy)) if policy.window > live.window => Cow::Owned(BreakerPolicy {
            window: policy.window,
            ..live.clone()
        }),
        _ => Cow::Borrowed(live),
    }
}

impl Beside {
    /// Closed, and not looked at yet.
    pub fn new(now: Timestamp) -> Self {
        Self {
            breaker: Breaker::new(0, now),
            looked: now,
            episodes: VecDeque::new(),
            forgotten: (0, 0.0),
        }
    }

    /// Counts what would have been refused since the last look, and judges.
    /// `policy` is in SHADOW: all traffic flows, so it answers for trials.
    pub fn look(&mut self, samples: &Samples<'_>, policy: &BreakerPolicy, now: Timestamp) {
        let figures = samples.figures;
        let demand = figures.demand_milli as f64 / 1000.0;
        let past = now.since(self.looked).as_secs_f64();
        self.looked = now;
        if let Some(open) = self.open_episode() {
            open.rejected += demand * past;
            open.moved = open.moved.max(demand.min(samples.room));
        }
        let open = self.breaker.fleet.state() != StateName::Closed;
        // While the live one lets nothing through, silence is no recovery.
        if open && !samples.flowing {
            return;
        }
        let since = self.breaker.evidence_since();
        let verdict = judge(&figures.fleet, policy, since, now);
        // What it would meter is no episode.
        let input = Input::Tick {
            verdict: &verdict,
            load: None,
            retry_after: figures.max_retry_after,
            jitter: samples.jitter,
            may_open: true,
        };
        let Some(next) = self.breaker.step(input, policy, now).next else {
            return;
        };
        self.breaker = next;
        match (open, self.breaker.fleet.state()) {
            (false, StateName::Open | StateName::HalfOpen) => {
                self.episodes.push_back(Episode {
                    opened: now,
                    closed: None,
                    reason: verdict.evidence.rule,
                    rejected: 0.0,
                    moved: demand.min(samples.room),
                });
                if self.episodes.len() > EPISODES
                    && let Some(oldest) = self.episodes.pop_front()
                {
                    self.forgotten.0 += 1;
                    self.forgotten.1 += oldest.rejected;
                }
            }
            (true, StateName::Closed) => {
                if let Some(ended) = self.open_episode() {
                    ended.closed = Some(now);
                }
            }
            _ => {}
        }
    }

    fn open_episode(&mut self) -> Option<&mut Episode> {
        self.episodes.back_mut().filter(|e| e.closed.is_none())
    }

    /// Its state now.
    pub fn state(&self) -> StateName {
        self.breaker.fleet.state()
    }

    /// Episodes that are kept, oldest first.
    pub fn episodes(&self) -> impl ExactSizeIterator<Item = &Episode> {
        self.episodes.iter()
    }

    /// How often it would have opened, and the requests it would have refused.
    pub fn total(&self) -> (usize, f64) {
        let kept: f64 = self.episodes.iter().map(|e| e.rejected).sum();
        let (count, rejected) = self.forgotten;
        (count + self.episodes.len(), rejected + kept)
    }

    /// POPs it would be open for, alone.
    pub fn pops(&self) -> impl Iterator<Item = &PopId> {
        let pops = self.breaker.pops.iter();
        pops.filter(|(_, circuit)| circuit.state() != StateName::Closed)
            .map(|(pop, _)| pop)
    }
}

#[cfg(test)]
mod tests;
