//! Trial leases, as requests see them: whoever claims one first has it.

use std::{
    sync::atomic::{
        AtomicU8,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

use breaker_core::{OutcomeClass, Timestamp, breaker::TrialOutcome};

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
    /// One that is lost in `expires_in`, for requests that take up to `total`.
    ///
    /// It can be claimed only as long as its request must end before it is lost:
    /// else the next lease could be out while this one's request still runs.
    /// While `idempotent` requests come, they have it to themselves for half of
    /// that time.
    pub fn new(
        id: String,
        now: Timestamp,
        expires_in: Duration,
        total: Duration,
        idempotent: bool,
    ) -> Self {
        let slack = expires_in.saturating_sub(total);
        let claimable = if slack.is_zero() {
            expires_in / 2
        } else {
            slack
        };
        Self {
            id,
            any_from: if idempotent { now + claimable / 2 } else { now },
            claim_until: now + claimable,
            state: AtomicU8::new(FREE),
        }
    }

    /// Nobody has it.
    pub fn is_free(&self) -> bool {
        self.state.load(Acquire) == FREE
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

/// By identity: two leases never share an id.
impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
