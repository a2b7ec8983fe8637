//! The fleet file: read as typed, then validated once.
//!
//! Whoever holds a [`FleetConfig`] holds valid settings: every reference
//! resolves, every number is in its range, and nothing downstream checks again.
//! A file that is wrong is refused whole, with every mistake named at once,
//! because an operator who fixes one error per attempt makes the outage longer.

mod model;
mod settings;

pub use model::{
    Backend, Endpoint, FleetConfig, HostPattern, PathMatch, Pop, Route, Scheme, Service,
};
pub use settings::{
    Failover, FailoverMode, Fallback, HealthCheck, Limits, Priority, PriorityRule, RequestKey,
    Retry, Throttle, Timeouts,
};
