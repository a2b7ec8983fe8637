//! What an agent shows of itself: one read-only port and its pages.

pub mod metrics;
pub mod port;
mod service_metrics;
mod sight_metrics;
pub mod state;
