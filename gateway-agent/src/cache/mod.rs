//! Kept answers: for an emergency always, and instead of asking where a service
//! wants that (`fallback.serve_fresh`).
//!
//! What may be kept, for how long and for whom is decided by pure functions of a
//! request, a response and the time: `directives`, `freshness`, `keeping`, `key`,
//! `conditional`. `store` holds answers of all cores within one bound; `fill` copies
//! an answer into it while it streams to its client; `flight` lets concurrent
//! misses of one core wait for the first; `run` is the thread through all of it.
//! Services without a fallback pay for none of this.
//!
//! RFC 9111 (caching), RFC 5861 (stale answers), RFC 9211 (`Cache-Status`), RFC 9213
//! (`CDN-Cache-Control`), from a shared cache's side.

pub(crate) mod answer;
pub(crate) mod conditional;
pub mod directives;
pub(crate) mod fill;
pub(crate) mod flight;
pub(crate) mod freshness;
pub(crate) mod keeping;
pub(crate) mod kept;
pub(crate) mod key;
pub(crate) mod outage;
pub(crate) mod question;
pub(crate) mod run;
pub mod store;
pub(crate) mod stored;
