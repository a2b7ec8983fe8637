//! Agents' streams in, decisions out.

pub mod store;
