//! Learned capacity against a model that keeps every load.

use breaker_core::{Timestamp, capacity::LearnedCapacity};
use proptest::prelude::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

/// Loads, at most one a second, in requests a second.
#[derive(Default)]
struct Naive {
    loads: Vec<f64>,
    last: Option<u64>,
}

impl Naive {
    fn observe(&mut self, load: f64, millis: u64) {
        if self.last.is_none_or(|last| millis - last >= 1000) {
            self.last = Some(millis);
            self.loads.push(load);
        }
    }

    fn capacity(&self) -> Option<f64> {
        let mut loads = self.loads.clone();
        loads.sort_by(f64::total_cmp);
        let rank = (loads.len() as f64 * 0.95).ceil() as usize;
        let borne = loads.get(rank.max(1) - 1)?;
        (loads.len() >= 60 && *borne >= 0.001).then_some(borne * 1.3)
    }
}

proptest! {
    #[test]
    fn it_knows_what_was_often_borne(
        loads in prop::collection::vec((prop_oneof![0.0..10.0, 0.0..5000.0], 300..2500_u64), 0..300)
    ) {
        let (mut learned, mut naive) = (LearnedCapacity::default(), Naive::default());
        let mut now = 0;
        for (load, wait) in loads {
            learned.observe(load, at(now));
            naive.observe(load, now);
            now += wait;
            match (learned.capacity(), naive.capacity()) {
                (Some(learned), Some(naive)) => {
                    // The histogram errs by 1.6 %, and counts thousandths.
                    prop_assert!((learned - naive).abs() <= 0.016 * naive + 0.002, "{learned} {naive}");
                }
                (learned, naive) => prop_assert_eq!(learned, naive),
            }
        }
    }
}

/// Sees a load for so many seconds from `from`, also in seconds.
fn see(learned: &mut LearnedCapacity, load: f64, from: u64, seconds: u64) -> u64 {
    for second in from..from + seconds {
        learned.observe(load, at(second * 1000));
    }
    from + seconds
}

fn about(learned: &LearnedCapacity, capacity: f64) {
    let known = learned.capacity().expect("known");
    assert!((known - capacity).abs() <= 0.016 * capacity, "{known}");
}

#[test]
fn a_resumed_capacity_holds_through_most_of_a_day_of_lower_loads() {
    let mut learned = LearnedCapacity::resume(1300.0);
    about(&learned, 1300.0);
    let now = see(&mut learned, 100.0, 0, 60_000);
    about(&learned, 1300.0);
    see(&mut learned, 100.0, now, 10_000);
    about(&learned, 130.0);
}

#[test]
fn a_busier_hour_of_the_day_counts_and_a_peak_of_a_minute_does_not() {
    let mut learned = LearnedCapacity::default();
    let now = see(&mut learned, 100.0, 0, 22 * 3600);
    let now = see(&mut learned, 900.0, now, 60);
    about(&learned, 130.0);
    see(&mut learned, 200.0, now, 2 * 3600);
    about(&learned, 260.0);
}

#[test]
fn what_was_borne_weeks_ago_is_forgotten() {
    const DAY: u64 = 24 * 3600;
    let mut learned = LearnedCapacity::default();
    let now = see(&mut learned, 1000.0, 0, 7 * DAY);
    let now = see(&mut learned, 100.0, now, 7 * DAY);
    about(&learned, 1300.0);
    see(&mut learned, 100.0, now, 14 * DAY);
    about(&learned, 130.0);
}

#[test]
fn loads_that_are_no_numbers_do_not_count() {
    let mut learned = LearnedCapacity::default();
    let now = see(&mut learned, f64::NAN, 0, 60);
    let now = see(&mut learned, f64::INFINITY, now, 60);
    let now = see(&mut learned, -1.0, now, 60);
    assert_eq!(learned.capacity(), None);
    see(&mut learned, 10.0, now, 60);
    about(&learned, 13.0);
}
