//! Overload is metered, not broken: adaptive throttling (Google SRE book, ch. 21)
//! over the whole fleet's sums instead of one client's.
//!
//! A backend that refuses a part is let have [`MARGIN`] times what it takes, and
//! that is found by its answers alone: admission = min(1, 1.1 · accepted / wanted).
//! A fleet's sums are smooth enough to sit 10 % above what it takes, and those
//! 10 % find out when it takes more. (A single client needs a margin of 2, which
//! does not throttle at all at half capacity.)
//!
//! The counts reach back only as far as they must to mean something: a longer
//! stretch still holds the good times and reacts late.

use std::time::Duration;

use crate::{
    evidence::Suspect,
    shed::{ByPriority, Mix},
    time::Timestamp,
    vantage::{FleetView, PopView},
    window::{Counts, Window},
};

/// The share of a backend's demand that is let through, below 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttle {
    /// 0 to 1.
    pub admission: f64,
    /// Since when there is one.
    pub since: Timestamp,
    /// When `admission` last changed: it rises by so much a second.
    pub changed: Timestamp,
    /// The admission that people were last told of, 0 to 1.
    pub told: f64,
}

/// How much more is let through than is taken.
pub const MARGIN: f64 = 1.1;

/// Admission rises by at most this much a second.
const RISE: f64 = 0.1;

/// Least admission: something has to find out when it takes more. A backend that
/// takes less of what it is sent than a tenth is opened instead.
pub const FLOOR: f64 = 0.05;

/// Changes smaller than this, and than a twentieth, are not worth a commit that
/// every agent hears of.
const STEP: f64 = 0.01;

/// Commits are no closer than this.
pub(crate) const SPACING: Duration = Duration::from_millis(200);

/// Admission that moved by this much, or by half, is worth telling people.
const TOLD_STEP: f64 = 0.2;

/// From a change until what is counted shows it: agents hear of it within a few
/// milliseconds, and report ten times a second.
const LAG: Duration = Duration::from_millis(200);

/// Counts reach back at least this far, and further while they hold fewer
/// requests than [`VOLUME`].
const SHORTEST: Duration = Duration::from_secs(1);

/// Requests that make a share sure to about 3 %.
const VOLUME: u64 = 100;

/// Counts reach back no further.
pub const LONGEST: Duration = Duration::from_secs(10);

/// Overloads needed before anything is metered: a few come with every restart.
const MIN_OVERLOADS: u64 = 5;

/// Share of the requests that must be overloads also without the witness that
/// saw most: one broken path meters nobody else.
const CONFIRMED: f64 = 0.02;

/// Over this long: gateways that saw successes alone report once a second, so over
/// less they may be missing.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(2500);

/// What a backend was asked for and took, by all gateways together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Demand by priority, requests a second over the last ten seconds.
    pub directed: ByPriority,
    /// How far back the counts below reach.
    pub span: Duration,
    /// Requests: sent, or refused by the throttle, the ramp or a gateway's own
    /// limit. Those refused for other reasons say nothing about what it takes.
    pub wanted: u64,
    /// Of those, not refused by the throttle or the ramp.
    pub tried: u64,
    /// Of those, answered other than with an overload.
    pub accepted: u64,
    /// Others than the worst witness saw overloads too, or nobody else asked.
    pub confirmed: bool,
}

impl Load {
    /// From all replicas' views. `metered` holds the requests refused by the
    /// throttle, the ramp and gateways' limits; those by limits are its overloads.
    /// What was seen before `since` (see `Breaker::evidence_since`) and what
    /// `suspects` saw is left out.
    pub fn of(
        view: &FleetView,
        metered: &Window,
        directed: ByPriority,
        suspects: &[Suspect],
        since: Timestamp,
        now: Timestamp,
    ) -> Self {
        let seconds = LONGEST.as_secs() as u32 / SHORTEST.as_secs() as u32;
        let load = |n| {
            let from = since.max(now - SHORTEST * n);
            Self {
                directed,
                span: now.since(from),
                ..Self::since(view, metered, suspects, from)
            }
        };
        let mut loads = (1..=seconds).map(|n| (n, load(n)));
        let found = loads.find(|(n, load)| load.wanted >= VOLUME || *n == seconds);
        Self {
            confirmed: confirmed(view, metered, since, now),
            ..found.map(|(_, load)| load).unwrap_or_default()
        }
    }

    fn since(view: &FleetView, metered: &Window, suspects: &[Suspect], from: Timestamp) -> Self {
        let mut sent = Counts::default();
        for pop in &view.pops {
            sent += trusted(pop, suspects, from);
        }
        let refused = metered.total_since(from);
        let limited = refused.overloads.min(refused.requests);
        let tried = sent.requests.saturating_add(limited);
        Self {
            wanted: sent.requests.saturating_add(refused.requests),
            tried,
            accepted: sent.requests.saturating_sub(sent.overloads),
            ..Self::default()
        }
    }

    /// Requests a second, from a count of this load.
    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.span.as_secs_f64().max(0.1)
    }

    /// Overloaded by more than the margin that finds out when it takes more.
    fn is_overloaded(&self) -> bool {
        let overloads = self.tried.saturating_sub(self.accepted);
        self.confirmed
            && overloads >= MIN_OVERLOADS
            && MARGIN * (self.accepted as f64) < self.tried as f64
    }
}

