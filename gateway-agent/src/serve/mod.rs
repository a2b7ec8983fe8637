//! Clients: taking their connections, and holding each to its time limits.

pub(crate) mod capacity;
pub(crate) mod connection;
mod descriptors;
pub(crate) mod executor;
pub(crate) mod framing;
pub mod handover;
pub mod listener;
mod meter;
pub(crate) mod opening;
pub(crate) mod places;
pub mod proxy_protocol;
pub(crate) mod pulse;
pub mod server;
pub(crate) mod stalled;
pub(crate) mod tls;
pub(crate) mod tunnel;
pub(crate) mod watched;
mod websocket;
