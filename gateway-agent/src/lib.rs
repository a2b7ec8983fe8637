//! The gateway agent: a reverse proxy that obeys the fleet's decisions.
//!
//! Requests read an atomically swapped table and write counters of their own
//! core. Everything that talks to the control plane runs beside them.

pub mod clock;
pub mod gate;
pub mod recorder;
pub mod snapshot;
pub mod stance;
