//! What an operator says.

use super::{Stepping, entering::half_open};
use crate::{
    breaker::{Circuit, Happening, Override},
    evidence::TripReason,
    policy::Mode,
    time::Timestamp,
};

impl Stepping<'_> {
    pub(super) fn expire_override(&mut self) {
        if self
            .next
            .over
            .as_ref()
            .is_some_and(|o| o.expires <= self.now)
        {
            self.replace_override(None, true);
        }
    }

    pub(super) fn set_override(&mut self, over: Option<Override>) {
        let useless = match &over {
            Some(over) => over.expires <= self.now,
            None => self.next.over.is_none(),
        };
        if !useless {
            self.replace_override(over, false);
        }
    }

    fn replace_override(&mut self, over: Option<Override>, expired: bool) {
        let before = self.next.state(self.policy, None);
        let reason = over.as_ref().map(|_| TripReason::Override);
        let old = std::mem::replace(&mut self.next.over, over.clone());
        match (&old, over) {
            (_, Some(over)) => self.happened(Happening::OverrideSet(over)),
            (Some(old), None) => self.happened(Happening::OverrideEnded(old.clone(), expired)),
            (None, None) => return,
        }
        // Nobody knows how the backend is after it was held open: ask it.
        let forced_open = |over: &Override| over.mode == Mode::ForcedOpen;
        if let Some(old) = old.filter(forced_open)
            && !self.next.over.as_ref().is_some_and(forced_open)
        {
            self.half_open_after_forced(old.created);
        }
        let after = self.next.state(self.policy, None);
        if before != after {
            self.transition(None, before, after, reason, None);
        }
    }

    /// Trials of POPs that are still out become the fleet's.
    fn half_open_after_forced(&mut self, created: Timestamp) {
        if let Circuit::Closed { trips, .. } = self.next.fleet {
            let out = self
                .next
                .circuits()
                .flat_map(|(_, circuit)| circuit.leases());
            let out = out.cloned().collect();
            self.next.pops.clear();
            self.next.fleet = half_open(self.now, trips, self.now.since(created), out);
        }
    }
}
