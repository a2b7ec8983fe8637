//! The fleet file, and the file of an agent's host: read as typed, then validated
//! once.
//!
//! Whoever holds a [`FleetConfig`] holds valid settings: every reference
//! resolves, every number is in its range, and nothing downstream checks again.
//! A file that is wrong is refused whole, with every mistake named at once,
//! because an operator who fixes one error per attempt makes the outage longer.

mod backends;
mod diff;
mod error;
mod fleet;
mod host;
mod model;
mod read;
mod references;
mod routes;
mod sections;
mod settings;
mod thresholds;
mod tree;
mod units;
mod values;

pub use diff::diff;
pub use error::{ConfigError, ConfigErrors};
pub use host::{
    AccessLog, AddressRange, CacheBytes, ClientAuth, HostConfig, HostLimits, Listener, ListenerTls,
    Tracing,
};
pub use model::{
    Backend, Endpoint, FleetConfig, HostPattern, PathMatch, Pop, Route, Scheme, Service,
};
pub use settings::{
    Ejection, Failover, FailoverMode, Fallback, HealthCheck, KeyPair, Limits, Priority,
    PriorityRule, Probe, RequestKey, Retry, Throttle, Timeouts, UpstreamProtocol, UpstreamTls,
};
pub use tree::MAX_FILE_BYTES;
pub use units::{duration as parse_duration, share as parse_share};
