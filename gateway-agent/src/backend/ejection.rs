//! For how long an endpoint that fails is left out, and how many may be. Pure: time
//! is an argument.

use std::time::Duration;

use fleet_config::Ejection;

/// An ejection lasts for at most so many times the base: an endpoint that is back
/// must be found in minutes, however long it was away.
const MAX_TIMES: u32 = 10;

/// What is remembered of an endpoint's ejections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// When the last one ends, since any start.
    pub(crate) until: Duration,
    /// How many in a row it was.
    pub(crate) times: u32,
}

impl Record {
    /// Ejected once more: each time in a row for longer, and each period without is
    /// one time less.
    pub(crate) fn ejected(self, now: Duration, settings: &Ejection) -> Self {
        let base = settings.base_ejection_time;
        let good = now.saturating_sub(self.until).as_millis() / base.as_millis().max(1);
        let good = u32::try_from(good).unwrap_or(u32::MAX);
        let times = self.times.saturating_sub(good).min(MAX_TIMES - 1) + 1;
        Self {
            until: now + base * times,
            times,
        }
    }
}

/// Whether another endpoint may be ejected when so many of all are: up to a share
/// of them, and one in any case.
pub(crate) fn may_eject(ejected: usize, all: usize, share: f64) -> bool {
    let allowed = (all as f64 * share) as usize;
    ejected < allowed.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_time_in_a_row_is_longer_and_good_times_are_forgiven() {
        let settings = Ejection::default();
        let mut record = Record::default();
        for (now, times, until) in [
            (0, 1, 30),
            (31, 2, 91),
            (92, 3, 182),
            // One period of 30 s without: as many as before.
            (182 + 31, 3, 213 + 90),
            (10_000, 1, 10_030),
        ] {
            record = record.ejected(now * SECOND, &settings);
            let expected = Record {
                until: until * SECOND,
                times,
            };
            assert_eq!(record, expected, "at {now}");
        }
        for _ in 0..20 {
            record = record.ejected(record.until, &settings);
        }
        assert_eq!(record.times, MAX_TIMES);
    }

    #[test]
    fn half_of_the_endpoints_may_be_ejected_and_one_always() {
        for (all, allowed) in [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let ejected = (0..).find(|n| !may_eject(*n, all, 0.5));
            assert_eq!(ejected, Some(allowed), "of {all}");
        }
    }
}
