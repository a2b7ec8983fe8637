//! Clients: taking their connections, and holding each to its time limits.

pub(crate) mod connection;
mod descriptors;
pub(crate) mod executor;
pub mod handover;
pub mod listener;
pub(crate) mod opening;
pub mod proxy_protocol;
pub(crate) mod pulse;
pub mod server;
pub(crate) mod stalled;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod tunnel;
mod websocket;
