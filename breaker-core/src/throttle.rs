//! Overload is metered, not broken: adaptive throttling (Google SRE book, ch. 21)
//! over the whole fleet's sums instead of one client's.

use crate::time::Timestamp;

/// The share of a backend's demand that is let through, below 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttle {
    /// 0 to 1.
    pub admission: f64,
    /// Since when there is one.
    pub since: Timestamp,
    /// When `admission` last changed: it rises by so much a second.
    pub changed: Timestamp,
}
