//! What an agent shows of itself: one read-only port and its pages.

pub mod metrics;
pub mod port;
pub mod state;
