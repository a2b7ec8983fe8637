//! The blast-radius limit: when very many backends open within a minute, our own
//! view is the likelier suspect. Derived from the committed breakers alone, so
//! every replica comes to the same answer.

use std::time::Duration;

use crate::{
    breaker::{Breaker, Circuit},
    time::Timestamp,
};

/// At most this share of all backends opens within [`SPAN`].
const MAX_OPEN_SHARE: f64 = 0.5;

/// Over which trips are counted.
const SPAN: Duration = Duration::from_mins(1);

/// Backends that may open in any case: in a small fleet half of it is next to
/// nothing, and two regions of one service do fail together.
const ALWAYS: usize = 2;

/// Whether one more backend may open for the fleet, with all the `others` as
/// they are.
pub fn may_open<'a>(others: impl Iterator<Item = &'a Breaker>, now: Timestamp) -> bool {
    let (mut all, mut opened) = (1_usize, 0_usize);
    for other in others {
        all += 1;
        opened += usize::from(opened_lately(&other.fleet, now));
    }
    let share = (all as f64 * MAX_OPEN_SHARE) as usize;
    opened < share.max(ALWAYS)
}

/// A first trip counts; opening again after a failed trial is the same outage,
/// and what stays dead for long must not keep others from being opened.
fn opened_lately(circuit: &Circuit, now: Timestamp) -> bool {
    let opened = match circuit {
        Circuit::Open { since, .. } => *since,
        Circuit::HalfOpen {
            since, last_open, ..
        } => *since - *last_open,
        Circuit::Closed { .. } => return false,
    };
    circuit.trips() <= 1 && now.since(opened) < SPAN
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn with(fleet: Circuit) -> Breaker {
        Breaker {
            fleet,
            ..Breaker::new(1, NOW)
        }
    }

    fn open(ago: u64, trips: u32) -> Breaker {
        let since = NOW - Duration::from_secs(ago);
        with(Circuit::Open {
            since,
            until: since + Duration::from_secs(300),
            trips,
        })
    }

    #[test]
    fn half_of_a_fleet_may_open_within_a_minute_and_two_backends_always() {
        let cases = [
            (0, 0, true),
            (1, 1, true),
            (2, 2, false),
            (9, 4, true),
            (9, 5, false),
            (999, 499, true),
            (999, 500, false),
        ];
        for (others, opened, expected) in cases {
            let closed = (opened..others).map(|_| Breaker::new(1, NOW));
            let all: Vec<Breaker> = (0..opened).map(|_| open(1, 1)).chain(closed).collect();
            let may = may_open(all.iter(), NOW);
            assert_eq!(may, expected, "{opened} of {others} others");
        }
    }

    #[test]
    fn only_first_trips_of_the_last_minute_count() {
        let half_open = |ago| {
            let since = NOW - Duration::from_secs(ago);
            with(Circuit::HalfOpen {
                since,
                trips: 1,
                last_open: Duration::from_secs(30),
                successes: 0,
                leases: Vec::new(),
                tried: Vec::new(),
            })
        };
        let cases = [
            (open(59, 1), true),
            (open(60, 1), false),
            (open(0, 2), false),
            (half_open(29), true),
            (half_open(30), false),
        ];
        for (breaker, counts) in cases {
            assert_eq!(opened_lately(&breaker.fleet, NOW), counts, "{breaker:?}");
        }
    }
}
