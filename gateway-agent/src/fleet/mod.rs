//! The control side: what the fleet decides comes in, what this agent saw goes
//! out, and a breaker of its own stands in where the fleet cannot act.

pub mod apply;
pub mod control;
pub mod drive;
pub mod link;
pub mod local;
pub mod report;
mod session;
pub mod steered;
pub mod stream;
mod told;
pub mod watched;
