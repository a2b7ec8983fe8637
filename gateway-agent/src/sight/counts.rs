//! What became of what was told. Written where something is lost or goes out,
//! so never by a request whose record finds room.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Since the start, all cores together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Lines of the access log that the system took.
    pub(crate) lines_written: Count,
    /// Lines that were lost: the queue was full, or the file could not be written.
    pub(crate) lines_dropped: Count,
    /// Failures that were not written down because there were too many.
    pub(crate) lines_suppressed: Count,
    /// Spans that the collector took.
    pub(crate) spans_exported: Count,
    /// Spans that were lost: the queue was full, or the collector did not take them.
    pub(crate) spans_dropped: Count,
}
