//! Sparse latency histograms: `counts[i]` belongs to the bucket that the deltas
//! up to `i` add up to.

use std::collections::BTreeMap;

use breaker_core::histogram::BUCKETS;

use super::WireError;
use crate::v1;

/// Counts by bucket; sums of histograms are sums of counts.
pub type Buckets = BTreeMap<u32, u64>;

/// To the wire's (deltas, counts).
pub fn sparse(buckets: &Buckets) -> (Vec<u32>, Vec<u32>) {
    let mut before = 0;
    buckets
        .iter()
        .map(|(index, count)| {
            let delta = index - std::mem::replace(&mut before, *index);
            (delta, u32::try_from(*count).unwrap_or(u32::MAX))
        })
        .unzip()
}

/// From the wire's deltas and counts.
pub fn from_sparse(deltas: &[u32], counts: &[u32]) -> Result<Buckets, WireError> {
    let field = "histogram";
    if deltas.len() != counts.len() || deltas.len() > BUCKETS {
        let value = format!("{} deltas, {} counts", deltas.len(), counts.len());
        let allowed = format!("as many counts as deltas, at most {BUCKETS}");
        return Err(WireError::range(field, value, allowed));
    }
    let mut index: u32 = 0;
    let mut buckets = Buckets::new();
    for (delta, count) in deltas.iter().zip(counts) {
        index = index.saturating_add(*delta);
        if index as usize >= BUCKETS {
            let allowed = format!("buckets below {BUCKETS}");
            return Err(WireError::range(field, format!("bucket {index}"), allowed));
        }
        *buckets.entry(index).or_default() += u64::from(*count);
    }
    Ok(buckets)
}

/// From a report.
pub fn from_histogram(wire: &v1::Histogram) -> Result<Buckets, WireError> {
    from_sparse(&wire.index_deltas, &wire.counts)
}

/// Latency in microseconds below which `share` of the counts lie.
pub fn quantile(buckets: &Buckets, share: f64) -> Option<u64> {
    let counts = buckets
        .iter()
        .map(|(index, count)| (*index as usize, *count));
    breaker_core::histogram::quantile(counts, share)
}
