//! Agents' streams in, decisions out.
//!
//! A replica takes in what its agents saw ([`figures`]), shares it with the other
//! replicas through the [`store`], decides ([`coordinator`]), commits, and sends
//! what changed to its agents ([`table`], [`stream`]). Replicas have no leader and
//! keep no state that the store or the agents could not give back.

pub mod accept;
pub mod adoption;
pub mod agents;
pub mod board;
pub mod budget;
pub mod candidate;
pub mod cli;
pub mod clock;
pub mod commit;
pub mod config;
pub mod coordinator;
pub mod drills;
pub mod events;
pub mod figures;
pub mod health;
pub mod http;
pub mod metrics;
pub mod peers;
pub mod plane;
pub mod probes;
pub mod quota;
pub mod serve;
pub mod services;
pub mod settle;
pub mod store;
pub mod stream;
pub mod table;
pub mod wire;

pub use serve::{Listeners, Options, serve};
