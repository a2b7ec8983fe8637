//! How a breaker moves: one pure step for each input.

mod entering;
mod metering;
mod overrides;
mod reset;
mod ticks;
mod trials;

use std::time::Duration;

pub(crate) use ticks::served_part;

use crate::{
    breaker::{Breaker, Happening, Input, Step},
    policy::BreakerPolicy,
    time::Timestamp,
};

/// A backend's own Retry-After counts up to this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Least admission of a ramp.
pub const RAMP_FLOOR: f64 = 0.1;

/// A circuit that closed stays so for at least one exchange between replicas at
/// the hot rate: until then another replica may still be judging older figures.
pub const MIN_DWELL: Duration = Duration::from_millis(100);

impl Breaker {
    /// Takes one step. Pure: the caller commits `next`, or drops it.
    pub fn step(&self, input: Input<'_>, policy: &BreakerPolicy, now: Timestamp) -> Step {
        let mut stepping = Stepping {
            next: self.clone(),
            policy,
            now,
            changed: false,
            happenings: Vec::new(),
        };
        stepping.expire_override();
        stepping.lose_leases();
        match input {
            Input::Tick {
                verdict,
                retry_after,
                jitter,
                may_open,
                load,
            } => {
                let opening = Opening {
                    retry_after,
                    jitter,
                };
                stepping.tick(verdict, opening, may_open);
                stepping.meter(load);
            }
            Input::Grant { pop, lease } => stepping.grant(pop, lease),
            Input::Trial {
                lease,
                outcome,
                retry_after,
                jitter,
            } => stepping.end_trial(
                lease,
                outcome,
                Opening {
                    retry_after,
                    jitter,
                },
            ),
            Input::Probe {
                pop,
                succeeded,
                interval,
            } => stepping.stand_in(pop, succeeded, interval),
            Input::Override(over) => stepping.set_override(over),
            Input::Reset => stepping.reset(),
        }
        stepping.finish()
    }
}

/// What the length of an open period depends on, besides policy and trips.
#[derive(Clone, Copy)]
struct Opening {
    retry_after: Option<Duration>,
    jitter: f64,
}

impl Opening {
    fn duration(self, policy: &BreakerPolicy, trips_before: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(trips_before);
        let base = policy
            .open_duration
            .saturating_mul(doubled)
            .min(policy.max_open_duration);
        let spread = 0.8 + 0.4 * self.jitter.clamp(0.0, 1.0);
        let asked = self.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        base.mul_f64(spread).max(asked)
    }
}

/// A step in the making.
struct Stepping<'a> {
    next: Breaker,
    policy: &'a BreakerPolicy,
    now: Timestamp,
    changed: bool,
    happenings: Vec<Happening>,
}

impl Stepping<'_> {
    fn finish(mut self) -> Step {
        let wake_at = self.next.wake_at(self.policy, self.now);
        self.next.version.revision += 1;
        Step {
            next: self.changed.then_some(self.next),
            happenings: self.happenings,
            wake_at,
        }
    }

    fn happened(&mut self, happening: Happening) {
        self.changed = true;
        self.happenings.push(happening);
    }
}
