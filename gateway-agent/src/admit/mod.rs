//! What requests and the control side share, without a lock: the stance and the
//! way that are read, the leases that are claimed, the counts that are written.

pub mod backend;
pub mod gate;
pub mod lease;
pub mod permit;
mod places;
pub(crate) mod queue;
pub mod quota;
mod readmit;
pub mod recorder;
pub mod refusal;
pub mod service;
pub mod snapshot;
pub mod stance;
pub mod steer;
pub mod way;
