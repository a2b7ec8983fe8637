//! Random numbers for phases and spreads. Nothing secret depends on them.

/// Any 64 bits.
pub(crate) fn random() -> u64 {
    // Either half has bits that are always the same, in different places.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(32)
}

/// Uniform in [0, 1).
pub(crate) fn uniform() -> f64 {
    unit(random())
}

/// 64 random bits as a number in [0, 1).
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_numbers_are_spread_over_all_of_the_range() {
        let mut quarters = [0; 4];
        for _ in 0..4000 {
            quarters[(uniform() * 4.0) as usize] += 1;
        }
        assert!(
            quarters.iter().all(|n| (800..1200).contains(n)),
            "{quarters:?}"
        );
    }
}
