//! Demand of one agent for one backend, by the second.

use std::{collections::VecDeque, ops::AddAssign, time::Duration};

use breaker_core::{ByPriority, Timestamp};

use super::{SPAN, seconds};

/// Requests of some stretch of time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Demand {
    /// Wanted the backend, also those refused.
    pub(super) wanted: u64,
    /// Of those, idempotent ones.
    pub(super) idempotent: u64,
    /// Refused by us.
    pub(super) rejected: u64,
    /// Wanted by priority, without those that the plan sent elsewhere.
    pub(super) directed: ByPriority,
}

impl AddAssign for Demand {
    fn add_assign(&mut self, rhs: Self) {
        self.wanted = self.wanted.saturating_add(rhs.wanted);
        self.idempotent = self.idempotent.saturating_add(rhs.idempotent);
        self.rejected = self.rejected.saturating_add(rhs.rejected);
        self.directed += rhs.directed;
    }
}

/// A ring of seconds over [`SPAN`], oldest first.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<(u64, Demand)>);

impl Rates {
    pub(super) fn record(&mut self, now: Timestamp, demand: Demand) {
        match self.0.back_mut() {
            Some((second, sum)) if *second >= seconds(now) => *sum += demand,
            _ => self.0.push_back((seconds(now), demand)),
        }
    }

    pub(super) fn forget(&mut self, now: Timestamp) {
        let oldest = seconds(now).saturating_sub(SPAN.as_secs());
        self.0.retain(|(second, _)| *second > oldest);
    }

    /// Sum over the last `span`, in whole seconds.
    pub(super) fn over(&self, span: Duration, now: Timestamp) -> Demand {
        let oldest = seconds(now).saturating_sub(span.as_secs());
        let mut sum = Demand::default();
        for (_, demand) in self.0.iter().filter(|(second, _)| *second > oldest) {
            sum += *demand;
        }
        sum
    }
}
