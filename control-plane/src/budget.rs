//! The blast-radius limit: when very many backends open within a minute, our own
//! view is the likelier suspect. Derived from the committed breakers alone, so
//! every replica comes to the same answer.

use std::time::Duration;

use breaker_core::{BackendName, Circuit, Timestamp};

use crate::board::Board;

/// At most this share of all backends opens within [`SPAN`] (decisions.md §3).
const MAX_OPEN_SHARE: f64 = 0.5;

/// Over which trips are counted.
const SPAN: Duration = Duration::from_secs(60);

/// Backends that may open in any case: in a small fleet half of it is next to
/// nothing, and two regions of one service do fail together.
const ALWAYS: usize = 2;

/// Whether one more backend may open now.
pub fn may_open(board: &Board, name: &BackendName, now: Timestamp) -> bool {
    let all = board.all();
    let others = all.iter().filter(|(other, _)| other != name);
    let opened = others
        .filter(|(_, seen)| opened_lately(&seen.breaker.fleet, now))
        .count();
    allowed(all.len(), opened)
}

fn allowed(backends: usize, opened: usize) -> bool {
    let limit = (backends as f64 * MAX_OPEN_SHARE) as usize;
    opened < limit.max(ALWAYS)
}

/// A first trip counts; opening again after a failed trial is the same outage.
fn opened_lately(circuit: &Circuit, now: Timestamp) -> bool {
    match circuit {
        Circuit::Open { since, trips, .. } => *trips <= 1 && now.since(*since) < SPAN,
        Circuit::Closed { .. } | Circuit::HalfOpen { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_fleet_may_open_within_a_minute_and_two_backends_always() {
        let cases = [
            (1, 0, true),
            (2, 1, true),
            (2, 2, false),
            (3, 2, false),
            (10, 4, true),
            (10, 5, false),
            (1000, 499, true),
            (1000, 500, false),
        ];
        for (backends, opened, expected) in cases {
            assert_eq!(
                allowed(backends, opened),
                expected,
                "{opened} of {backends}"
            );
        }
    }

    #[test]
    fn only_first_trips_of_the_last_minute_count() {
        let since = Timestamp::from_millis(1_000_000);
        let open = |trips| Circuit::Open {
            since,
            until: since + Duration::from_secs(30),
            trips,
        };
        assert!(opened_lately(&open(1), since + Duration::from_secs(59)));
        assert!(!opened_lately(&open(1), since + Duration::from_secs(60)));
        assert!(!opened_lately(&open(2), since));
    }
}
