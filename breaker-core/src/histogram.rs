//! Latencies in a log-linear histogram: 32 sub-buckets per octave of
//! microseconds, so that an error is at most 1.6 %, merged by adding counts.

/// Sub-buckets of one octave.
const PER_OCTAVE: u64 = 32;

/// Buckets needed for 1 µs to 2³⁶ µs (19 hours).
pub const BUCKETS: usize = 32 * 32;

/// Bucket of a latency in microseconds. The first two octaves of buckets are
/// exact; what is longer than the last bucket counts in it.
pub const fn bucket(micros: u64) -> usize {
    if micros < PER_OCTAVE {
        return micros as usize;
    }
    // The position of the highest bit is the octave, the five bits below it the
    // sub-bucket.
    let shift = micros.ilog2() - PER_OCTAVE.ilog2();
    let index = (shift as u64 * PER_OCTAVE + (micros >> shift)) as usize;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// Middle of a bucket, in microseconds.
pub const fn middle(bucket: usize) -> u64 {
    let bucket = if bucket < BUCKETS {
        bucket as u64
    } else {
        BUCKETS as u64 - 1
    };
    if bucket < 2 * PER_OCTAVE {
        return bucket;
    }
    let shift = bucket / PER_OCTAVE - 1;
    let first = (bucket % PER_OCTAVE + PER_OCTAVE) << shift;
    first + (1 << shift) / 2
}

/// Latency below which the share `q` (0 to 1) of the counts lies, in
/// microseconds; `counts` are (bucket, count) in rising order of buckets. `None`
/// without counts.
pub fn quantile(counts: impl Iterator<Item = (usize, u64)> + Clone, q: f64) -> Option<u64> {
    let total: u64 = counts.clone().map(|(_, n)| n).fold(0, u64::saturating_add);
    let rank = ((total as f64 * q.clamp(0.0, 1.0)).ceil() as u64).max(1);
    let mut seen = 0_u64;
    for (bucket, n) in counts {
        seen = seen.saturating_add(n);
        if seen >= rank {
            return Some(middle(bucket));
        }
    }
    None
}
