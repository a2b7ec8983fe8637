//! What a drill leaves behind: nothing.

use std::time::Duration;

use super::Stepping;
use crate::{
    breaker::{Circuit, Happening, StateName},
    ids::PopId,
};

impl Stepping<'_> {
    /// Closes every circuit at once, without a ramp, on fresh evidence: what was
    /// seen until now does not count. Trips are forgotten, also those from before,
    /// which a drill does not tell apart from its own; an override stays. Trials
    /// that are still out get no answer: they were the drill's.
    pub(super) fn reset(&mut self) {
        let before: Vec<(Option<PopId>, StateName, bool)> = self
            .next
            .circuits()
            .map(|(pop, circuit)| {
                let ramps = matches!(circuit, Circuit::Closed { ramp: Some(_), .. });
                (pop.cloned(), circuit.state(), ramps)
            })
            .collect();
        self.next.pops.clear();
        self.next.throttle = None;
        self.next.fleet = Circuit::Closed {
            since: self.now,
            ramp: None,
            trips: 0,
            last_open: Duration::ZERO,
            served: Duration::ZERO,
            served_at: self.now,
        };
        self.changed = true;
        for (pop, state, ramps) in before {
            match state {
                StateName::Closed if ramps => self.happened(Happening::RampFinished { pop }),
                StateName::Closed => {}
                state => self.transition(pop.as_ref(), state, StateName::Closed, None, None),
            }
        }
    }
}
