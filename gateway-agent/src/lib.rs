//! The gateway agent: a reverse proxy that obeys the fleet's decisions.
//!
//! Requests read an atomically swapped table and write counters of their own
//! core. Everything that talks to the control plane runs beside them.
//!
//! | folder | what |
//! |---|---|
//! | `serve` | clients' connections |
//! | `request` | one request's way, and our own answers |
//! | `cache` | kept answers: for emergencies, and fresh |
//! | `backend` | upstream connections, one exchange, its outcome |
//! | `admit` | the gate, and what requests share with the control side |
//! | `fleet` | decisions, reports, leases, the local breaker, the stream |
//! | `probe` | active health checks |
//! | `config` | where configuration comes from and is kept |
//! | `sight` | single requests: traces, spans, the access log |
//! | `admin` | `/metrics`, `/healthz`, `/readyz`, `/state` |

pub mod admin;
pub mod admit;
pub mod agent;
mod backend;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
mod dice;
pub mod fleet;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod limits;
pub mod probe;
mod request;
pub mod serve;
mod short;
mod sight;
mod sockets;
mod stream;

#[cfg(test)]
mod tests;
