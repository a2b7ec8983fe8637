//! The control plane limits itself: if many backends seem to fail at once, our
//! own telemetry is the likelier suspect.

use std::time::Duration;

use crate::{
    breaker::{Breaker, Circuit},
    time::Timestamp,
};

/// Share of all backends that may be opened within [`SPAN`].
pub const MAX_OPEN_SHARE: f64 = 0.5;

/// How long an opening counts.
pub const SPAN: Duration = Duration::from_mins(1);

/// Whether one more backend may be opened for the fleet. `breakers` are all of
/// them, so that every replica that holds the same decisions answers the same.
/// One may always be opened; of three, two.
///
/// Backends that relapse before their trips are forgotten are not counted:
/// those that stay dead for long must not keep the others from being opened.
pub fn may_open<'a>(
    breakers: impl Iterator<Item = &'a Breaker>,
    max_open_share: f64,
    now: Timestamp,
) -> bool {
    let (mut all, mut opened) = (0_u32, 0_u32);
    for breaker in breakers {
        all += 1;
        let first_opened = match &breaker.fleet {
            Circuit::Open {
                since, trips: 1, ..
            } => Some(*since),
            Circuit::HalfOpen {
                since,
                trips: 1,
                last_open,
                ..
            } => Some(*since - *last_open),
            Circuit::Open { .. } | Circuit::HalfOpen { .. } | Circuit::Closed { .. } => None,
        };
        opened += u32::from(first_opened.is_some_and(|at| now.since(at) < SPAN));
    }
    let limit = (f64::from(all) * max_open_share).ceil().max(1.0);
    f64::from(opened) < limit
}
