//! Counts of outcomes in slots of time, that add up over agents and replicas.
//!
//! A window is sparse and exact: no decaying average, so sums of agents,
//! differences that leave a witness out, and a replay of the same traffic all
//! give the same integers.

use std::{collections::VecDeque, ops::AddAssign, time::Duration};

use crate::time::Timestamp;

/// Outcomes of some stretch of time. Counts add up, and stop at the largest
/// number instead of wrapping.
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

impl Counts {
    fn zip(self, rhs: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: f(self.requests, rhs.requests),
            failures: f(self.failures, rhs.failures),
            overloads: f(self.overloads, rhs.overloads),
            slow: f(self.slow, rhs.slow),
        }
    }

    /// What is left without `rhs`, zero where that has more.
    pub fn saturating_sub(self, rhs: Self) -> Self {
        self.zip(rhs, u64::saturating_sub)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, rhs: Self) {
        *self = self.zip(rhs, u64::saturating_add);
    }
}

/// Width of a slot of the last second. With 100 ms slots the successes of the
/// last calm moment dilute the first failures, and deciding takes several times
/// as many failed requests.
pub const SLOT: Duration = Duration::from_millis(20);

/// Slots older than this are merged: an onset that old needs no fine resolution.
pub const FINE: Duration = Duration::from_secs(1);

/// Slots in one merged slot of 100 ms.
const MERGED: u64 = 5;

const SLOT_MS: u64 = SLOT.as_millis() as u64;

/// A sparse ring of slots, oldest first, indexed by time / [`SLOT`]. Slots older
/// than a second are merged into ones of 100 ms, under the index of the first.
/// Its owner bounds it by [`Window::compact`]: 50 fine slots and ten a second
/// for the rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window {
    slots: VecDeque<(u64, Counts)>,
}

impl Window {
    /// Adds outcomes of the slot that holds `at`; any order.
    pub fn record(&mut self, at: Timestamp, counts: Counts) {
        if counts == Counts::default() {
            return;
        }
        let index = at.as_millis() / SLOT_MS;
        let place = self.slots.partition_point(|(i, _)| *i < index);
        match self.slots.get_mut(place) {
            Some((i, slot)) if *i == index => *slot += counts,
            _ => self.slots.insert(place, (index, counts)),
        }
    }

    /// Adds another window, slot by slot.
    pub fn merge(&mut self, other: &Self) {
        if self.is_empty() {
            self.slots.clone_from(&other.slots);
            return;
        }
        let mut mine = std::mem::take(&mut self.slots).into_iter().peekable();
        let mut theirs = other.slots().peekable();
        self.slots.reserve(mine.len() + theirs.len());
        loop {
            let index = match (mine.peek(), theirs.peek()) {
                (Some((a, _)), Some((b, _))) => *a.min(b),
                (Some((i, _)), None) | (None, Some((i, _))) => *i,
                (None, None) => return,
            };
            let mut sum = Counts::default();
            for (_, counts) in [
                mine.next_if(|(i, _)| *i == index),
                theirs.next_if(|(i, _)| *i == index),
            ]
            .into_iter()
            .flatten()
            {
                sum += counts;
            }
            self.slots.push_back((index, sum));
        }
    }

    /// Forgets slots that ended before `now - keep`, and merges those older
    /// than a second. Slots further ahead than `keep`, which only a clock that
    /// jumped back leaves, are forgotten as well.
    pub fn compact(&mut self, now: Timestamp, keep: Duration) {
        let end = |index: u64| (index / MERGED + 1) * MERGED * SLOT_MS;
        let ahead = (now + keep).as_millis() / SLOT_MS;
        while self.slots.back().is_some_and(|(i, _)| *i > ahead) {
            self.slots.pop_back();
        }
        let (expired, merging) = ((now - keep).as_millis(), (now - FINE).as_millis());
        let old = self.slots.partition_point(|(i, _)| end(*i) <= merging);
        let mut kept = 0;
        for read in 0..old {
            let (index, counts) = self.slots[read];
            if end(index) <= expired {
                continue;
            }
            let first = index / MERGED * MERGED;
            if kept > 0 && self.slots[kept - 1].0 == first {
                self.slots[kept - 1].1 += counts;
            } else {
                self.slots[kept] = (first, counts);
                kept += 1;
            }
        }
        self.slots.drain(kept..old);
    }

    /// Slots with traffic, oldest first: (index, counts).
    pub fn slots(&self) -> impl DoubleEndedIterator<Item = (u64, Counts)> + ExactSizeIterator + '_ {
        self.slots.iter().copied()
    }

    /// Slots without those of `part`, newest first. `part` must be one of the
    /// windows this one is the sum of.
    pub(crate) fn newest_first_without<'a>(
        &'a self,
        part: Option<&'a Self>,
    ) -> impl Iterator<Item = (u64, Counts)> + 'a {
        let mut part = part.into_iter().flat_map(|w| w.slots().rev()).peekable();
        self.slots().rev().map(move |(index, mut counts)| {
            while part.next_if(|(i, _)| *i > index).is_some() {}
            if let Some((_, left_out)) = part.next_if(|(i, _)| *i == index) {
                counts = counts.saturating_sub(left_out);
            }
            (index, counts)
        })
    }

    /// What is left without `part`, one of the windows this one is the sum of.
    pub fn without(&self, part: &Self) -> Self {
        let mut slots: VecDeque<_> = self
            .newest_first_without(Some(part))
            .filter(|(_, counts)| *counts != Counts::default())
            .collect();
        slots.make_contiguous().reverse();
        Self { slots }
    }

    /// Sum over slots that start at or after `since`.
    pub fn total_since(&self, since: Timestamp) -> Counts {
        let first = first_slot(since);
        let mut total = Counts::default();
        for (_, counts) in self.slots().rev().take_while(|(i, _)| *i >= first) {
            total += counts;
        }
        total
    }

    /// No traffic at all.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// The first slot that starts at or after `since`.
pub(crate) const fn first_slot(since: Timestamp) -> u64 {
    since.as_millis().div_ceil(SLOT_MS)
}

/// When a slot starts.
pub const fn slot_start(index: u64) -> Timestamp {
    Timestamp::from_millis(index.saturating_mul(SLOT_MS))
}
