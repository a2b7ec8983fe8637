//! Random numbers for phases and spreads. Nothing secret depends on them.

/// Any 64 bits.
pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

/// Uniform in [0, 1).
pub(crate) fn uniform() -> f64 {
    unit(random())
}

/// 64 random bits as a number in [0, 1).
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
