//! What an agent does with requests for one backend, and why: the strictest of
//! override, fleet or POP decision and local breaker, worked out in advance.

use std::{
    sync::Arc,
    sync::atomic::{
        AtomicU8,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

use breaker_core::{
    breaker::{Ramp, TrialOutcome, Version},
    outcome::OutcomeClass,
    time::Timestamp,
};

use crate::gate::RefusalReason;

/// Retry-After when nothing is known about when it will help: a limit may have
/// room at once, an override is up to a person.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// No client is told to come back sooner.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Swapped in whole whenever something changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Stance {
    /// What to do.
    pub rule: Rule,
    /// The decision behind it.
    pub version: Version,
    /// SHADOW: count what the rule refuses, but let it pass.
    pub shadow: bool,
}

/// What to do with requests.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Let them pass.
    Pass,
    /// Let the smaller of these shares pass.
    Share {
        /// The fleet's or POP's ramp.
        fleet: Option<Ramp>,
        /// The local breaker's.
        local: Option<Ramp>,
    },
    /// Let none pass, but the one that claims the lease.
    Refuse {
        /// Why.
        reason: RefusalReason,
        /// When the next trial may run, about.
        until: Timestamp,
        /// Length of the ramp that follows.
        ramp: Duration,
        /// A trial to be claimed.
        lease: Option<Arc<Lease>>,
    },
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pass, Self::Pass) => true,
            (
                Self::Share { fleet, local },
                Self::Share {
                    fleet: fleet2,
                    local: local2,
                },
            ) => fleet == fleet2 && local == local2,
            (
                Self::Refuse {
                    reason,
                    until,
                    ramp,
                    lease,
                },
                Self::Refuse {
                    reason: reason2,
                    until: until2,
                    ramp: ramp2,
                    lease: lease2,
                },
            ) => {
                let id = |lease: &Option<Arc<Lease>>| lease.as_ref().map(|lease| lease.id.clone());
                (reason, until, ramp) == (reason2, until2, ramp2) && id(lease) == id(lease2)
            }
            _ => false,
        }
    }
}

/// The answer for one request.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    Pass,
    /// Within this share only; else refuse for this reason.
    Share(f64, RefusalReason),
    /// With this lease only; else refuse for this reason.
    Trial(&'a Arc<Lease>, RefusalReason),
    Refuse(RefusalReason),
}

impl Stance {
    /// Everything passes.
    pub fn pass() -> Self {
        Self {
            rule: Rule::Pass,
            version: Version::default(),
            shadow: false,
        }
    }

    pub(crate) fn answer(&self, now: Timestamp) -> Answer<'_> {
        match &self.rule {
            Rule::Pass => Answer::Pass,
            Rule::Share { fleet, local } => {
                let share = |ramp: &Option<Ramp>| ramp.map_or(1.0, |ramp| ramp.admission(now));
                let (fleet, local) = (share(fleet), share(local));
                match fleet <= local {
                    _ if fleet.min(local) >= 1.0 => Answer::Pass,
                    true => Answer::Share(fleet, RefusalReason::Ramp),
                    false => Answer::Share(local, RefusalReason::Local),
                }
            }
            Rule::Refuse {
                reason,
                lease: Some(lease),
                ..
            } => Answer::Trial(lease, *reason),
            Rule::Refuse { reason, .. } => Answer::Refuse(*reason),
        }
    }

    /// Share of requests that pass at `now`, 0 to 1.
    pub fn admission(&self, now: Timestamp) -> f64 {
        match self.answer(now) {
            Answer::Pass => 1.0,
            Answer::Share(share, _) => share,
            Answer::Trial(..) | Answer::Refuse(_) => 0.0,
        }
    }

    /// Time until the next trial and this client's place in the ramp behind
    /// it. `dice` is uniform in [0, 1).
    pub(crate) fn retry_after(&self, reason: RefusalReason, now: Timestamp, dice: f64) -> Duration {
        let (wait, spread) = match (&self.rule, reason) {
            (_, RefusalReason::Limit) | (Rule::Pass, _) => (Duration::ZERO, UNKNOWN_WAIT),
            (Rule::Share { fleet, local }, _) => {
                let left = |ramp: &Option<Ramp>| ramp.map_or(Duration::ZERO, |r| left(&r, now));
                (Duration::ZERO, left(fleet).max(left(local)))
            }
            (Rule::Refuse { until, ramp, .. }, _) => (now.until(*until), *ramp),
        };
        // A second more, so that clients part even where there is no ramp.
        (wait + (spread + UNKNOWN_WAIT).mul_f64(dice)).max(MIN_RETRY_AFTER)
    }
}

/// Time until a ramp reaches full admission.
fn left(ramp: &Ramp, now: Timestamp) -> Duration {
    let rise = ramp.duration.mul_f64((1.0 - ramp.from).clamp(0.0, 1.0));
    now.until(ramp.from_at + rise)
}

/// A permission to send one request, to be claimed by one.
#[derive(Debug)]
pub struct Lease {
    /// The fleet's; for the local breaker's own, its own.
    pub id: String,
    /// From when on any request may claim it; before, idempotent ones only.
    pub any_from: Timestamp,
    /// When it may no longer be claimed: early enough to hand it back.
    pub claim_until: Timestamp,
    state: AtomicU8,
}

/// `Lease::state`: nobody has it.
const FREE: u8 = 0;
/// A request is on its way with it.
const CLAIMED: u8 = 1;
/// Ended, one for each outcome.
const SUCCEEDED: u8 = 2;
const FAILED: u8 = 3;
const RETURNED: u8 = 4;

impl Lease {
    /// A free one.
    pub fn new(id: String, any_from: Timestamp, claim_until: Timestamp) -> Self {
        Self {
            id,
            any_from,
            claim_until,
            state: AtomicU8::new(FREE),
        }
    }

    /// Tries to take it for one request.
    pub(crate) fn claim(&self, now: Timestamp, idempotent: bool) -> bool {
        let open = now < self.claim_until && (idempotent || now >= self.any_from);
        open && self.state.load(Relaxed) == FREE && self.change(FREE, CLAIMED)
    }

    /// Ends it if nobody claimed it. Whoever loses this race has a request.
    pub fn give_back(&self) -> bool {
        self.change(FREE, RETURNED)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self.state.compare_exchange(from, to, AcqRel, Relaxed);
        changed.is_ok()
    }

    /// Its request ended.
    pub(crate) fn finish(&self, class: OutcomeClass) {
        let state = match class {
            OutcomeClass::Success => SUCCEEDED,
            OutcomeClass::Failure(_) | OutcomeClass::Overload => FAILED,
            OutcomeClass::ClientGone => RETURNED,
        };
        self.state.store(state, Release);
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<TrialOutcome> {
        match self.state.load(Acquire) {
            SUCCEEDED => Some(TrialOutcome::Succeeded),
            FAILED => Some(TrialOutcome::Failed),
            RETURNED => Some(TrialOutcome::Returned),
            _ => None,
        }
    }

    /// A request is on its way with it.
    pub fn is_claimed(&self) -> bool {
        self.state.load(Acquire) == CLAIMED
    }
}
