//! What requests and the control side share, without a lock: the stance that is
//! read, the leases that are claimed, the counts that are written.

pub mod gate;
pub mod lease;
pub mod recorder;
pub mod snapshot;
pub mod stance;
