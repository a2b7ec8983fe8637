//! Which failures are worth another attempt, how long to wait before it, and how
//! many attempts a service may cause in all. Pure: time and dice are arguments.
//!
//! The budget is what keeps retries from turning a backend's bad minute into its
//! outage: whatever fails, they add a fixed share to the load and no more
//! (Finagle and linkerd do the same). It counts in whole seconds over a window,
//! because a bucket that fills for as long as all is well would pay out a storm
//! at the moment when nothing is.

use std::time::Duration;

use fleet_config::Retry;
use http::{HeaderMap, StatusCode, header};

/// Over how many seconds requests and retries are weighed against each other:
/// long enough that a burst has its share, short enough that an hour without
/// failures does not pay for a storm.
const WINDOW_SECONDS: usize = 10;

/// Retries a second that a service may always have, over the whole agent: a share
/// of very few requests would be none.
const FLOOR_PER_SECOND: usize = 3;

/// Most of a request's body that is kept for another attempt.
pub(crate) const MAX_KEPT_BYTES: usize = 64 << 10;

/// Whether a backend's answer is one that another attempt may better: it says
/// that something in between failed, and not that there is too much to do.
pub(crate) fn is_worth_it(
    settings: &Retry,
    grpc: bool,
    status: StatusCode,
    headers: &HeaderMap,
) -> bool {
    match status {
        // In a header, this is a call that ended before it began.
        StatusCode::OK if grpc => {
            let code = headers.get("grpc-status").and_then(|v| v.to_str().ok());
            let code = code.and_then(|code| code.parse().ok());
            let named = code.is_some_and(|code| settings.grpc_codes.contains(&code));
            named && !headers.contains_key("grpc-retry-pushback-ms")
        }
        _ if grpc => false,
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => true,
        // With the field, whatever it says, it is an overload that was meant.
        StatusCode::SERVICE_UNAVAILABLE => !headers.contains_key(header::RETRY_AFTER),
        _ => false,
    }
}

/// How long to wait before the `nth` retry, from 1: anything up to a bound that
/// doubles each time ("full jitter"), so that what failed together does not come
/// back together. `roll` is uniform in [0, 1).
pub(crate) fn backoff(settings: &Retry, nth: u32, roll: f64) -> Duration {
    let doublings = nth.saturating_sub(1).min(16);
    settings
        .base_backoff
        .saturating_mul(1 << doublings)
        .mul_f64(roll)
}

/// How many retries one core may cause for one service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget {
    seconds: [Second; WINDOW_SECONDS],
}

/// What happened in one second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    /// Which one, from any start.
    at: u64,
    requests: u64,
    retries: u64,
}

impl Budget {
    /// A request, which is no retry itself, came in this second.
    pub(crate) fn request(&mut self, now: u64) {
        self.second(now).requests += 1;
    }

    /// Takes a retry out of the budget, if one is left: `percent` of the window's
    /// requests, or one core's part of what is always allowed if that is more.
    pub(crate) fn take(&mut self, now: u64, percent: f64, cores: usize) -> bool {
        self.second(now);
        let (mut requests, mut retries) = (0, 0);
        for second in &self.seconds {
            if now.saturating_sub(second.at) < WINDOW_SECONDS as u64 {
                requests += second.requests;
                retries += second.retries;
            }
        }
        let share = (requests as f64 * percent / 100.0) as u64;
        let left = retries < share.max(floor(cores));
        if left {
            self.second(now).retries += 1;
        }
        left
    }

    fn second(&mut self, now: u64) -> &mut Second {
        let second = &mut self.seconds[(now % WINDOW_SECONDS as u64) as usize];
        if second.at != now {
            *second = Second {
                at: now,
                ..Second::default()
            };
        }
        second
    }
}

/// One core's part of what is always allowed in a window, one at least.
fn floor(cores: usize) -> u64 {
    (FLOOR_PER_SECOND * WINDOW_SECONDS / cores.max(1)).max(1) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_failed_on_the_way_is_worth_it_and_what_is_too_much_is_not() {
        let settings = Retry {
            grpc_codes: vec![14],
            ..Retry::default()
        };
        for (grpc, status, fields, expected) in [
            (false, 502, &[][..], true),
            (false, 504, &[], true),
            (false, 503, &[], true),
            (false, 503, &[("retry-after", "0")], false),
            (false, 503, &[("retry-after", "soon")], false),
            (false, 429, &[], false),
            (false, 500, &[], false),
            (false, 200, &[], false),
            (true, 200, &[("grpc-status", "14")], true),
            (
                true,
                200,
                &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "5")],
                false,
            ),
            (true, 200, &[("grpc-status", "8")], false),
            (true, 200, &[("grpc-status", "what")], false),
            (true, 200, &[], false),
            (true, 502, &[], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, value.parse().expect("a value"));
            }
            let status = StatusCode::from_u16(status).expect("a status");
            let found = is_worth_it(&settings, grpc, status, &headers);
            assert_eq!(found, expected, "{grpc} {status} {fields:?}");
        }
    }

    #[test]
    fn waits_are_anything_up_to_a_bound_that_doubles() {
        let settings = Retry::default();
        for (nth, bound) in [(1, 25), (2, 50), (3, 100)] {
            assert_eq!(backoff(&settings, nth, 0.0), Duration::ZERO);
            let longest = backoff(&settings, nth, 0.999_999).as_secs_f64() * 1e3;
            assert!((bound as f64 - longest).abs() < 0.01, "{nth}: {longest}");
        }
    }

    #[test]
    fn a_quiet_service_may_always_have_its_part_of_three_a_second() {
        for (cores, allowed) in [(1, 30), (2, 15), (8, 3), (64, 1)] {
            let mut budget = Budget::default();
            let taken = (0..100).filter(|_| budget.take(7, 20.0, cores)).count();
            assert_eq!(taken, allowed, "{cores} cores");
        }
    }

    #[test]
    fn an_hour_without_failures_does_not_pay_for_a_storm() {
        let mut budget = Budget::default();
        for second in 0..3600 {
            for _ in 0..100 {
                budget.request(second);
            }
        }
        let taken = (0..10_000).filter(|_| budget.take(3600, 20.0, 1)).count();
        assert_eq!(taken, 180, "20 % of the last nine seconds");
    }

    proptest! {
        /// Against a model that keeps every event.
        #[test]
        fn retries_never_exceed_their_share_of_any_window(
            events in prop::collection::vec((0..3u64, any::<bool>()), 1..2000),
            percent in 1.0..100.0f64, cores in 1..9usize,
        ) {
            let (mut budget, mut now) = (Budget::default(), 5u64);
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            for (step, retry) in events {
                now += step / 2;
                let recent = |all: &[u64]| all.iter().filter(|at| now - **at < 10).count() as u64;
                if retry {
                    let allowed = (recent(&requests) as f64 * percent / 100.0) as u64;
                    let allowed = allowed.max((30 / cores as u64).max(1));
                    let taken = budget.take(now, percent, cores);
                    prop_assert_eq!(taken, recent(&retries) < allowed);
                    if taken {
                        retries.push(now);
                    }
                } else {
                    budget.request(now);
                    requests.push(now);
                }
            }
        }
    }
}
