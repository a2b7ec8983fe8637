//! Counts of outcomes in slots of time, that add up over agents and replicas.

use std::{collections::VecDeque, ops::AddAssign, time::Duration};

use crate::time::Timestamp;

/// Outcomes of some stretch of time. Counts add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Completed requests of every class except `ClientGone`.
    pub requests: u64,
    /// Of those, failures.
    pub failures: u64,
    /// Of those, overloads.
    pub overloads: u64,
    /// Of those, slow calls, whatever their class.
    pub slow: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, rhs: Self) {
        self.requests += rhs.requests;
        self.failures += rhs.failures;
        self.overloads += rhs.overloads;
        self.slow += rhs.slow;
    }
}

/// Width of a slot of the last second. With 100 ms slots the successes of the
/// last calm moment dilute the first failures, and deciding takes several times
/// as many failed requests.
pub const SLOT: Duration = Duration::from_millis(20);

/// A sparse ring of slots, oldest first, indexed by time / [`SLOT`]. Slots older
/// than a second are merged into ones of 100 ms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window {
    slots: VecDeque<(u64, Counts)>,
}

impl Window {
    /// Adds outcomes of the slot that holds `at`; any order.
    pub fn record(&mut self, _at: Timestamp, _counts: Counts) {
        todo!()
    }

    /// Adds another window, slot by slot.
    pub fn merge(&mut self, _other: &Self) {
        todo!()
    }

    /// Forgets slots that ended before `now - keep`, and merges those older
    /// than a second.
    pub fn compact(&mut self, _now: Timestamp, _keep: Duration) {
        todo!()
    }

    /// Slots with traffic, oldest first: (index, counts).
    pub fn slots(&self) -> impl DoubleEndedIterator<Item = (u64, Counts)> + '_ {
        self.slots.iter().copied()
    }

    /// Sum over slots that start at or after `since`.
    pub fn total_since(&self, _since: Timestamp) -> Counts {
        todo!()
    }

    /// No traffic at all.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