/// What a POP saw without its suspects.
fn trusted(pop: &PopView, suspects: &[Suspect], from: Timestamp) -> Counts {
    let mut counts = pop.total.total_since(from);
    for witness in &pop.worst {
        let suspect = |s: &Suspect| s.agent == witness.agent && s.pop == pop.pop;
        if suspects.iter().any(suspect) {
            counts = counts.saturating_sub(witness.window.total_since(from));
        }
    }
    counts
}

/// Whether overloads are seen without the witness that saw most. One that is the
/// only witness, and was for a while, is believed.
fn confirmed(view: &FleetView, metered: &Window, since: Timestamp, now: Timestamp) -> bool {
    let active = |pop: &&PopView| pop.total.total_since(now - LONGEST).requests > 0;
    let pops: Vec<&PopView> = view.pops.iter().filter(active).collect();
    let lately = now - CONFIRMED_WITHIN;
    if without_worst(&pops, now - LONGEST).requests == 0 {
        let all = |from| pops.iter().map(move |pop| pop.total.total_since(from));
        return all(now - LONGEST).ne(all(lately));
    }
    let from = since.max(lately);
    let rest = without_worst(&pops, from);
    let limited = metered.total_since(from).overloads;
    let overloads = rest.overloads.saturating_add(limited);
    let tried = rest.requests.saturating_add(limited);
    overloads > 0 && overloads as f64 >= CONFIRMED * tried as f64
}

/// What was seen without the worst of several POPs, or the worst agent of one.
fn without_worst(pops: &[&PopView], from: Timestamp) -> Counts {
    let seen: Vec<Counts> = pops.iter().map(|p| p.total.total_since(from)).collect();
    let agents = |pop: &&PopView| -> Vec<Counts> {
        let windows = pop.worst.iter().map(|w| w.window.total_since(from));
        windows.collect()
    };
    let worst = match pops {
        [only] => agents(only),
        _ => seen.clone(),
    };
    let worst = worst.into_iter().max_by_key(|counts| counts.overloads);
    let mut rest = Counts::default();
    seen.iter().for_each(|counts| rest += *counts);
    rest.saturating_sub(worst.unwrap_or_default())
}

/// The throttle that follows from `load`; as it was, if nothing worth a commit
/// changed.
pub(crate) fn next(held: Option<Throttle>, load: &Load, now: Timestamp) -> Option<Throttle> {
    if held.is_some_and(|held| now.since(held.changed) < SPACING) {
        return held;
    }
    let admission = held.map_or(1.0, |held| held.admission);
    let next = admission_after(held, load, now);
    let ends = next >= 1.0;
    let moved = (next - admission).abs() >= STEP.min(admission / 20.0);
    match held {
        None if ends || !moved => None,
        None => Some(Throttle {
            admission: next,
            since: now,
            changed: now,
            told: next,
        }),
        Some(_) if ends => None,
        Some(_) if !moved => held,
        Some(held) => Some(Throttle {
            admission: next,
            changed: now,
            told: if worth_telling(held.told, next) {
                next
            } else {
                held.told
            },
            ..held
        }),
    }
}

fn worth_telling(told: f64, next: f64) -> bool {
    let (low, high) = (told.min(next), told.max(next));
    high - low >= TOLD_STEP || low <= high / 2.0
}

fn admission_after(held: Option<Throttle>, load: &Load, now: Timestamp) -> f64 {
    let admission = held.map_or(1.0, |held| held.admission);
    let target = target(held, load, now);
    if target < admission {
        // Without overload it is something else that lets less through.
        return if load.is_overloaded() {
            target.max(FLOOR)
        } else {
            admission
        };
    }
    let since = held.map_or(Duration::MAX, |held| now.since(held.changed));
    let rise = RISE * since.min(SPACING * 2).as_secs_f64();
    target.min(admission + rise).min(1.0)
}

/// [`MARGIN`] · accepted / wanted. What was let through meanwhile is taken from
/// the counts while it was changing; once it was the same all the time, it is
/// known, however unevenly shed keys or a mix of late spread the requests.
fn target(held: Option<Throttle>, load: &Load, now: Timestamp) -> f64 {
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    // What one witness alone is refused is its own affair.
    let accepted = match load.confirmed {
        true => load.accepted,
        false => load.tried,
    };
    let unchanged = held.map(|held| (now.since(held.changed), held.admission));
    let metered = MARGIN * share(accepted, load.wanted);
    match unchanged {
        _ if load.wanted == 0 => 1.0,
        Some((since, admission)) if load.tried == accepted && since >= SHORTEST => {
            metered.max(MARGIN * admission)
        }
        Some((since, admission)) if since >= load.span + LAG => {
            MARGIN * share(accepted, load.tried) * admission
        }
        _ => metered,
    }
}

/// Difference of a mix that is worth a commit, while nothing is shed and while
/// something is.
const MIX_STEP: (f64, f64) = (0.05, 0.02);

/// The mix to commit, if it moved noticeably: by more than a few points, and by
/// more than chance moves a mix of so few requests.
pub(crate) fn next_mix(held: Mix, directed: ByPriority, admission: f64) -> Option<Mix> {
    let requests = directed.total() * LONGEST.as_secs_f64();
    if requests.is_nan() || requests < 1.0 {
        return None;
    }
    let (step, sigmas) = if admission < 1.0 {
        (MIX_STEP.1, 1.0)
    } else {
        (MIX_STEP.0, 2.0)
    };
    let least = (sigmas / requests.sqrt()).max(step);
    let next = Mix::of(directed);
    let shares = next.shares().0.into_iter().zip(held.shares().0);
    let moved = shares.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    (moved > least).then_some(next)
}
