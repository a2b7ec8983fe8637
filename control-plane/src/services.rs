//! What readers and operators ask.

pub mod fleet;
pub mod operator;
mod paging;
pub mod status;
