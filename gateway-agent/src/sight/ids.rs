//! Random ids and draws, for one core: no lock, and the system is asked for
//! randomness once.

use std::cell::Cell;

use crate::{
    dice,
    sight::context::{SpanId, TraceId},
};

/// xoshiro256++ (Blackman and Vigna, <https://prng.di.unimi.it/>): cores and
/// agents that are seeded by the system do not meet within any number of ids
/// that matters. Not for secrets.
#[derive(Debug)]
pub(crate) struct Ids(Cell<[u64; 4]>);

impl Ids {
    /// Seeded by the system.
    pub(crate) fn new() -> Self {
        let mut seed = [0; 4].map(|_: u64| dice::random());
        // All zero is the one state that it does not leave.
        seed[0] |= 1;
        Self(Cell::new(seed))
    }

    /// Any 64 bits.
    fn next(&self) -> u64 {
        let [a, b, c, d] = self.0.get();
        let next = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.0.set([a ^ d, b ^ c, c ^ b << 17, d.rotate_left(45)]);
        next
    }

    /// A new trace's.
    pub(crate) fn trace(&self) -> TraceId {
        let id = u128::from(self.next()) << 64 | u128::from(self.next());
        TraceId(id.max(1))
    }

    /// A new span's.
    pub(crate) fn span(&self) -> SpanId {
        SpanId(self.next().max(1))
    }

    /// Whether one of `share`, 0 to 1, is it. Certain at both ends.
    pub(crate) fn draw(&self, share: f64) -> bool {
        share >= 1.0 || (share > 0.0 && dice::unit(self.next()) < share)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_is_the_generator_that_its_name_says() {
        // The reference implementation's first numbers from this state.
        let ids = Ids(Cell::new([1, 2, 3, 4]));
        let first = [0; 5].map(|_: u64| ids.next());
        let expected = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
            9_228_616_714_210_784_205,
        ];
        assert_eq!(first, expected);
    }

    #[test]
    fn ids_differ_also_between_cores() {
        let cores = [0; 4].map(|_: u8| Ids::new());
        let ids = cores
            .iter()
            .flat_map(|core| (0..1000).map(|_| core.trace().0));
        assert_eq!(ids.collect::<HashSet<_>>().len(), 4000);
    }

    #[test]
    fn a_share_is_drawn() {
        let ids = Ids::new();
        let drawn = |share| (0..10_000).filter(|_| ids.draw(share)).count();
        assert_eq!((drawn(0.0), drawn(1.0)), (0, 10_000));
        assert!((2200..2800).contains(&drawn(0.25)));
    }
}
