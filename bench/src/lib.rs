//! What Rampmeter costs, measured. docs/benchmarks.md says how to run these and
//! keeps what they printed.

pub mod envoy;
pub mod usage;
