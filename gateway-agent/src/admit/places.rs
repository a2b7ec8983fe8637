//! Where requests without a shed key stand among their like.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use breaker_core::Priority;

use crate::dice::{random, unit};

/// 2⁶⁴ divided by the golden ratio: multiples of it spread more evenly than those
/// of any other number (Knuth, TAOCP 3, 6.4, theorem S).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of places in [0, 1): of any n in a row, n · share are below a share,
/// give or take two or three. One core writes it.
#[derive(Debug)]
pub(crate) struct Places(AtomicU64);

impl Default for Places {
    /// Cores and agents start at different phases, so that a fleet of them with
    /// one request each does not admit none, or all.
    fn default() -> Self {
        Self(AtomicU64::new(random()))
    }
}

impl Places {
    pub(crate) fn next(&self) -> f64 {
        let next = self.0.load(Relaxed).wrapping_add(GOLDEN);
        self.0.store(next, Relaxed);
        unit(next)
    }
}

/// One sequence for each priority: what one takes must leave the others even.
#[derive(Debug, Default)]
pub(crate) struct ByPriority([Places; 4]);

impl ByPriority {
    pub(crate) fn next(&self, priority: Priority) -> f64 {
        self.0[priority as usize].next()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_requests_in_a_row_split_by_their_share(
            start in any::<u64>(), share in 0.0..1.0f64, count in 1..5000usize,
        ) {
            let places = Places(AtomicU64::new(start));
            let below = (0..count).filter(|_| places.next() < share).count();
            let off = below as f64 - share * count as f64;
            prop_assert!(off.abs() < 4.0, "{below} of {count} at {share}");
        }
    }
}
