//! The throttle and the mix that shedding is by.

use super::Stepping;
use crate::{
    breaker::{Happening, StateName},
    policy::Mode,
    throttle::{self, Load, Throttle},
};

impl Stepping<'_> {
    pub(super) fn meter(&mut self, load: Option<&Load>) {
        let decides = match self.next.mode(self.policy) {
            Mode::Enforce | Mode::Shadow => true,
            Mode::ForcedOpen | Mode::ForcedClosed | Mode::Disabled => false,
        };
        let closed = self.next.fleet.state() == StateName::Closed;
        if !(decides && closed && self.policy.overload_throttle) {
            self.set_throttle(None, None);
        } else if let Some(load) = load {
            let next = throttle::next(self.next.throttle, load, self.now);
            self.set_throttle(next, Some(load));
        }
        if let Some(load) = load.filter(|_| decides) {
            self.set_mix(load);
        }
    }

    fn set_throttle(&mut self, next: Option<Throttle>, load: Option<&Load>) {
        let before = std::mem::replace(&mut self.next.throttle, next);
        self.changed |= before != next;
        match (before, next) {
            (before, Some(next)) if before.is_none_or(|before| before.told != next.told) => {
                let load = load.copied().unwrap_or_default();
                self.happened(Happening::ThrottleSet {
                    admission: next.admission,
                    accepted: load.per_second(load.accepted),
                    wanted: load.per_second(load.wanted),
                });
            }
            (Some(before), None) => {
                let lasted = self.now.since(before.since);
                self.happened(Happening::ThrottleEnded(lasted));
            }
            (None, None) | (_, Some(_)) => {}
        }
    }

    fn set_mix(&mut self, load: &Load) {
        let admission = self.next.admission(self.policy, None, self.now);
        if let Some(mix) = throttle::next_mix(self.next.mix, load.directed, admission) {
            self.next.mix = mix;
            self.changed = true;
        }
    }
}
