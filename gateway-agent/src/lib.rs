//! The gateway agent: a reverse proxy that obeys the fleet's decisions.
//!
//! Requests read an atomically swapped table and write counters of their own
//! core. Everything that talks to the control plane runs beside them.

pub mod admin;
pub mod agent;
pub mod alone;
mod answer;
pub mod apply;
mod body;
mod classify;
pub mod cli;
pub mod clock;
pub mod configuration;
mod connection;
pub mod control;
mod dice;
pub mod drive;
mod exchange;
mod executor;
mod forward;
pub mod gate;
mod headers;
mod intake;
pub mod lease;
mod lent;
pub mod limits;
pub mod link;
pub mod listener;
pub mod local;
pub mod memory;
pub mod metrics;
mod path;
mod pool;
mod proxy;
mod pulse;
pub mod recorder;
mod relay;
pub mod report;
mod router;
pub mod server;
mod session;
pub mod snapshot;
pub mod stance;
pub mod state;
pub mod state_dir;
pub mod stream;
mod upload;
mod upstream;
mod watchdog;
pub mod watched;

#[cfg(test)]
mod agent_tests;
#[cfg(test)]
mod apply_tests;
#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod proxy_tests;
#[cfg(test)]
mod stream_tests;
