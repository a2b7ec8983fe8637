//! The gateway agent: a reverse proxy that obeys the fleet's decisions.
//!
//! Requests read an atomically swapped table and write counters of their own
//! core. Everything that talks to the control plane runs beside them.

pub mod clock;
pub mod gate;
pub mod recorder;
pub mod snapshot;
pub mod stance;

mod answer;
mod body;
mod classify;
mod connection;
mod exchange;
mod executor;
mod forward;
mod headers;
mod intake;
pub mod limits;
pub mod listener;
mod path;
mod pool;
mod proxy;
mod relay;
mod router;
pub mod server;
mod upload;
mod upstream;
mod watchdog;

#[cfg(test)]
mod proxy_tests;
